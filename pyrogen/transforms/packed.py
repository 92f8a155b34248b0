"""From real numbers to vectors of concatenated parts, each in a support of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

from pyrogen.numerics.autograd import in_full_precision
from pyrogen.numerics.supports import End, Packed, ends, shared

from .interval import Interval
from .transform import Transform, as_transform
from .triangular import bijection_to

Shape = tuple[int, ...]


class Packing(Transform):
    """A vector of real numbers onto vectors strung together of parts, each part onto its own support.

    Parts within intervals keep their number of elements. A simplex, a correlation matrix and the like have fewer real
    numbers than elements, so that the two vectors differ in length. Rounding never takes an element of an interval to
    one of its ends.

    Args:
        support: The parts, all of them continuous.

    Raises:
        NotImplementedError: no bijection is known from the real numbers to a part, or it lacks a log-determinant.

    Example:
        >>> support = Packed([((), constraints.positive), ((2, 3), constraints.simplex)])
        >>> Packing(support)(torch.zeros(5, 5)).shape
        torch.Size([5, 7])
    """

    def __init__(self, support: Packed) -> None:
        super().__init__(1)
        self.support = support
        self.pieces = _pieces(support.parts)
        self.real_sizes = [prod(piece.before) for piece in self.pieces]
        self.sizes = [prod(piece.after) for piece in self.pieces]

    def __repr__(self) -> str:
        return f"Packing({self.support})"

    @property
    def codomain(self) -> constraints.Constraint:
        return self.support

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], sum(self.sizes)))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], sum(self.real_sizes)))

    @in_full_precision
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(self.pieces, x.split(self.real_sizes, -1), strict=True)
        return _joined([piece.forward(part) for piece, part in parts])

    @in_full_precision
    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(self.pieces, y.split(self.sizes, -1), strict=True)
        return _joined([piece.inverse(part) for piece, part in parts])


@dataclass(frozen=True)
class _Part:
    """A part with a transform of its own, between values of two shapes."""

    before: Shape
    after: Shape
    transform: Transform

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._applied(x, self.transform, self.before)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._applied(y, as_transform(self.transform.inv), self.after)

    @staticmethod
    def _applied(x: Tensor, transform: Transform, shape: Shape) -> tuple[Tensor, Tensor]:
        batch = x.shape[:-1]
        y, log_det = transform.forward_and_log_det(x.reshape(batch + shape))
        dim = len(batch)
        log_det = log_det.flatten(dim).sum(-1) if log_det.dim() > dim else log_det
        return (y.flatten(dim) if y.dim() > dim else y.unsqueeze(-1)), log_det


@dataclass(frozen=True)
class _Elements:
    """Parts side by side whose elements lie in intervals, one by one."""

    low: End
    high: End
    size: int
    finite: bool

    @property
    def before(self) -> Shape:
        return (self.size,)

    after = before

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._interval(x).forward_and_log_det(x)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._interval(y).inverse_and_log_det(y)

    def _interval(self, like: Tensor) -> Interval:
        low, high = (end.to(like) if isinstance(end, Tensor) else end for end in (self.low, self.high))
        return Interval(low, high, event_dim=1, finite=self.finite)


@dataclass(frozen=True)
class _Reals:
    """Parts side by side that are real numbers as they are."""

    size: int

    @property
    def before(self) -> Shape:
        return (self.size,)

    after = before

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(x.shape[:-1])

    inverse = forward


_Piece = _Part | _Elements | _Reals


def _pieces(parts: Sequence[tuple[Shape, constraints.Constraint]]) -> list[_Piece]:
    """The parts, those within intervals that stand side by side as one."""
    found: list[_Piece] = []
    waiting: list[tuple[Tensor, Tensor]] = []
    for shape, constraint in parts:
        limits = None if constraint.is_discrete else ends(shared(constraint))
        if limits is not None:
            waiting.append(tuple(_of_elements(end, shape) for end in limits))
            continue
        if waiting:
            found.append(_elements(waiting))
            waiting = []
        found.append(_part(shape, constraint))
    return [*found, _elements(waiting)] if waiting else found


def _of_elements(end: End, shape: Shape) -> Tensor:
    """An end for each element of a part, in a row; in double precision, which becomes that of the values."""
    return torch.as_tensor(end, dtype=torch.float64).expand(shape).reshape(-1)


def _elements(limits: Sequence[tuple[Tensor, Tensor]]) -> _Piece:
    low, high = (torch.cat(side) for side in zip(*limits, strict=True))
    if bool((low == -inf).all()) and bool((high == inf).all()):
        return _Reals(len(low))
    finite = bool(low.isfinite().all()) and bool(high.isfinite().all())
    if finite and bool((low == low[0]).all()) and bool((high == high[0]).all()):
        return _Elements(low[0].item(), high[0].item(), len(low), finite)
    return _Elements(low, high, len(low), finite)


def _part(shape: Shape, constraint: constraints.Constraint) -> _Part:
    transform = as_transform(bijection_to(shared(constraint), shape))
    before = tuple(transform.inverse_shape(torch.Size(shape)))
    transform.forward_and_log_det(torch.zeros(before))  # one without a log-determinant fails here
    return _Part(before, shape, transform)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    values, log_dets = zip(*parts, strict=True)
    return (values[0] if len(values) == 1 else torch.cat(values, -1)), sum(log_dets)


@biject_to.register(Packed)
@transform_to.register(Packed)
def _to_packed(constraint: Packed) -> Packing:
    return Packing(constraint)
