"""Transforms in a row, as one: a functional composition without caches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import constraints, transforms

from pyrogen.numerics.autograd import in_full_precision
from pyrogen.numerics.supports import widened

from .support import image
from .transform import Transform, event_dims, forward_and_log_det, inverse_and_log_det


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
        batch_shapes = {part.batch_shape for part in self.parts if isinstance(part, Transform)} - {torch.Size()}
        batch_shape = torch.broadcast_shapes(*batch_shapes) if batch_shapes else torch.Size()
        self._dims = [event_dims(part) for part in self.parts]
        super().__init__(_domain_event_dim(self._dims, event_dim), batch_shape)
        own = [part for part in self.parts if isinstance(part, Transform)]
        self.costly_log_det = any(part.costly_log_det for part in own)
        self.density = next((part.density for part in own if part.density != "exact"), "exact")

    @in_full_precision
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        event_dim, total = self.event_dim, None
        for part, (before, after) in zip(self.parts, self._dims, strict=True):
            x, log_det = forward_and_log_det(part, x)
            log_det = _sum_rightmost(log_det, event_dim - before)
            total = log_det if total is None else total + log_det
            event_dim += after - before
        return x, _filled(total, x, event_dim)

    @in_full_precision
    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        event_dim, total = self.codomain_event_dim, None
        for part, (before, after) in zip(reversed(self.parts), reversed(self._dims), strict=True):
            y, log_det = inverse_and_log_det(part, y)
            log_det = _sum_rightmost(log_det, event_dim - after)
            total = log_det if total is None else total + log_det
            event_dim += before - after
        return y, _filled(total, y, event_dim)

    @in_full_precision
    def _call(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    @in_full_precision
    def _inverse(self, y: Tensor) -> Tensor:
        for part in reversed(self.parts):
            y = part.inv(y)
        return y

    def made_of(self) -> tuple[transforms.Transform, ...]:
        return self.parts

    @property
    def codomain_event_dim(self) -> int:
        """How many rightmost dimensions one event has after the last part."""
        return self.event_dim + sum(after - before for before, after in self._dims)

    @property
    def domain(self) -> constraints.Constraint:
        domain = self.parts[0].domain if self.parts else constraints.real
        return widened(domain, self.event_dim)

    @property
    def codomain(self) -> constraints.Constraint:
        return widened(image(self, self.domain), self.codomain_event_dim)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        for part in self.parts:
            shape = part.forward_shape(shape)
        return torch.Size(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        for part in reversed(self.parts):
            shape = part.inverse_shape(shape)
        return torch.Size(shape)


def _domain_event_dim(dims: list[tuple[int, int]], least: int) -> int:
    needed = 0
    for before, after in reversed(dims):
        needed = max(before, needed + before - after)
    return max(least, needed)


def _sum_rightmost(value: Tensor, dims: int) -> Tensor:
    return value.flatten(-dims).sum(-1) if dims > 0 else value


def _filled(total: Tensor | None, value: Tensor, event_dim: int) -> Tensor:
    batch = value.shape[: value.dim() - event_dim]
    return value.new_zeros(batch) if total is None else total.expand(batch)
