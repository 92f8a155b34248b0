"""Mixtures of distributions of one family and one support."""

from __future__ import annotations

from collections.abc import Iterable

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.points import AnyOf
from pyrogen.numerics.supports import varies
from pyrogen.numerics.values import require_expandable, require_value


class Mixture(dist.MixtureSameFamily):
    """Pyro's ``MixtureSameFamily``, in fewer operations, which can also be asked for no draws at all.

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

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        if not shape.numel():
            return self.component_distribution.sample().new_zeros(shape)
        return super().sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        log_prob = self.component_distribution.log_prob(value.unsqueeze(-1 - len(self.event_shape)))
        return (log_prob + self.mixture_distribution.logits).logsumexp(-1)
