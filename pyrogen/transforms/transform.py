r"""Transforms that give value and log-determinant in one pass.

A :class:`Transform` is torch's, with two methods in place of three: ``forward_and_log_det(x)`` gives
:math:`(y, \log|\det \partial y / \partial x|)` and ``inverse_and_log_det(y)`` gives
:math:`(x, \log|\det \partial x / \partial y|)`. Nothing is cached: what a call returns depends on its arguments and on
the parameters as they are now. :func:`as_transform` gives any torch or Pyro transform these methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import constraints, transforms
from torch.distributions.constraints import Constraint

from pyrogen.distributions.abilities import Density
from pyrogen.numerics.autograd import in_full_precision
from pyrogen.numerics.supports import EachTransform, ends, widened

from .support import image_of


class Transform(transforms.Transform, ABC):
    """A bijection of real events of ``event_dim`` dimensions, in one pass for value and log-determinant.

    Subclasses define :meth:`forward_and_log_det` and :meth:`inverse_and_log_det`. Subclasses that change the shape of
    an event also override ``event_dims``, ``forward_shape`` and ``inverse_shape``.

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
    fills_codomain: bool = True
    """Whether the values are all of the codomain, and nothing else."""

    def __init__(self, event_dim: int, batch_shape: torch.Size = torch.Size()) -> None:
        super().__init__(cache_size=0)
        self.event_dim = event_dim
        self.batch_shape = torch.Size(batch_shape)

    @abstractmethod
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y = f(x)`` of shape ``(*batch, *event)`` and the log-determinant of shape ``batch`` (nats)."""

    @abstractmethod
    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse map and *its* log-determinant, minus that of the forward map (nats)."""

    def image(self, within: Constraint) -> Constraint:
        """The constraint that its values meet if its arguments meet ``within``."""
        return image_of(self, within)

    @property
    def event_dims(self) -> tuple[int, int]:
        """How many dimensions an event has before and after."""
        return self.event_dim, self.event_dim

    @property
    def domain(self) -> Constraint:
        return _real(self.event_dim)

    @property
    def codomain(self) -> Constraint:
        return _real(self.event_dim)

    @property
    def inv(self) -> transforms.Transform:
        return Inverse(self)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return _broadcast_batch(shape, self.event_dim, self.batch_shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return _broadcast_batch(shape, self.event_dim, self.batch_shape)

    def with_cache(self, cache_size: int = 1) -> Transform:
        """Itself: there is no cache that could go stale, whatever ``cache_size`` is."""
        return self

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward_and_log_det(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_log_det(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_log_det(y)[0]


class VectorTransform(Transform):
    """A transform that sees an event of any shape as a vector of ``D`` elements.

    Subclasses define :meth:`forward_vector` and :meth:`inverse_vector`.

    Args:
        event_shape: Shape of one event.
        batch_shape: Batch dimensions of the transform's own parameters.
    """

    def __init__(self, event_shape: tuple[int, ...], batch_shape: torch.Size = torch.Size()) -> None:
        super().__init__(len(event_shape), batch_shape)
        self.event_shape = torch.Size(event_shape)

    @abstractmethod
    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` of shape ``(*batch, D)`` and the log-determinant of shape ``batch``, from ``x`` like ``y``."""

    @abstractmethod
    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`forward_vector` with its own log-determinant."""

    @in_full_precision
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = self.forward_vector(self._flat(x))
        return self._shaped(y), log_det

    @in_full_precision
    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = self.inverse_vector(self._flat(y))
        return self._shaped(x), log_det

    def _flat(self, x: Tensor) -> Tensor:
        if len(self.event_shape) == 1:
            return x
        return x.reshape(*x.shape[: x.dim() - self.event_dim], prod(self.event_shape))

    def _shaped(self, y: Tensor) -> Tensor:
        return y if len(self.event_shape) == 1 else y.reshape(y.shape[:-1] + self.event_shape)


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
    def domain(self) -> Constraint:
        return self.transform.codomain

    @property
    def codomain(self) -> Constraint:
        return self.transform.domain

    @property
    def inv(self) -> Transform:
        return self.transform

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.inverse_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.transform.forward_shape(shape)


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
        self.parts = tuple(map(as_transform, parts))
        dims, needed = [part.event_dims for part in self.parts], 0
        for before, after in reversed(dims):
            needed = max(before, needed + before - after)
        shapes = {part.batch_shape for part in self.parts if part.batch_shape}  # broadcasting them is slow
        super().__init__(max(event_dim, needed), torch.broadcast_shapes(*shapes) if shapes else torch.Size())
        self._last_event_dim = self.event_dim + sum(after - before for before, after in dims)
        self.costly_log_det = any(part.costly_log_det for part in self.parts)
        self.density = next((part.density for part in self.parts if part.density != "exact"), "exact")

    @in_full_precision
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _one_after_another(self.parts, x, self.event_dim)

    @in_full_precision
    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return _one_after_another([part.inv for part in reversed(self.parts)], y, self._last_event_dim)

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

    def image(self, within: Constraint) -> Constraint:
        for part in self.parts:
            within = part.image(within)
        return within

    @property
    def event_dims(self) -> tuple[int, int]:
        return self.event_dim, self._last_event_dim

    @property
    def domain(self) -> Constraint:
        domain = self.parts[0].domain if self.parts else constraints.real
        return widened(domain, self.event_dim)

    @property
    def codomain(self) -> Constraint:
        return widened(self.image(self.domain), self._last_event_dim)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        for part in self.parts:
            shape = part.forward_shape(shape)
        return torch.Size(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        for part in reversed(self.parts):
            shape = part.inverse_shape(shape)
        return torch.Size(shape)


def _one_after_another(parts: Iterable[Transform], x: Tensor, event_dim: int) -> tuple[Tensor, Tensor]:
    total = None
    for part in parts:
        before, after = part.event_dims
        x, log_det = part.forward_and_log_det(x)
        log_det = log_det if event_dim == before else log_det.flatten(before - event_dim).sum(-1)
        total = log_det if total is None else total + log_det
        event_dim += after - before
    batch = x.shape[: x.dim() - event_dim]
    return x, x.new_zeros(batch) if total is None else total.expand(batch)


class Adapted(Transform):
    """A transform of torch's or Pyro's with the methods of ours; what it has cached is forgotten after each pass.

    Args:
        transform: The transform.
    """

    def __init__(self, transform: transforms.Transform) -> None:
        super().__init__(transform.domain.event_dim)
        self.transform = transform
        single = self.event_dims == (0, 0) or isinstance(transform, transforms.AffineTransform)
        between_ends = ends(transform.domain) is not None and ends(transform.codomain) is not None
        self.monotone = single and between_ends and transform.bijective and not isinstance(transform, nn.Module)
        # One of Pyro's that reaches -1 is declared positive.
        self.fills_codomain = type(transform).__module__.startswith("torch.")

    def __repr__(self) -> str:
        return repr(self.transform)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with self._forgetting():
            y = self.transform(x)
            return y, self.transform.log_abs_det_jacobian(x, y)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        with self._forgetting():
            x = self.transform.inv(y)
            return x, -self.transform.log_abs_det_jacobian(x, y)

    def _call(self, x: Tensor) -> Tensor:
        with self._forgetting():
            return self.transform(x)

    def _inverse(self, y: Tensor) -> Tensor:
        with self._forgetting():
            return self.transform.inv(y)

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Nothing that was cached for other parameters is used, nor left behind."""
        parts = [(part, name) for part in parts_of(self.transform) for name in _CACHES if name in vars(part)]
        for part, name in parts:
            setattr(part, name, _CACHES[name])
        try:
            yield
        finally:
            for part, name in parts:
                setattr(part, name, _CACHES[name])

    @property
    def sign(self) -> int | Tensor:
        return self.transform.sign

    @property
    def event_dims(self) -> tuple[int, int]:
        return self.transform.domain.event_dim, self.transform.codomain.event_dim

    @property
    def domain(self) -> Constraint:
        return self.transform.domain

    @property
    def codomain(self) -> Constraint:
        return self.transform.codomain

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size(self.transform.forward_shape(shape))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size(self.transform.inverse_shape(shape))


_CACHES = {"_cached_x_y": (None, None), "_cached_log_scale": None, "_cached_log_detJ": None, "_cached_logDetJ": None}
"""Where torch's and Pyro's transforms keep what they computed last, and what stands there before."""


def parts_of(transform: transforms.Transform) -> list[transforms.Transform]:
    """The transform itself, or the parts of a composition, seen through ``.inv``."""
    if isinstance(transform, transforms.ComposeTransform):
        return [leaf for part in transform.parts for leaf in parts_of(part)]
    if isinstance(transform, transforms.IndependentTransform):
        return [transform, *parts_of(transform.base_transform)]
    if isinstance(transform, transforms._InverseTransform):
        return [transform, *parts_of(transform._inv)]
    return [transform]


def as_transform(transform: transforms.Transform) -> Transform:
    """Any torch or Pyro transform as a :class:`Transform`; one that is so already, as it is."""
    if isinstance(transform, Transform):
        return transform
    if isinstance(transform, transforms.ComposeTransform):
        return Compose(transform.parts, event_dim=transform.domain.event_dim)
    if type(transform) is transforms.StackTransform and transform.dim == -1 and transform.domain.event_dim == 1:
        return Adapted(EachTransform(transform.transforms, -1))  # of which torch keeps the elements apart
    element = _element_of(transform)  # the log-determinants of which torch fails to sum over empty batches
    return Adapted(transform) if element is None else Compose([element], event_dim=transform.domain.event_dim)


def _element_of(transform: transforms.Transform) -> transforms.Transform | None:
    """What torch's ``IndependentTransform``, or its inverse, does to each element; ``None`` of others."""
    if isinstance(transform, transforms.IndependentTransform):
        return transform.base_transform
    if isinstance(transform, transforms._InverseTransform):
        element = _element_of(transform._inv)
        return element if element is None else element.inv
    return None


def _real(event_dim: int) -> Constraint:
    return constraints.real_vector if event_dim == 1 else widened(constraints.real, event_dim)


def _broadcast_batch(shape: torch.Size, event_dim: int, batch_shape: torch.Size) -> torch.Size:
    cut = len(shape) - event_dim
    if cut < 0:
        raise ValueError(f"`shape` must have at least {event_dim} dimensions, got {tuple(shape)}")
    if not batch_shape:
        return torch.Size(shape)
    return torch.broadcast_shapes(shape[:cut], batch_shape) + shape[cut:]
