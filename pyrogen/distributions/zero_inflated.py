"""Counts with more zeros than their distribution accounts for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyrogen.numerics.scores import score_inside
from pyrogen.numerics.values import require_value

from .distribution import PyrogenDistribution
from .independent import unchecked


class ZeroInflated(PyrogenDistribution):
    r"""Zero with probability :math:`\pi`, else a draw of a distribution of counts.

    .. math:: P(x) = \pi [x = 0] + (1 - \pi) P_0(x), \qquad \pi = \sigma(g)

    Pyro's ``ZeroInflatedDistribution`` is the same and, once sampled, no longer expands (version 1.9.2).

    Args:
        base: The distribution of counts :math:`P_0`, of single elements.
        gate_logits: :math:`g`; it broadcasts with the batch shape of ``base``.

    Raises:
        ValueError: ``base`` has event dimensions.

    Example:
        >>> from pyro.distributions import Poisson
        >>> ZeroInflated(Poisson(torch.tensor(2.0)), torch.tensor(0.0)).mean
        tensor(1.)
    """

    def __init__(self, base: TorchDistributionMixin, gate_logits: Tensor, *, validate_args: bool | None = None) -> None:
        if base.event_shape:
            raise ValueError(f"`base` must have no event dimensions, got event shape {tuple(base.event_shape)}")
        batch_shape = torch.broadcast_shapes(base.batch_shape, gate_logits.shape)
        self.base_dist = unchecked(base.expand(batch_shape))
        self.gate_logits = gate_logits.expand(batch_shape)
        super().__init__(batch_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.gate_logits) * self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        gate = torch.sigmoid(self.gate_logits)
        return (1 - gate) * (self.base_dist.variance + gate * self.base_dist.mean.square())

    def _expanded(self, batch_shape: torch.Size) -> ZeroInflated:
        base = self.base_dist.expand(batch_shape)
        return ZeroInflated(base, self.gate_logits.expand(batch_shape), validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            counts = self.base_dist.sample(torch.Size(sample_shape))
            extra = torch.rand(counts.shape, device=counts.device) < torch.sigmoid(self.gate_logits)
            return torch.where(extra, 0.0, counts)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        return score_inside(self._score, self.support, value)

    def _score(self, value: Tensor) -> Tensor:
        counted = self.base_dist.log_prob(value) + logsigmoid(-self.gate_logits)
        either = torch.logaddexp(logsigmoid(self.gate_logits), counted)
        return torch.where(value == 0, either, counted)
