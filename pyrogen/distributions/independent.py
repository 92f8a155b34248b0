"""Independent elements as one event, also where there are none."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor


class Independent(dist.Independent):
    """Pyro's ``Independent``, which also scores batches without a row, and refuses values that only broadcast.

    Args:
        base_distribution: The elements.
        reinterpreted_batch_ndims: How many of its rightmost batch dimensions make one event.
        validate_args: Whether values are checked; Pyro's switch if ``None``.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if value.shape[max(0, value.dim() - len(self.event_shape)) :] != self.event_shape:
            raise ValueError(f"`value` must end in shape {tuple(self.event_shape)}, got {tuple(value.shape)}")
        log_prob, count = self.base_dist.log_prob(value), self.reinterpreted_batch_ndims
        return log_prob.flatten(-count).sum(-1) if count else log_prob

    def entropy(self) -> Tensor:
        entropy, count = self.base_dist.entropy(), self.reinterpreted_batch_ndims
        return entropy.flatten(-count).sum(-1) if count else entropy


def as_event(distribution: TorchDistributionMixin, event_dim: int) -> TorchDistributionMixin:
    """The distribution with its rightmost ``event_dim`` batch dimensions as one event."""
    return Independent(distribution, event_dim) if event_dim else distribution
