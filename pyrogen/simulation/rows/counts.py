"""Rows of counts: their sizes are learned from the data set, since counts may be of any."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrogen.autoregressive.model import Autoregressive
from pyrogen.core.module import DistributionModule
from pyrogen.core.parametric import Parametric
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.distributions import families
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.masked_sequence import MaskedSequence, MaskedState
from pyrogen.networks.mlp import MLP
from pyrogen.networks.sequence import SequenceNetwork, State
from pyrogen.networks.statistics import Chained, Moments, Statistic


def counts(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    embedding: nn.Module | None = None,
    components: int = 8,
    hidden: tuple[int, ...] = (128, 128),
) -> OfCounts:
    """Counts without a largest one: of one number a network of the context alone, of several an autoregressive one.

    Args:
        event_shape: Shape of one row.
        context_shape: Of the context.
        embedding: Of the context.
        components: How many logistics each count is a mixture of, on the axis of logarithms.
        hidden: Sizes of the hidden layers.
    """
    family, size = families.logistic_counts(components), prod(event_shape)
    vector, logarithms = VectorContext(context_shape, embedding=embedding), Logarithms(size, components)
    shapes = {"event_shape": event_shape, "context_shape": context_shape}
    if size == 1:
        network = Chained(vector, MLP(vector.size, family.size, hidden=hidden), Located(logarithms))
        return OfCounts(Parametric(network, family, **shapes), logarithms)
    masked = MaskedSequence(size, family.size, hidden=hidden, context=vector.size)
    return OfCounts(Autoregressive(CountSequence(masked, logarithms), family, embedding=vector, **shapes), logarithms)


class OfCounts(DistributionModule):
    """A distribution of counts, whose network learns from the data set what size they are of.

    Args:
        module: The distribution.
        logarithms: What it shares with its network.
    """

    def __init__(self, module: DistributionModule, logarithms: Logarithms) -> None:
        super().__init__(module.event_shape, module.context_shape)
        self.module, self.logarithms = module, logarithms

    def forward(self, context: Context = None) -> TorchDistributionMixin:
        return self.module(context)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from self.module.read_data(x, context)
        yield self.logarithms, self.logarithms.of(x.reshape(len(x), -1))


class Logarithms(Statistic, nn.Module):
    """Mean and scale of the logarithm of each count, and of a half where there is none.

    Args:
        size: How many counts a row has.
        components: How many components each count is a mixture of.
    """

    def __init__(self, size: int, components: int) -> None:
        super().__init__()
        self.components = components
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    @property
    def learned(self) -> bool:
        return bool(self.initialised)

    def learn(self, moments: Moments) -> None:
        self.mean.copy_(moments.mean)
        self.scale.copy_(moments.scale)
        self.initialised.fill_(True)

    def reset(self, *, learned: bool = False) -> None:
        self.mean.zero_()
        self.scale.fill_(1)
        self.initialised.fill_(learned)

    def of(self, counts: Tensor) -> Tensor:
        """The logarithms of counts."""
        return (counts.to(self.mean.dtype) + 0.5).log()

    def standardized(self, counts: Tensor, places: slice = slice(None)) -> Tensor:
        """The logarithms of the counts at some places, with mean zero and scale one."""
        return (self.of(counts) - self.mean[places]) / self.scale[places]

    def located(self, numbers: Tensor, places: slice = slice(None)) -> Tensor:
        """Numbers of a mixture at some places, ``(*batch, places, numbers)``, from standard units to logarithms."""
        logits, loc, log_scale = numbers.split(self.components, -1)
        mean, scale = self.mean[places].unsqueeze(-1), self.scale[places].unsqueeze(-1)
        return torch.cat([logits, mean + scale * loc, log_scale + scale.log()], -1)


class Located(nn.Module):
    """The numbers of single counts, in logarithms."""

    def __init__(self, logarithms: Logarithms) -> None:
        super().__init__()
        self.logarithms = logarithms

    def forward(self, numbers: Tensor) -> Tensor:
        return self.logarithms.located(numbers.unsqueeze(-2)).squeeze(-2)


class CountSequence(SequenceNetwork):
    """A sequence network that sees the standardized logarithms of counts, and gives the numbers of their mixtures.

    Args:
        network: The network.
        logarithms: Of the counts.
    """

    def __init__(self, network: MaskedSequence, logarithms: Logarithms) -> None:
        super().__init__()
        self.network, self.logarithms = network, logarithms

    def forward(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        return self.logarithms.located(self.network(self.logarithms.standardized(symbols), context))

    def start(self, batch_shape: tuple[int, ...], context: Tensor | None = None) -> State:
        return self.network.start(batch_shape, context)

    def step(self, symbol: Tensor | None, state: MaskedState) -> tuple[Tensor, State]:
        place = state.done
        if symbol is not None:
            symbol = self.logarithms.standardized(symbol, slice(place - 1, place))
        numbers, state = self.network.step(symbol, state)
        return self.logarithms.located(numbers.unsqueeze(-2), slice(place, place + 1)).squeeze(-2), state
