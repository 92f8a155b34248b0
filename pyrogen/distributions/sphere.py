"""The uniform distribution on a sphere."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pyrogen.numerics.sphere import Sphere, log_area
from pyrogen.numerics.values import require_value

from .distribution import PyrogenDistribution


class UniformSphere(PyrogenDistribution):
    """Unit vectors in any direction, each as likely as any other.

    Args:
        size: How many numbers a vector has.
        like: A tensor whose device and dtype the numbers have.
        batch_shape: Batch dimensions.
        validate_args: Whether values are checked; Pyro's switch if ``None``.

    Example:
        >>> UniformSphere(3, torch.zeros(())).log_prob(torch.tensor([0.0, 0.0, 1.0]))
        tensor(-2.5310)
    """

    has_rsample = True
    support = Sphere()

    def __init__(
        self, size: int, like: Tensor, batch_shape: Iterable[int] = (), *, validate_args: bool | None = None
    ) -> None:
        self.like = like
        super().__init__(torch.Size(batch_shape), torch.Size((size,)), validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> UniformSphere:
        return UniformSphere(self.event_shape[0], self.like, batch_shape, validate_args=False)

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return torch.nn.functional.normalize(torch.randn(shape, dtype=self.like.dtype, device=self.like.device), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        score = value.sum(-1) * 0 - log_area(self.event_shape[0] - 1)  # NaN stays what it is
        return score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))
