r"""Kernels: how alike two points are, as a function of their Euclidean distance :math:`r`.

==================================  ==============================  ===========================================
:class:`GaussianKernel`             :math:`\exp(-r^2 / 2 h^2)`      smooth; blind to detail finer than h
:class:`LaplaceKernel`              :math:`\exp(-r / h)`            rough: sees sharper differences
:class:`InverseMultiquadricKernel`  :math:`(1 + r^2 / h^2)^{-1/2}`  long tails: far points still count
:class:`DistanceKernel`             :math:`-r`                      the energy distance; no bandwidth to choose
:class:`KernelSum`                  a sum of kernels                several scales at once
==================================  ==============================  ===========================================

All but the last two have a bandwidth :math:`h`, in the units of the distance. Without one it is ``multiple`` times the
median distance between points of a sample (Gretton et al. 2012, "A kernel two-sample test",
https://jmlr.org/papers/v13/gretton12a.html). That of a pooled sample keeps a permutation test valid: the median is the
same whatever the labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrogen.arguments import positive

from .pairwise import squared_distances


class Kernel(ABC):
    """A function of distance."""

    @abstractmethod
    def __call__(self, distance: Tensor) -> Tensor:
        """The similarity of points at these distances, elementwise."""

    def of_squared(self, squared: Tensor) -> Tensor:
        """The similarity of points at these squared distances; its gradient is finite at zero."""
        return self(squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt())

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """The similarity of all pairs, differentiable.

        Shape:
            ``(m, d)`` and ``(n, d)`` to ``(m, n)``.
        """
        center = y.detach().mean(0)  # cdist multiplies matrices, which cancels badly far from the origin
        return self(torch.cdist(x - center, y - center))

    def fitted(self, median: float) -> Kernel:
        """The kernel with its bandwidth set from the median distance, where it was left open."""
        return self

    @property
    def needs_median(self) -> bool:
        """Whether a bandwidth was left open."""
        return False


@dataclass(frozen=True)
class _WithBandwidth(Kernel):
    """A function of distance over a bandwidth, in data units; ``None`` for ``multiple`` times the median distance."""

    bandwidth: float | None = None
    multiple: float = 1.0

    def __post_init__(self) -> None:
        positive(self.multiple, "multiple")
        if self.bandwidth is not None:
            positive(self.bandwidth, "bandwidth")

    def __call__(self, distance: Tensor) -> Tensor:
        return self._profile(distance / self._width)

    def fitted(self, median: float) -> Kernel:
        return self if self.bandwidth is not None else replace(self, bandwidth=self.multiple * median)

    @property
    def needs_median(self) -> bool:
        return self.bandwidth is None

    @property
    def _width(self) -> float:
        if self.bandwidth is None:
            raise ValueError(f"`bandwidth` of {type(self).__name__} must be set, or `fitted` to a median distance")
        return self.bandwidth

    @abstractmethod
    def _profile(self, ratio: Tensor) -> Tensor:
        """The similarity as a function of distance over bandwidth."""


@dataclass(frozen=True)
class GaussianKernel(_WithBandwidth):
    r"""The kernel :math:`\exp(-r^2 / 2 h^2)`."""

    def _profile(self, ratio: Tensor) -> Tensor:
        return torch.exp(-0.5 * ratio.square())

    def of_squared(self, squared: Tensor) -> Tensor:
        return torch.exp(squared * (-0.5 / self._width**2))

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return self.of_squared(squared_distances(x, y))


@dataclass(frozen=True)
class LaplaceKernel(_WithBandwidth):
    r"""The kernel :math:`\exp(-r / h)`."""

    def _profile(self, ratio: Tensor) -> Tensor:
        return torch.exp(-ratio)


@dataclass(frozen=True)
class InverseMultiquadricKernel(_WithBandwidth):
    r"""The kernel :math:`(1 + r^2 / h^2)^{-1/2}`."""

    def _profile(self, ratio: Tensor) -> Tensor:
        return torch.rsqrt(1 + ratio.square())

    def of_squared(self, squared: Tensor) -> Tensor:
        return torch.rsqrt(1 + squared / self._width**2)

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return self.of_squared(squared_distances(x, y))


@dataclass(frozen=True)
class DistanceKernel(Kernel):
    r"""The kernel :math:`-r`: its squared MMD is the energy distance.

    References:
        Sejdinovic et al. 2013, "Equivalence of distance-based and RKHS-based statistics in hypothesis testing",
        https://arxiv.org/abs/1207.6076
    """

    def __call__(self, distance: Tensor) -> Tensor:
        return -distance


@dataclass(frozen=True)
class KernelSum(Kernel):
    """The sum of kernels.

    Args:
        kernels: What is summed.

    Raises:
        ValueError: there is no kernel.
    """

    kernels: tuple[Kernel, ...]

    def __post_init__(self) -> None:
        if not self.kernels:
            raise ValueError("`kernels` must hold at least one kernel, got none")
        strange = [kernel for kernel in self.kernels if not isinstance(kernel, Kernel)]
        if strange:
            raise TypeError(f"`kernels` must hold kernels, got {strange[0]!r}")

    def __call__(self, distance: Tensor) -> Tensor:
        return sum(kernel(distance) for kernel in self.kernels)

    def of_squared(self, squared: Tensor) -> Tensor:
        return sum(kernel.of_squared(squared) for kernel in self.kernels)

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return self.of_squared(squared_distances(x, y))

    def fitted(self, median: float) -> Kernel:
        return KernelSum(tuple(kernel.fitted(median) for kernel in self.kernels))

    @property
    def needs_median(self) -> bool:
        return any(kernel.needs_median for kernel in self.kernels)


def multiscale(
    kernel: type[GaussianKernel] | type[LaplaceKernel] | type[InverseMultiquadricKernel] = GaussianKernel,
    *,
    multiples: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
) -> KernelSum:
    """One kernel at several multiples of the median distance, summed.

    Args:
        kernel: Which kernel.
        multiples: Of the median distance.

    Raises:
        ValueError: there are no multiples, or one is not positive.
    """
    if not len(multiples):
        raise ValueError("`multiples` must hold at least one number, got none")
    return KernelSum(tuple(kernel(multiple=multiple) for multiple in multiples))
