r"""A masked perceptron over sequences: all outputs in one pass, or place by place with no unit computed twice.

Each hidden unit has a degree :math:`d`: it sees the first :math:`d` symbols in the order and units of degree at most
:math:`d`. The output for the symbol of rank :math:`i` sees units of degree at most :math:`i`. Units are sorted by
degree, so what is known after :math:`i` symbols is a prefix of every layer.

Only the masks of the first and the last layer depend on the order. Networks for several orders can share all weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrogen.arguments import checked

from .sequence import SequenceNetwork, State


@dataclass
class MaskedState(State):
    """The first layer's sums over the symbols so far, the units known, ``(N, units)``, and how many places are done."""

    sums: Tensor
    units: list[Tensor]
    weights: MaskedWeights
    done: int


@dataclass
class MaskedWeights:
    """The weights in the order of the sequence, which all steps share."""

    first: Tensor  # (length, inputs, units)
    last: Tensor  # (length, features, units)
    bias: Tensor  # (length, features)


class MaskedSequence(SequenceNetwork):
    """A masked perceptron over single symbols in a given order.

    Args:
        length: How many places there are.
        features: Size of an output.
        symbols: How many symbols there are (each goes in as a one-hot vector), or ``None`` for real numbers.
        order: Which place comes first, second, ...; symbols and outputs are in this order. As they are if ``None``.
        hidden: Sizes of the hidden layers, at least one.
        context: Size of the context vector, zero for none.
        dropout: Share of the hidden units dropped in training.

    Raises:
        ValueError: ``hidden`` is empty.

    References:
        Germain, Gregor, Murray and Larochelle 2015, "MADE: Masked autoencoder for distribution estimation",
        https://arxiv.org/abs/1502.03509
    """

    @checked
    def __init__(
        self,
        length: int,
        features: int,
        *,
        symbols: int | None = None,
        order: Sequence[int] | None = None,
        hidden: Sequence[int] = (256, 256),
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("`hidden` must name at least one layer, got none")
        self.length, self.features, self.symbols = length, features, symbols
        self.first = nn.Linear(length * (symbols or 1), hidden[0])
        self.middle = nn.ModuleList(nn.Linear(before, after) for before, after in zip(hidden, hidden[1:], strict=False))
        self.context = nn.Linear(context, hidden[0], bias=False) if context else None
        self.weight = nn.Parameter(torch.zeros(length, features, hidden[-1]))
        self.bias = nn.Parameter(torch.zeros(length, features))
        self.dropout = nn.Dropout(dropout)
        self.degrees = [_degrees(units, length, lowest=0 if context else 1) for units in hidden]
        if length == 1:  # nothing comes before the only symbol
            self.first.weight.requires_grad_(False)
        self._order(range(length) if order is None else order)

    def reordered(self, order: Sequence[int]) -> MaskedSequence:
        """A network for another order with the same parameters, under other masks."""
        hidden, context = [len(degrees) for degrees in self.degrees], self.context
        twin = MaskedSequence(
            self.length,
            self.features,
            symbols=self.symbols,
            order=order,
            hidden=hidden,
            context=0 if context is None else context.in_features,
            dropout=self.dropout.p,
        )
        twin.first, twin.middle, twin.context = self.first, self.middle, self.context
        twin.weight, twin.bias = self.weight, self.bias
        return twin

    def forward(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        inputs = self._inputs(symbols)[:, self.rank].flatten(1)  # (N, length * inputs)
        h = F.linear(inputs, self.first.weight * self.first_mask, self.first.bias)
        h = self._unit(h if context is None else h + self.context(context))
        for index, layer in enumerate(self.middle):
            h = self._unit(F.linear(h, layer.weight * self.get_buffer(f"mask_{index}"), layer.bias))
        weight = (self.weight * self.last_mask.unsqueeze(1)).flatten(0, 1)
        return F.linear(h, weight, self.bias.flatten()).unflatten(-1, (self.length, self.features))[:, self.order]

    def start(self, batch_shape: tuple[int, ...], context: Tensor | None = None) -> MaskedState:
        rows = torch.Size(batch_shape).numel()
        sums = self.first.bias.detach().expand(rows, -1)
        sums = sums.clone() if context is None else sums + self.context(context)
        units = [sums.new_zeros(rows, len(degrees)) for degrees in self.degrees]
        first = self.first.weight.T.unflatten(0, (self.length, -1))[self.order]
        weights = MaskedWeights(first, self.weight[self.order], self.bias[self.order])
        return MaskedState(sums, units, weights, 0)

    def step(self, symbol: Tensor | None, state: MaskedState) -> tuple[Tensor, MaskedState]:
        place = state.done
        if symbol is not None:
            self._add(symbol, place - 1, state)
        known = 0
        for index, units in enumerate(state.units):
            start, stop = self._range(index, place)
            if stop > start:
                below = state.sums[:, start:stop] if not index else self._below(index, state, known, start, stop)
                units[:, start:stop] = below.relu()
            known = stop
        last, bias = state.weights.last[place, :, :known], state.weights.bias[place]
        state.done += 1
        return torch.addmm(bias, state.units[-1][:, :known], last.T), state

    def _add(self, symbol: Tensor, place: int, state: MaskedState) -> None:
        """Adds the contribution of a symbol to the sums of the units that may see it."""
        start = self._range(0, place)[1]
        weight = state.weights.first[place, :, start:]
        if self.symbols is None:
            state.sums[:, start:] += symbol.unsqueeze(-1).to(weight.dtype) * weight
        else:
            state.sums[:, start:] += weight[symbol.long()]

    def _below(self, index: int, state: MaskedState, known: int, start: int, stop: int) -> Tensor:
        layer = self.middle[index - 1]
        return torch.addmm(
            layer.bias[start:stop], state.units[index - 1][:, :known], layer.weight[start:stop, :known].T
        )

    def _range(self, layer: int, degree: int) -> tuple[int, int]:
        """Which units of a layer have that degree."""
        counts = self.counts[layer]
        return counts[degree], counts[degree + 1]

    def _unit(self, h: Tensor) -> Tensor:
        return self.dropout(h.relu())

    def _inputs(self, symbols: Tensor) -> Tensor:
        dtype = self.weight.dtype
        if self.symbols is None:
            return symbols.unsqueeze(-1).to(dtype)
        return (symbols.unsqueeze(-1) == torch.arange(self.symbols, device=symbols.device)).to(dtype)

    def _order(self, order: Sequence[int]) -> None:
        order = torch.tensor(list(order))
        rank = order.argsort()
        degrees = [torch.tensor(each) for each in self.degrees]
        first, last = degrees[0], degrees[-1]
        inputs = rank.repeat_interleave(self.symbols or 1)
        masks = {
            "first_mask": first.unsqueeze(1) > inputs,
            "last_mask": last <= rank.unsqueeze(1),
            **{f"mask_{i}": degrees[i + 1].unsqueeze(1) >= degrees[i] for i in range(len(degrees) - 1)},
        }
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("rank", rank, persistent=False)
        for name, mask in masks.items():
            self.register_buffer(name, mask.to(self.weight.dtype), persistent=False)
        self.counts = [
            [sum(own < degree for own in each) for degree in range(self.length + 1)] for each in self.degrees
        ]


def _degrees(units: int, length: int, *, lowest: int) -> list[int]:
    """Degrees dealt out evenly, in order."""
    values = range(min(lowest, length - 1), length)
    return [values[unit * len(values) // units] for unit in range(units)]
