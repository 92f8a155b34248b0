"""Points inside of supports, to stand in where a value is missing or is none; and supports of several parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import StackTransform

from .supports import is_real


def point_inside(support: Constraint, like: Tensor) -> Tensor:
    """A point inside a support, of the shape and dtype of ``like``: zero for integers."""
    if isinstance(support, EachColumn):
        columns = zip(support.columns, like.unbind(-1), strict=True)
        return torch.stack([point_inside(part, column) for part, column in columns], -1)
    if isinstance(support, constraints.independent | OrMissing):
        return point_inside(support.base_constraint, like)
    if support.is_discrete:
        return torch.full_like(like, getattr(support, "lower_bound", 0))
    transform = biject_to(support)
    return transform(like.new_zeros(transform.inverse_shape(like.shape)))


def score_inside(log_prob: Callable[[Tensor], Tensor], support: Constraint, value: Tensor) -> Tensor:
    """Log-probabilities of single numbers: of NaN NaN, of what lies outside the support minus infinity.

    Neither touches the gradients of other elements. What is only checked under validation would else be scored as if
    it were possible.

    Args:
        log_prob: Scores numbers of the support, one by one.
        support: Of single numbers.
        value: What is scored.
    """
    if is_real(support):
        inside = value.isfinite()
        scores = log_prob(torch.where(inside, value, 0.0))
        return torch.where(inside, scores, -value.abs())
    inside = support.check(value)
    if value.is_floating_point():
        inside = inside & value.isfinite()
    scores = log_prob(torch.where(inside, value, point_inside(support, value)))
    return torch.where(inside, scores, torch.where(value.isnan(), torch.nan, -torch.inf).to(scores))


def score_events_inside(
    log_prob: Callable[[Tensor], Tensor], support: Constraint, value: Tensor, event_dim: int
) -> Tensor:
    """The sums of :func:`score_inside` over the rightmost ``event_dim`` dimensions, in fewer operations."""
    if is_real(support):
        size = value.detach().abs().flatten(-event_dim).sum(-1)
        scores = log_prob(value.nan_to_num(0.0, 0.0, 0.0)).flatten(-event_dim).sum(-1)
        return torch.where(size < torch.inf, scores, -size)
    inside = support.check(value) & value.isfinite()
    scores = log_prob(torch.where(inside, value, point_inside(support, value))).flatten(-event_dim).sum(-1)
    outside = torch.where(value.isnan().flatten(-event_dim).any(-1), torch.nan, -torch.inf)
    return torch.where(inside.flatten(-event_dim).all(-1), scores, outside.to(scores))


class AnyOf(Constraint):
    """What meets one of several constraints of one kind, held along one more batch dimension, the rightmost.

    Args:
        base_constraint: The constraints, whose parameters have that dimension.
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

    def check(self, value: Tensor) -> Tensor:
        return self.base_constraint.check(value.unsqueeze(-1 - self.event_dim)).any(-1)


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


class EachTransform(StackTransform):
    """Transforms of the elements of a vector, as one of the vector."""

    domain = constraints.real_vector

    @property
    def codomain(self) -> EachColumn:
        return EachColumn([transform.codomain for transform in self.transforms])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return super().log_abs_det_jacobian(x, y).sum(-1)


class OrMissing(Constraint):
    """Events of which entries may be missing, marked by NaN.

    Args:
        base_constraint: Where a complete event lies.
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

    def check(self, value: Tensor) -> Tensor:
        inside = point_inside(self.base_constraint, value)
        return self.base_constraint.check(torch.where(value.isnan(), inside, value))


@biject_to.register(EachColumn)
@transform_to.register(EachColumn)
def _to_columns(constraint: EachColumn) -> EachTransform:
    return EachTransform([biject_to(column) for column in constraint.columns], -1)


@biject_to.register(OrMissing)
@transform_to.register(OrMissing)
def _to_complete(constraint: OrMissing) -> torch.distributions.Transform:
    return biject_to(constraint.base_constraint)
