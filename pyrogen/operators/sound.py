"""Recordings: low-pass filters and decimation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pyrogen.arguments import checked, integer, sizes
from pyrogen.arrays import takes_arrays

from .linear import Linear, flattened, floating


class LowPass(Linear):
    r"""A filter of a sound, of which then every so manieth sample is kept.

    .. math:: y_n = \sum_{k=0}^{K-1} h_k \, x_{f n + \lfloor K / 2 \rfloor - k} ,

    with zeros before the beginning and after the end. The filter may be any, and a latent site: the operator is
    differentiable in its taps.

    Args:
        shape: ``(*, length)``.
        taps: The impulse response :math:`h`, of shape ``(K,)``; its middle tap does not delay.
        factor: :math:`f`, of how many samples one is kept.

    Shape:
        ``(*batch, *, length)`` to ``(*batch, *, ceil(length / factor))``.

    Example:
        A recording whose filter is not known:

        >>> import pyro, pyro.distributions as dist
        >>> def recording(y=None):
        ...     x = pyro.sample("x", dist.Normal(torch.zeros(100), 1.0).to_event(1))
        ...     taps = pyro.sample("taps", dist.Normal(torch.zeros(9), 0.3).to_event(1))
        ...     return pyro.sample("y", dist.Normal(LowPass((100,), taps, 2)(x), 0.1).to_event(1), obs=y)
        >>> recording().shape
        torch.Size([50])
    """

    @takes_arrays
    def __init__(self, shape: tuple[int, ...], taps: Tensor, factor: int = 1) -> None:
        super().__init__(sizes(shape, "shape", fewest=1))
        if floating(taps, "taps").dim() != 1 or not len(taps):
            raise ValueError(f"`taps` must have shape (taps,), got {tuple(taps.shape)}")
        self.taps, self.factor = taps, integer(factor, "factor")

    @property
    def output_shape(self) -> tuple[int, ...]:
        return *self.shape[:-1], -(-self.shape[-1] // self.factor)

    def __call__(self, x: Tensor) -> Tensor:
        before, after = self._margins()
        padded = functional.pad(flattened(x, self.shape, "x").reshape(-1, 1, self.shape[-1]), (before, after))
        kept = functional.conv1d(padded, self.taps.to(x).flip(0)[None, None], stride=self.factor)
        return kept.reshape(*x.shape[:-1], kept.shape[-1])

    def adjoint(self, y: Tensor) -> Tensor:
        before, after = self._margins()
        single = flattened(y, self.output_shape, "y").reshape(-1, 1, self.output_shape[-1])
        spread = functional.conv_transpose1d(single, self.taps.to(y).flip(0)[None, None], stride=self.factor)
        return functional.pad(spread, (-before, -after)).reshape(*y.shape[:-1], self.shape[-1])

    def _margins(self) -> tuple[int, int]:
        """How many zeros come before and after, so that the last sample kept has all its taps; fewer are cut off."""
        before = len(self.taps) - 1 - len(self.taps) // 2
        covered = (self.output_shape[-1] - 1) * self.factor + len(self.taps)
        return before, covered - before - self.shape[-1]


@checked
def decimation(shape: tuple[int, ...], factor: int, *, lobes: int = 16) -> LowPass:
    """Every so manieth sample, after a filter against aliasing: a sinc in a Hann window, of gain one at frequency zero.

    Half of what it does to an amplitude is done at the new Nyquist frequency.

    Args:
        shape: ``(*, length)``.
        factor: Of how many samples one is kept.
        lobes: How many zeros the filter has on either side: the more, the steeper.
    """
    reach = integer(lobes, "lobes") * factor
    place = torch.arange(-reach, reach + 1, dtype=torch.double)
    taps = torch.sinc(place / factor) * torch.hann_window(2 * reach + 3, periodic=False, dtype=torch.double)[1:-1]
    return LowPass(shape, (taps / taps.sum()).float(), factor)
