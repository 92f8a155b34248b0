"""Where numbers may lie: intervals with both, one or no end, and what a constraint says of single elements."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

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


def is_real(constraint: Constraint) -> bool:
    """Whether every element may be any real number."""
    return isinstance(element_of(constraint), type(constraints.real))


def is_closed(constraint: Constraint) -> bool:
    """Whether elements may lie at an end."""
    element = element_of(constraint)
    kinds = constraints.interval | constraints.half_open_interval | constraints.greater_than_eq
    return isinstance(element, kinds) and not isinstance(element, OpenInterval)


def widened(constraint: Constraint, event_dim: int) -> Constraint:
    """The constraint on events of ``event_dim`` dimensions, each part of which meets ``constraint``."""
    missing = event_dim - constraint.event_dim
    if missing <= 0:
        return constraint
    if isinstance(constraint, constraints.independent):
        return constraints.independent(constraint.base_constraint, constraint.reinterpreted_batch_ndims + missing)
    return constraints.independent(constraint, missing)


def shared(constraint: Constraint) -> Constraint:
    """The constraint on events of a mixture, which torch keeps for its components, where all have the same."""
    if not isinstance(constraint, constraints.MixtureSameFamilyConstraint):
        return constraint
    component = constraint.base_constraint
    return constraint if varies(component) else component


def varies(constraint: Constraint) -> bool:
    """Whether a constraint may differ between the rows of a batch."""
    found = ends(constraint)
    if found is None:
        return bool(vars(element_of(constraint)))
    return any(isinstance(end, Tensor) and end.dim() > constraint.event_dim for end in found)


def innermost(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest floating-point number strictly between two ends, of their dtype."""
    tiny = torch.finfo(low.dtype).tiny  # what is smaller than that may count as zero
    return torch.maximum(torch.nextafter(low, high), low + tiny), torch.minimum(torch.nextafter(high, low), high - tiny)


def _said(end: End) -> str:
    if not isinstance(end, Tensor):
        return str(end)
    return f"{end.item():g}" if end.dim() == 0 else f"a tensor of shape {tuple(end.shape)}"
