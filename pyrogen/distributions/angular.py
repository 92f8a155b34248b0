"""Uniform angles, alone or beside standard normal numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.angles import Circular
from pyrogen.numerics.supports import widened
from pyrogen.numerics.values import require_value

from .distribution import PyrogenDistribution

_LOG_TURN = math.log(2 * math.pi)


class CircularNoise(PyrogenDistribution):
    r"""Independent angles, uniform on the circle, and standard normal numbers where an element is no angle.

    Whatever number stands for an angle, its density is :math:`1 / 2 \pi`.

    Args:
        event_shape: Shape of one event.
        like: A tensor whose device and dtype the numbers have.
        angles: Boolean, of the event's shape: which elements are angles; all if ``None``.
        batch_shape: Batch dimensions.
        validate_args: Whether values are checked; Pyro's switch if ``None``.

    Example:
        >>> CircularNoise((2,), torch.zeros(())).log_prob(torch.tensor([0.0, 100.0]))
        tensor(-3.6758)
    """

    has_rsample = True

    def __init__(
        self,
        event_shape: Iterable[int],
        like: Tensor,
        angles: Tensor | None = None,
        batch_shape: Iterable[int] = (),
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.like, self.angles = like, angles
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return widened(Circular(self.angles), len(self.event_shape))

    def _expanded(self, batch_shape: torch.Size) -> CircularNoise:
        return CircularNoise(self.event_shape, self.like, self.angles, batch_shape, validate_args=False)

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        numbers = torch.rand(shape, dtype=self.like.dtype, device=self.like.device)
        turned = math.pi * (2 * numbers - 1)
        return turned if self.angles is None else torch.where(self.angles, turned, torch.randn_like(turned))

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        on_circle = value * 0 - _LOG_TURN  # infinities and NaN stay what they are
        if self.angles is None:
            score = on_circle
        else:
            on_line = -0.5 * (torch.where(self.angles, 0.0, value).square() + _LOG_TURN)
            score = torch.where(self.angles, on_circle, on_line)
        score = score.flatten(-len(self.event_shape)).sum(-1) if self.event_shape else score
        return score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))
