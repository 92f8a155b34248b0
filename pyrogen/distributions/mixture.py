"""Mixtures of distributions of one family and one support."""

from __future__ import annotations

from collections.abc import Iterable

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Mixture(dist.MixtureSameFamily):
    """Pyro's ``MixtureSameFamily``, in fewer operations, which can also be asked for no draws at all.

    Args:
        mixture_distribution: A ``Categorical`` over the components.
        component_distribution: The components, along the rightmost batch dimension; all have the same support.
        validate_args: Whether values are checked; Pyro's switch if ``None``.
    """

    @property
    def support(self) -> constraints.Constraint:
        return self.component_distribution.support

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        if not shape.numel():
            return self.component_distribution.sample().new_zeros(shape)
        return super().sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if value.shape[max(0, value.dim() - len(self.event_shape)) :] != self.event_shape:
            raise ValueError(f"`value` must end in shape {tuple(self.event_shape)}, got {tuple(value.shape)}")
        if self._validate_args and value.numel():  # torch's check of a support fails on empty batches
            self._validate_sample(value)
        log_prob = self.component_distribution.log_prob(value.unsqueeze(-1 - len(self.event_shape)))
        return (log_prob + self.mixture_distribution.logits).logsumexp(-1)
