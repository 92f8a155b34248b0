"""Transforms in a row, as one: a functional composition without caches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import constraints, transforms

from .transform import Transform, forward_and_log_det, inverse_and_log_det


class Compose(Transform):
    r"""Several transforms in a row, :math:`f_n \circ \dots \circ f_1`, ours and torch's mixed freely.

    Unlike ``torch.distributions.ComposeTransform`` it makes one pass for value and log-determinant, and caches nothing.

    Args:
        parts: The transforms, the first to be applied first.
        event_dim: At least so many rightmost dimensions of the input are one event; more where a part needs more.

    Example:
        >>> double = Compose([transforms.AffineTransform(0.0, 2.0), transforms.ExpTransform()], event_dim=1)
        >>> double.forward_and_log_det(torch.zeros(3))[1].shape
        torch.Size([])
    """

    def __init__(self, parts: Iterable[transforms.Transform], *, event_dim: int = 0) -> None:
        self.parts = tuple(parts)
        batch_shapes = (part.batch_shape for part in self.parts if isinstance(part, Transform))
        super().__init__(_domain_event_dim(self.parts, event_dim), torch.broadcast_shapes((), *batch_shapes))

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        event_dim, total = self.event_dim, 0.0
        for part in self.parts:
            x, log_det = forward_and_log_det(part, x)
            total = total + _sum_rightmost(log_det, event_dim - part.domain.event_dim)
            event_dim += part.codomain.event_dim - part.domain.event_dim
        return x, _filled(total, x, event_dim)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        event_dim, total = self.codomain_event_dim, 0.0
        for part in reversed(self.parts):
            y, log_det = inverse_and_log_det(part, y)
            total = total + _sum_rightmost(log_det, event_dim - part.codomain.event_dim)
            event_dim += part.domain.event_dim - part.codomain.event_dim
        return y, _filled(total, y, event_dim)

    @property
    def codomain_event_dim(self) -> int:
        """How many rightmost dimensions one event has after the last part."""
        return self.event_dim + sum(part.codomain.event_dim - part.domain.event_dim for part in self.parts)

    @property
    def domain(self) -> constraints.Constraint:
        domain = self.parts[0].domain if self.parts else constraints.real
        return widened(domain, self.event_dim)

    @property
    def codomain(self) -> constraints.Constraint:
        codomain = self.parts[-1].codomain if self.parts else constraints.real
        return widened(codomain, self.codomain_event_dim)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        for part in self.parts:
            shape = part.forward_shape(shape)
        return torch.Size(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        for part in reversed(self.parts):
            shape = part.inverse_shape(shape)
        return torch.Size(shape)


def widened(constraint: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    """The constraint on events of ``event_dim`` dimensions, each part of which meets ``constraint``."""
    missing = event_dim - constraint.event_dim
    if missing <= 0:
        return constraint
    if isinstance(constraint, constraints.independent):
        return constraints.independent(constraint.base_constraint, constraint.reinterpreted_batch_ndims + missing)
    return constraints.independent(constraint, missing)


def _domain_event_dim(parts: tuple[transforms.Transform, ...], least: int) -> int:
    needed = 0
    for part in reversed(parts):
        needed = max(part.domain.event_dim, needed + part.domain.event_dim - part.codomain.event_dim)
    return max(least, needed)


def _sum_rightmost(value: Tensor, dims: int) -> Tensor:
    return value.flatten(-dims).sum(-1) if dims > 0 else value


def _filled(total: Tensor | float, value: Tensor, event_dim: int) -> Tensor:
    batch = value.shape[: value.dim() - event_dim]
    return total.expand(batch) if isinstance(total, Tensor) else value.new_full(batch, total)
