"""From a network to a distribution module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrogen.distributions.families import Family
from pyrogen.networks.context import context_rows
from pyrogen.networks.statistics import Statistic, read_by
from pyrogen.numerics.autograd import full
from pyrogen.numerics.values import require_precision

from .module import DistributionModule
from .shapes import Context, ContextShape, Shape, context_batch_shape


class Parametric(DistributionModule):
    r"""A distribution whose parameters a network computes from the context: :math:`p(x \mid c) = f(x; \text{net}(c))`.

    An encoder, a decoder or a measurement model is one; with a network that takes no context it is a plain
    distribution with learnable parameters. The context reaches the network as it is. A network of yours standardizes it
    itself, or has a :class:`~pyrogen.networks.statistics.Standardizer` in front, whose moments ``fit`` learns from the
    data set: ``networks.Chained(networks.Standardizer(shape), network)``.

    Args:
        network: Takes the context, one batch dimension in front, and gives the numbers that the family needs, in
            the order ``(size, *event_shape)`` (flat or shaped: channels first for images). Called without arguments if
            there is no context.
        family: What distribution the numbers make: one of :mod:`pyrogen.distributions.families`, or whatever is called
            like a :class:`~pyrogen.distributions.families.Family`.
        event_shape: Shape of one event.
        context_shape: Shape of the context, or a dict of shapes, passed to the network as a dict.

    Raises:
        ValueError: the network's output does not hold as many numbers a row as the family needs (when called).

    Example:
        >>> import pyrogen as pg
        >>> encoder = Parametric(nn.Linear(4, 6), pg.families.diagonal_normal, event_shape=(3,), context_shape=(4,))
        >>> encoder(torch.zeros(5, 4)).shape()
        torch.Size([5, 3])
    """

    def __init__(
        self, network: nn.Module, family: Family, *, event_shape: Shape, context_shape: ContextShape = None
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.network = network
        self.family = family

    def forward(self, context: Context = None) -> TorchDistributionMixin:
        return self.at(self.numbers(context))

    def at(self, numbers: Tensor) -> TorchDistributionMixin:
        """The distribution of such numbers, ``(*batch, size, *event_shape)``."""
        return self.family(numbers, len(self.event_shape))

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.network, context)

    def numbers(self, context: Context = None) -> Tensor:
        """What the network gives, ``(*batch, size, *event_shape)``."""
        batch_shape = context_batch_shape(context, self.context_shape)
        try:
            rows = context_rows(context, self.context_shape, batch_shape)
            numbers = self.network() if rows is None else self.network(rows)
        except RuntimeError:
            for tensor in context.values() if isinstance(context, Mapping) else (context,):
                if tensor is not None:
                    require_precision(tensor, self.network.parameters(), "context")
            raise
        shape = self.family.numbers_shape(self.event_shape)
        expected, count = prod(shape), prod(batch_shape)
        if numbers.numel() != count * expected:
            raise ValueError(
                f"`network` must give {expected} numbers a row for `event_shape` {self.event_shape}, "
                f"got an output of shape {tuple(numbers.shape)} for {count} rows"
            )
        return full(numbers.reshape(*batch_shape, *shape))  # a density of half precision is off by nats
