r"""Transforms that give value and log-determinant in one pass.

A :class:`Transform` is torch's, with two methods in place of three: ``forward_and_log_det(x)`` gives
:math:`(y, \log|\det \partial y / \partial x|)` and ``inverse_and_log_det(y)`` gives
:math:`(x, \log|\det \partial x / \partial y|)`. Nothing is cached: what a call returns depends on its arguments and on
the parameters as they are now.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints, transforms

from pyrogen.distributions.abilities import Density


class Transform(transforms.Transform):
    """A bijection of real events of ``event_dim`` dimensions, in one pass for value and log-determinant.

    Subclasses define :meth:`forward_and_log_det` and :meth:`inverse_and_log_det`. Subclasses that change the shape of
    an event also override ``forward_shape`` and ``inverse_shape``.

    Args:
        event_dim: How many rightmost dimensions one event has; the log-determinant is summed over them.
        batch_shape: Batch dimensions of the transform's own parameters (from a context).
    """

    bijective = True
    event_dim: int = 0  # an attribute, where torch has a property
    density: Density = "exact"
    """What it makes of an exact density."""
    costly_log_det: bool = False
    """Whether the value alone is much cheaper than value and log-determinant."""
    monotone: bool = False
    """Whether each element is mapped by itself, by an increasing function."""

    def __init__(self, event_dim: int, batch_shape: torch.Size = torch.Size()) -> None:
        super().__init__(cache_size=0)
        self.event_dim = event_dim
        self.batch_shape = torch.Size(batch_shape)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y = f(x)`` of shape ``(*batch, *event)`` and the log-determinant of shape ``batch`` (nats)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward pass")

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse map and *its* log-determinant, minus that of the forward map (nats)."""
        raise NotImplementedError(f"{type(self).__name__} has no inverse pass")

    def made_of(self) -> tuple[transforms.Transform, ...]:
        """The transforms it is a composition of, the first applied first; itself if it is none."""
        return (self,)

    @property
    def event_dims(self) -> tuple[int, int]:
        """How many dimensions an event has before and after."""
        return self.domain.event_dim, self.codomain.event_dim

    @property
    def domain(self) -> constraints.Constraint:
        return _real(self.event_dim)

    @property
    def codomain(self) -> constraints.Constraint:
        return _real(self.event_dim)

    @property
    def inv(self) -> transforms.Transform:
        return Inverse(self)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return _broadcast_batch(shape, self.event_dim, self.batch_shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return _broadcast_batch(shape, self.event_dim, self.batch_shape)

    def with_cache(self, cache_size: int = 1) -> Transform:
        """Itself: there is no cache that could go stale, whatever ``cache_size`` asks for."""
        return self

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward_and_log_det(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_log_det(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_log_det(y)[0]


class Inverse(Transform):
    """The inverse of a :class:`Transform`, itself a :class:`Transform`."""

    def __init__(self, transform: Transform) -> None:
        super().__init__(transform.event_dims[1], transform.batch_shape)
        self.transform = transform

    def __repr__(self) -> str:
        return f"Inverse of {repr(self.transform).removesuffix('()')}"

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform.inverse_and_log_det(x)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform.forward_and_log_det(y)

    @property
    def density(self) -> Density:
        return self.transform.density

    @property
    def event_dims(self) -> tuple[int, int]:
        return self.transform.event_dims[::-1]

    @property
    def domain(self) -> constraints.Constraint:
        return self.transform.codomain

    @property
    def codomain(self) -> constraints.Constraint:
        return self.transform.domain

    @property
    def inv(self) -> Transform:
        return self.transform

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.inverse_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.forward_shape(shape)


def forward_and_log_det(transform: transforms.Transform, x: Tensor) -> tuple[Tensor, Tensor]:
    """Value and log-determinant of any torch or Pyro transform, in one pass where it can."""
    if isinstance(transform, Transform):
        return transform.forward_and_log_det(x)
    y = transform(x)
    return y, transform.log_abs_det_jacobian(x, y)


def inverse_and_log_det(transform: transforms.Transform, y: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse value and the inverse's log-determinant of any torch or Pyro transform, in one pass where it can."""
    if isinstance(transform, Transform):
        return transform.inverse_and_log_det(y)
    x = transform.inv(y)
    return x, -transform.log_abs_det_jacobian(x, y)


def event_dims(transform: transforms.Transform) -> tuple[int, int]:
    """How many dimensions an event of any torch or Pyro transform has before and after."""
    if isinstance(transform, Transform):
        return transform.event_dims
    return transform.domain.event_dim, transform.codomain.event_dim


def _real(event_dim: int) -> constraints.Constraint:
    return constraints.real if event_dim == 0 else constraints.independent(constraints.real, event_dim)


def _broadcast_batch(shape: torch.Size, event_dim: int, batch_shape: torch.Size) -> torch.Size:
    cut = len(shape) - event_dim
    if cut < 0:
        raise ValueError(f"`shape` must have at least {event_dim} dimensions, got {tuple(shape)}")
    if not batch_shape:
        return torch.Size(shape)
    return torch.broadcast_shapes(shape[:cut], batch_shape) + shape[cut:]
