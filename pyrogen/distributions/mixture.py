"""Mixtures of distributions of one family and one support."""

from __future__ import annotations

from collections.abc import Iterable

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.autograd import deepcopied
from pyrogen.numerics.supports import AnyOf, is_real, point_inside, varies
from pyrogen.numerics.values import require_expandable, require_value

from .abilities import Abilities


class Mixture(Abilities, dist.MixtureSameFamily):
    """Pyro's ``MixtureSameFamily``, in fewer operations, which also gives no draws at all.

    Args:
        mixture_distribution: A ``Categorical`` over the components.
        component_distribution: The components, along the rightmost batch dimension; all have the same support.
        validate_args: Whether values are checked; Pyro's switch if ``None``.
    """

    @property
    def support(self) -> constraints.Constraint:
        """That of the components, or where it differs between them, what lies in one of theirs."""
        support = self.component_distribution.support
        return AnyOf(support) if varies(support) else support

    def expand(self, batch_shape: Iterable[int], _instance: None = None) -> Mixture:
        return super().expand(require_expandable(self, batch_shape), _instance)

    def __deepcopy__(self, memo: dict) -> Mixture:
        return deepcopied(self, memo)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        if not shape.numel():
            return self.component_distribution.sample().new_zeros(shape)
        return super().sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        if not is_real(self.support):
            return self._score(value)
        event_dim = len(self.event_shape)  # an event that is none keeps its own log_prob so, and no gradient of others
        size = value.detach().abs()
        size = size.flatten(-event_dim).sum(-1) if event_dim else size
        return torch.where(size < torch.inf, self._score(value.nan_to_num(0.0, 0.0, 0.0)), -size)

    def _score(self, value: Tensor) -> Tensor:
        event_dim = len(self.event_shape)
        if not value.numel():  # torch's `Independent` fails on empty batches
            score = value.flatten(-event_dim).sum(-1) if event_dim else value
            return score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))
        log_prob = self._component_scores(value.unsqueeze(-1 - event_dim))
        return (log_prob + self.mixture_distribution.logits).logsumexp(-1)

    def _component_scores(self, value: Tensor) -> Tensor:
        """The log-probability of an event under each component: minus infinity where only others can give it."""
        support = self.component_distribution.support
        if not varies(support) or support.is_discrete:
            return self.component_distribution.log_prob(value)
        event_dim = len(self.event_shape)
        wide = value.expand(
            torch.broadcast_shapes(value.shape, self.component_distribution.batch_shape + self.event_shape)
        )
        inside = support.check(wide)
        safe = torch.where(inside.reshape(inside.shape + (1,) * event_dim), wide, point_inside(support, wide))
        missing = wide.isnan().flatten(-event_dim).any(-1) if event_dim else wide.isnan()
        log_prob = self.component_distribution.log_prob(safe)
        return torch.where(inside, log_prob, torch.where(missing, torch.nan, -torch.inf))
