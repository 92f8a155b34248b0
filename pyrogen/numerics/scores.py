"""Scores of values inside and outside of supports, of which none touches the gradients of another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from .supports import contains, is_real, point_inside


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
    inside = contains(support, value)
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
    inside = contains(support, value) & value.isfinite()
    scores = log_prob(torch.where(inside, value, point_inside(support, value))).flatten(-event_dim).sum(-1)
    outside = torch.where(value.isnan().flatten(-event_dim).any(-1), torch.nan, -torch.inf)
    return torch.where(inside.flatten(-event_dim).all(-1), scores, outside.to(scores))
