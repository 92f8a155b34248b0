r"""Several orders in one model: an even mixture, :math:`p(x) = \frac{1}{M} \sum_m p_{\sigma_m}(x)`, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context
from pyrogen.distributions.pool import LinearPool
from pyrogen.networks.statistics import Statistic

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


class OrderMixture(LinearPool):
    """A mixture of chains over the same events, each of which draws no more rows than are its own."""

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        chosen = self._chosen(shape)
        wide = [component.expand(shape) for component in self.components]
        parts = [part.select((chosen == place).nonzero().flatten()).sample() for place, part in enumerate(wide)]
        rows = chosen.argsort(stable=True).argsort()  # where in the parts, one after the other, each row is
        return torch.cat(parts)[rows].reshape(*shape, *self.event_shape)
