r"""Several orders in one model: an even mixture, :math:`p(x) = \frac{1}{M} \sum_m p_{\sigma_m}(x)`, exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.statistics import Statistic

from .distribution import AutoregressiveDistribution
from .model import Autoregressive, Change


class MixedOrders(DistributionModule):
    """An even mixture of autoregressive models of the same events, as a rule over different orders.

    Args:
        members: The models; they may share parameters.

    Raises:
        ValueError: there are none, or their events or contexts differ.
    """

    def __init__(self, members: Sequence[Autoregressive]) -> None:
        if not members:
            raise ValueError("`members` must hold at least one model, got none")
        first = members[0]
        super().__init__(first.event_shape, first.context_shape)
        for place, member in enumerate(members):
            if (member.event_shape, member.context_shape) != (self.event_shape, self.context_shape):
                raise ValueError(f"`members` must have events of shape {self.event_shape}, got another at {place}")
        self.members = nn.ModuleList(members)

    def forward(self, context: Context = None) -> OrderMixture:
        return OrderMixture([member(context) for member in self.members])

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        for member in self.members:
            yield from member.read_context(context)

    def altered(self, change: Change) -> MixedOrders:
        """The same mixture with its conditionals changed; parameters are shared, not copied."""
        return MixedOrders([member.altered(change) for member in self.members])


class OrderMixture(PyrogenDistribution):
    """A mixture of chains over the same events.

    Args:
        components: The chains, of one batch shape.
        log_weights: The logarithms of their weights, ``(len(components), *batch)``; even if ``None``.
    """

    has_given = True

    def __init__(
        self,
        components: Sequence[AutoregressiveDistribution],
        log_weights: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.components = list(components)
        self.log_weights = log_weights
        first = self.components[0]
        super().__init__(first.batch_shape, first.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return self.components[0].support

    def _expanded(self, batch_shape: torch.Size) -> OrderMixture:
        weights = None if self.log_weights is None else self._weights(batch_shape)
        return OrderMixture([part.expand(batch_shape) for part in self.components], weights, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        scores = torch.stack([component.log_prob(value) for component in self.components])
        return self._mixed(scores)

    def part_log_prob(self, value: Tensor, part: Tensor) -> Tensor:
        """The log-probability of a part that comes first in every order."""
        return self._mixed(torch.stack([component.part_log_prob(value, part) for component in self.components]))

    def given(self, values: Tensor, mask: Tensor) -> OrderMixture:
        """The distribution given a part that comes first in every order.

        The orders are weighted by the probability that each gives to the part.
        """
        scores = torch.stack([component.part_log_prob(values, mask) for component in self.components])
        weights = scores if self.log_weights is None else scores + self._weights(scores.shape[1:])
        components = [component.given(values, mask) for component in self.components]
        return OrderMixture(components, weights.log_softmax(0), validate_args=self._validate_args)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        chosen = self._choose(shape)
        wide = [component.expand(shape) for component in self.components]
        parts = [part.select((chosen == place).nonzero().flatten()).sample() for place, part in enumerate(wide)]
        rows = chosen.argsort(stable=True).argsort()  # where in the parts, one after the other, each row is
        return torch.cat(parts)[rows].reshape(*shape, *self.event_shape)

    def _choose(self, shape: torch.Size) -> Tensor:
        """Which component each row is drawn from, ``(N,)``."""
        count = len(self.components)
        if self.log_weights is None:
            device = next(self.components[0].network.parameters()).device
            return torch.randint(count, (shape.numel(),), device=device)
        weights = self._weights(shape).exp().movedim(0, -1)
        return torch.multinomial(weights.reshape(-1, count), 1).flatten() if shape.numel() else weights.new_zeros(0)

    def _mixed(self, scores: Tensor) -> Tensor:
        if self.log_weights is None:
            return scores.logsumexp(0) - math.log(len(scores))
        return (scores + self._weights(scores.shape[1:])).logsumexp(0)

    def _weights(self, shape: torch.Size) -> Tensor:
        """The log-weights, ``(len(components), *shape)``."""
        missing = len(shape) - len(self.batch_shape)
        weights = self.log_weights.reshape(len(self.components), *(1,) * missing, *self.batch_shape)
        return weights.expand(-1, *shape)
