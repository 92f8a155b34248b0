"""Where numbers may lie: intervals, supports of several parts, constraints on single elements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import StackTransform

End = float | Tensor


class OpenInterval(constraints.interval):
    """Numbers strictly between two ends: the image of the real line, which holds neither end.

    Args:
        lower_bound: The lower end, or one for each element; minus infinity where there is none.
        upper_bound: The upper end, likewise.
    """

    def check(self, value: Tensor) -> Tensor:
        return (self.lower_bound < value) & (value < self.upper_bound)

    def __repr__(self) -> str:
        return f"OpenInterval({_said(self.lower_bound)}, {_said(self.upper_bound)})"


class PartlyClosed(constraints.interval):
    """Numbers between two ends, each of which is among them or not: the image of an interval under a monotone map.

    Args:
        lower_bound: The lower end, or one for each element; minus infinity where there is none.
        upper_bound: The upper end, likewise.
        holds_lower: Whether the lower end is among the numbers; an infinite one never is.
        holds_upper: Whether the upper end is.
    """

    def __init__(
        self, lower_bound: End, upper_bound: End, holds_lower: bool | Tensor, holds_upper: bool | Tensor
    ) -> None:
        self.holds_lower, self.holds_upper = holds_lower, holds_upper
        super().__init__(lower_bound, upper_bound)

    def check(self, value: Tensor) -> Tensor:
        above = (self.lower_bound < value) | (self.lower_bound == value) & self.holds_lower
        below = (value < self.upper_bound) | (value == self.upper_bound) & self.holds_upper
        return above & below & (value.abs() < math.inf)

    def __repr__(self) -> str:
        return f"PartlyClosed({_said(self.lower_bound)}, {_said(self.upper_bound)})"


def contains(support: Constraint, value: Tensor) -> Tensor:
    """Whether values lie in a support; bounds beyond what a short integer type holds do not wrap around."""
    short = value.dtype in (torch.uint8, torch.int8, torch.int16)
    return support.check(value.long() if short else value)


class OnBase(Constraint):
    """A constraint made of another one, of the same kind and the same event dimensions.

    Args:
        base_constraint: The other one.
    """

    def __init__(self, base_constraint: Constraint) -> None:
        self.base_constraint = base_constraint
        super().__init__()

    @property
    def is_discrete(self) -> bool:
        return self.base_constraint.is_discrete

    @property
    def event_dim(self) -> int:
        return self.base_constraint.event_dim

    def point_inside(self, like: Tensor) -> Tensor:
        """A value that meets the constraint, of the shape and dtype of ``like``."""
        return point_inside(self.base_constraint, like)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_constraint})"


class AnyOf(OnBase):
    """What meets one of several constraints of one kind, held along one more batch dimension, the rightmost.

    Args:
        base_constraint: The constraints, whose parameters have that dimension.
    """

    def check(self, value: Tensor) -> Tensor:
        return self.base_constraint.check(value.unsqueeze(-1 - self.event_dim)).any(-1)

    def point_inside(self, like: Tensor) -> Tensor:
        dim = -1 - self.event_dim
        shape = torch.broadcast_shapes(like.unsqueeze(dim).shape, _bounds_shape(self.base_constraint))
        return point_inside(self.base_constraint, like.unsqueeze(dim).expand(shape)).select(dim, 0)


class OrMissing(OnBase):
    """Events of which entries may be missing, marked by NaN.

    Args:
        base_constraint: Where a complete event lies.
    """

    def check(self, value: Tensor) -> Tensor:
        inside = point_inside(self.base_constraint, value)
        return self.base_constraint.check(torch.where(value.isnan(), inside, value))


class EachColumn(Constraint):
    """Vectors of which each element has a constraint of its own; torch's ``stack`` does not make one event of them.

    Args:
        columns: The constraints of single numbers.
    """

    event_dim = 1

    def __init__(self, columns: Sequence[Constraint]) -> None:
        self.columns = list(columns)
        super().__init__()

    @property
    def is_discrete(self) -> bool:
        return any(column.is_discrete for column in self.columns)

    def check(self, value: Tensor) -> Tensor:
        each = zip(self.columns, value.unbind(-1), strict=True)
        return torch.stack([column.check(part) for column, part in each], -1).all(-1)

    def __repr__(self) -> str:
        return f"EachColumn({self.columns})"


class EachTransform(StackTransform):
    """Transforms of the elements of a vector, as one of the vector."""

    domain = constraints.real_vector

    @property
    def codomain(self) -> EachColumn:
        return EachColumn([transform.codomain for transform in self.transforms])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return super().log_abs_det_jacobian(x, y).sum(-1)


class Packed(Constraint):
    """Vectors strung together of parts of any shape, each within a constraint of its own.

    Args:
        parts: Of each part its shape and its constraint.
    """

    event_dim = 1

    def __init__(self, parts: Sequence[tuple[Sequence[int], Constraint]]) -> None:
        self.parts = [(tuple(shape), constraint) for shape, constraint in parts]
        super().__init__()

    @property
    def is_discrete(self) -> bool:
        return any(constraint.is_discrete for _, constraint in self.parts)

    @property
    def sizes(self) -> list[int]:
        """How many numbers each part has."""
        return [math.prod(shape) for shape, _ in self.parts]

    def check(self, value: Tensor) -> Tensor:
        batch, inside = value.shape[:-1], []
        for (shape, constraint), part in zip(self.parts, value.split(self.sizes, -1), strict=True):
            found = beside(constraint, value).check(part.reshape(batch + shape))
            inside.append(found.reshape(*batch, -1).all(-1) if value.numel() else found.new_ones(batch))
        return torch.stack(inside, -1).all(-1)

    def __repr__(self) -> str:
        return f"Packed({', '.join(f'{constraint} {shape}' for shape, constraint in self.parts)})"


def element_of(constraint: Constraint) -> Constraint:
    """The constraint on each element of events whose elements are restricted one by one."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def ends(constraint: Constraint) -> tuple[End, End] | None:
    """The ends between which each element may lie, infinite where there is none; ``None`` for other constraints."""
    element = element_of(constraint)
    if isinstance(element, type(constraints.real)):
        return -math.inf, math.inf
    if isinstance(element, constraints.interval | constraints.half_open_interval):
        return element.lower_bound, element.upper_bound
    if isinstance(element, constraints.greater_than | constraints.greater_than_eq):
        return element.lower_bound, math.inf
    if isinstance(element, constraints.less_than):
        return -math.inf, element.upper_bound
    return None


def outlying(support: Constraint, event: Tensor) -> str:
    """Which number of an event lies outside, and of which ends, in words; where no single number does, the event."""
    for place, (low, high), number in _elements(support, event):
        if not bool((low <= number) & (number <= high)) or bool((number == low) | (number == high)):
            named = f" in column {','.join(map(str, place))}" if place else ""
            return f"{number.item():g}{named}, outside of {low:g} to {high:g}"
    return f"{event.item():g}" if event.numel() == 1 else "an event outside of it"


def _elements(support: Constraint, event: Tensor) -> Iterator[tuple[tuple[int, ...], tuple[float, float], Tensor]]:
    """The place, the ends and the value of each number of an event whose numbers are restricted one by one."""
    if isinstance(support, EachColumn):
        pairs = [ends(column) for column in support.columns]
        low, high = torch.tensor([(-math.inf, math.inf) if pair is None else pair for pair in pairs]).T
    elif (found := ends(support)) is not None:
        low, high = (torch.as_tensor(end, dtype=torch.get_default_dtype()) for end in found)
    else:
        return
    if max(low.dim(), high.dim()) <= event.dim():
        low, high = low.expand(event.shape), high.expand(event.shape)
        for place in product(*map(range, event.shape)):
            yield place, (low[place].item(), high[place].item()), event[place]


def beside(constraint: Constraint, like: Tensor) -> Constraint:
    """The constraint with its bounds on the device of a tensor; itself where they are there, or are numbers."""
    moved: dict[str, Constraint | Tensor] = {}
    for name, own in vars(constraint).items():
        if isinstance(own, Constraint):
            moved[name] = beside(own, like)
        elif isinstance(own, Tensor):
            moved[name] = own.to(like.device)
    if all(moved[name] is getattr(constraint, name) for name in moved):
        return constraint
    copied = copy(constraint)
    vars(copied).update(moved)
    return copied


def is_real(constraint: Constraint) -> bool:
    """Whether every element may be any real number."""
    return isinstance(element_of(constraint), type(constraints.real))


def held_ends(constraint: Constraint) -> tuple[bool | Tensor, bool | Tensor]:
    """Whether elements may lie at the lower end, and at the upper one, where these are finite."""
    element = element_of(constraint)
    if isinstance(element, PartlyClosed):
        return element.holds_lower, element.holds_upper
    closed = is_closed(constraint)
    return closed, closed and not isinstance(element, constraints.half_open_interval)


def is_closed(constraint: Constraint) -> bool:
    """Whether elements may lie at an end."""
    element = element_of(constraint)
    kinds = constraints.interval | constraints.half_open_interval | constraints.greater_than_eq
    return isinstance(element, kinds) and not isinstance(element, OpenInterval)


def opened(constraint: Constraint) -> Constraint:
    """The constraint without the ends of its intervals, which no continuous variable takes; others as they are."""
    found = ends(constraint)
    if found is None or constraint.is_discrete or not is_closed(constraint):
        return constraint
    low, high = map(_number_if_one, found)
    inside = constraints.greater_than(low) if _is_infinite(high) else OpenInterval(low, high)
    return widened(inside, constraint.event_dim)


def _number_if_one(end: End) -> End:
    """An end as a number, where all elements have the same."""
    if not isinstance(end, Tensor):
        return end
    return end.flatten()[0].item() if end.numel() and bool((end == end.flatten()[0]).all()) else end


def _is_infinite(end: End) -> bool:
    return bool(torch.as_tensor(end).isinf().all())


def widened(constraint: Constraint, event_dim: int) -> Constraint:
    """The constraint on events of ``event_dim`` dimensions, each part of which meets ``constraint``."""
    missing = event_dim - constraint.event_dim
    if missing <= 0:
        return constraint
    if isinstance(constraint, constraints.independent):
        return constraints.independent(constraint.base_constraint, constraint.reinterpreted_batch_ndims + missing)
    return constraints.independent(constraint, missing)


def is_same(one: Constraint, other: Constraint) -> bool:
    """Whether two constraints are of one kind and have the same ends."""
    if type(element_of(one)) is not type(element_of(other)):
        return False
    ours, theirs = ends(one), ends(other)
    if ours is None:
        return theirs is None
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(ours, theirs, strict=True))


def one_support(supports: Sequence[Constraint], name: str) -> Constraint:
    """The support that several distributions have in common.

    Args:
        supports: Where the events of each lie.
        name: The argument that holds the distributions.

    Raises:
        ValueError: elements lie between other ends.
    """
    for place, support in enumerate(supports):
        if _has_other_ends(supports[0], support):
            raise ValueError(f"`{name}` must have one support, got {supports[0]}, and {support} at {place}")
    return supports[0]


def _has_other_ends(one: Constraint, other: Constraint) -> bool:
    """Whether elements lie between other ends, as far as both constraints have ends, or are images of such."""
    if any(isinstance(constraint, OnBase) and not isinstance(constraint, OrMissing) for constraint in (one, other)):
        same_kind = isinstance(one, OnBase) and type(one) is type(other)
        return not same_kind or _has_other_ends(one.base_constraint, other.base_constraint)
    ours, theirs = ends(one), ends(other)
    if ours is None or theirs is None:
        return False
    pairs = list(zip(ours, theirs, strict=True))
    if all(_are_numbers(*pair) for pair in pairs):
        return ours != theirs
    return any(bool((torch.as_tensor(a) != torch.as_tensor(b)).any()) for a, b in pairs)


def shared(constraint: Constraint) -> Constraint:
    """The constraint on events of a mixture, where torch has one that all of its components have to meet."""
    if not isinstance(constraint, constraints.MixtureSameFamilyConstraint):
        return constraint
    component = constraint.base_constraint
    return AnyOf(component) if varies(component) else component


def varies(constraint: Constraint) -> bool:
    """Whether a constraint may differ between the rows of a batch."""
    found = ends(constraint)
    if found is None:
        return bool(vars(element_of(constraint)))
    return any(isinstance(end, Tensor) and end.dim() > constraint.event_dim for end in found)


def innermost(low: End, high: End, dtype: torch.dtype) -> tuple[End, End]:
    """The smallest and the largest floating-point number strictly between two ends."""
    return _numbers(low, high, dtype) if _are_numbers(low, high) else _innermost(*_tensors(low, high, dtype))


def kept(support: Constraint, dtype: torch.dtype) -> tuple[End, End] | None:
    """The smallest and the largest number in a support with ends that it does not hold; ``None`` of others."""
    found = None if is_real(support) else ends(support)
    if found is None or isinstance(element_of(support), PartlyClosed):
        return None if found is None else _with_held(*found, held_ends(support), dtype)
    return None if is_closed(support) else innermost(*found, dtype)


def _with_held(low: End, high: End, held: tuple[bool | Tensor, bool | Tensor], dtype: torch.dtype) -> tuple[End, End]:
    least, most = innermost(low, high, dtype)
    if _are_numbers(low, high):
        return low if held[0] else least, high if held[1] else most
    low, high = _tensors(low, high, dtype)
    held = [torch.as_tensor(end, device=low.device) for end in held]
    return torch.where(held[0], low, least), torch.where(held[1], high, most)


def resolved(low: End, high: End, dtype: torch.dtype) -> tuple[End, End]:
    """Between which numbers rounding is small beside the distance from either end."""
    least, most = innermost(low, high, dtype)
    share, tiny = 1024 * torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    return least + (share * abs(least) + tiny), most - (share * abs(most) + tiny)


def middle(low: End, high: End) -> End:
    """A number between two ends."""
    if not _are_numbers(low, high):
        low, high = _tensors(low, high, torch.get_default_dtype())
        low, high = (
            torch.where(low.isinf(), high.nan_to_num(posinf=1.0) - 1, low),
            torch.where(high.isinf(), low + 1, high),
        )
    elif math.isinf(low):
        return 0.0 if math.isinf(high) else high - 1
    elif math.isinf(high):
        return low + 1
    return low + (high - low) / 2


def point_inside(support: Constraint, like: Tensor) -> Tensor:
    """A point inside a support, of the shape and dtype of ``like``: zero for integers."""
    if isinstance(support, EachColumn):
        columns = zip(support.columns, like.unbind(-1), strict=True)
        return torch.stack([point_inside(part, column) for part, column in columns], -1)
    if isinstance(support, Packed):
        parts = zip(support.parts, like.split(support.sizes, -1), strict=True)
        return torch.cat([_point_of_part(part, numbers, shape) for (shape, part), numbers in parts], -1)
    if isinstance(support, OnBase):
        return support.point_inside(like)
    if isinstance(support, constraints.independent):
        return point_inside(support.base_constraint, like)
    if support.is_discrete:
        return torch.full_like(like, getattr(support, "lower_bound", 0))
    transform = biject_to(support)
    return transform(like.new_zeros(transform.inverse_shape(like.shape)))


def _bounds_shape(support: Constraint) -> torch.Size:
    """The shape that the tensors of a constraint have together."""
    known = vars(element_of(support)).values()
    return torch.broadcast_shapes(*(part.shape for part in known if isinstance(part, Tensor)), ())


def _point_of_part(constraint: Constraint, numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
    values = numbers.reshape(numbers.shape[:-1] + shape)
    return point_inside(beside(constraint, values), values).reshape(numbers.shape)


def _are_numbers(low: End, high: End) -> bool:
    return not (isinstance(low, Tensor) or isinstance(high, Tensor))


def _tensors(low: End, high: End, dtype: torch.dtype) -> list[Tensor]:
    device = next(end.device for end in (low, high) if isinstance(end, Tensor))
    return [torch.as_tensor(end, dtype=dtype, device=device) for end in (low, high)]


def _innermost(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    tiny = torch.finfo(low.dtype).tiny  # what is smaller than that may count as zero
    return torch.maximum(torch.nextafter(low, high), low + tiny), torch.minimum(torch.nextafter(high, low), high - tiny)


@lru_cache
def _numbers(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    least, most = _innermost(*torch.tensor([low, high], dtype=dtype))
    return least.item(), most.item()


def _said(end: End) -> str:
    if not isinstance(end, Tensor):
        return str(end)
    return f"{end.item():g}" if end.dim() == 0 else f"a tensor of shape {tuple(end.shape)}"


@biject_to.register(EachColumn)
@transform_to.register(EachColumn)
def _to_columns(constraint: EachColumn) -> EachTransform:
    return EachTransform([biject_to(column) for column in constraint.columns], -1)


@biject_to.register(OrMissing)
@transform_to.register(OrMissing)
def _to_complete(constraint: OrMissing) -> torch.distributions.Transform:
    return biject_to(constraint.base_constraint)


@biject_to.register(AnyOf)
@transform_to.register(AnyOf)
def _to_one_of_several(constraint: AnyOf) -> torch.distributions.Transform:
    raise NotImplementedError(
        f"no bijection of the real numbers reaches {constraint}, whose parts have different ends: sample the component "
        "by a site of its own, which can be enumerated, or give the components one support"
    )
