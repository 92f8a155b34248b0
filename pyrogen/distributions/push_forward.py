"""Push-forwards: what a function makes of noise, drawn without a density."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from .distribution import PyrogenDistribution


class PushForward(PyrogenDistribution):
    r"""The distribution of :math:`x = f(\varepsilon)`, where :math:`\varepsilon` is noise of a known distribution.

    It draws and has no ``log_prob``: :math:`f` need not be invertible, nor keep the number of dimensions. What needs
    one works on the noise instead, whose density is known (:func:`pyrogen.inverse.in_noise`).

    Args:
        noise: The distribution of noise, of this batch shape.
        function: Takes noise ``(*sample, *batch, *noise_event)`` and gives events ``(*sample, *batch, *event)``. For an
            ``rsample`` that trains, it is differentiable.
        event_shape: Shape of one event.
        support: Where events lie; all real numbers if ``None``. Where it is discrete, wholly or in part, the function
            has no gradient to speak of: then there is no ``rsample``, and no inference in the space of noise.

    Example:
        >>> from pyrogen.distributions import UnitNormal
        >>> noise = UnitNormal((2,), torch.zeros(()))
        >>> circle = PushForward(noise, lambda z: z / z.norm(dim=-1, keepdim=True), (2,))
        >>> circle.sample((3,)).norm(dim=-1).allclose(torch.ones(3))
        True
    """

    density = None

    def __init__(
        self,
        noise: TorchDistributionMixin,
        function: Callable[[Tensor], Tensor],
        event_shape: Iterable[int],
        support: Constraint | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.noise = noise
        self.function = function
        self._support = support
        discrete = support is not None and support.is_discrete
        self.has_rsample, self.has_push_forward = noise.has_rsample and not discrete, not discrete
        super().__init__(noise.batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        if self._support is None:
            return constraints.independent(constraints.real, len(self.event_shape))
        return self._support

    def push_forward(self) -> tuple[TorchDistributionMixin, Callable[[Tensor], Tensor]]:
        if not self.has_push_forward:
            raise NotImplementedError("`push_forward` needs real events, got a discrete support: it has no gradient")
        return self.noise, self.function

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        if not self.has_rsample:
            raise NotImplementedError(
                f"`rsample` needs real events, and noise that has one, got {type(self.noise).__name__} and "
                f"{self.support}; use `sample`"
            )
        return self.function(self.noise.rsample(torch.Size(sample_shape)))

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.function(self.noise.sample(torch.Size(sample_shape)))

    def _expanded(self, batch_shape: torch.Size) -> PushForward:
        noise = self.noise.expand(batch_shape)
        return PushForward(noise, self.function, self.event_shape, self._support, validate_args=False)
