r"""WaveNet: dilated causal convolutions, and the queues that keep their past inputs.

A gated layer of dilation :math:`d` reaches back :math:`d, 2d, \dots` places, so a stack that doubles its dilation sees
exponentially far. In steps, each layer keeps its last inputs in a ring of :math:`d` vectors and computes one place
instead of all.

References:
    van den Oord et al. 2016, "WaveNet: A generative model for raw audio", https://arxiv.org/abs/1609.03499
    Paine et al. 2016, "Fast WaveNet generation algorithm", https://arxiv.org/abs/1611.09482
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from .noise_level import zeroed
from .sequence import SequenceNetwork, State, shifted


@dataclass
class QueueState(State):
    """The last inputs of every layer in rings ``(N, reach, width)``, conditions ``(N, 1 or L, 2 width)``, the place."""

    rings: list[Tensor]
    conditions: list[Tensor | None]
    place: int


class DilatedLayer(nn.Module):
    """A gated causal convolution with a residual connection.

    Dropout belongs to training: it acts in one pass, never in steps.

    Args:
        width: Size of the vectors.
        kernel: How many places it covers.
        dilation: How far they are apart.
        context: Size of the context vectors, 0 for none.
        dropout: Share of the gated units dropped in training.
        last: Whether no layer comes after it, which would take its residual.
    """

    def __init__(
        self, width: int, kernel: int, dilation: int, context: int = 0, dropout: float = 0.0, last: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.convolution = nn.Linear(kernel * width, 2 * width)  # as a matrix, which is what a step needs
        self.condition = nn.Linear(context, 2 * width, bias=False) if context else None
        self.residual = None if last else nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    @property
    def reach(self) -> int:
        """How many places back the layer reaches."""
        return self.dilation * (self.kernel - 1)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(N, width, L)`` to the next layer's input and the gated units, both of this shape."""
        weight = self.convolution.weight.unflatten(1, (self.kernel, -1)).transpose(1, 2).contiguous()
        sums = conv1d(pad(x, (self.reach, 0)), weight, self.convolution.bias, dilation=self.dilation)
        if self.condition is not None:
            sums = sums + self.condition(context).transpose(1, 2)
        gates = self.dropout(gated(sums, 1))
        return x if self.residual is None else x + conv1d(gates, self.residual.weight[..., None]), gates

    def step(self, x: Tensor, ring: Tensor, condition: Tensor | None, place: int) -> tuple[Tensor, Tensor]:
        """The same for one place, ``(N, width)``; the ring is changed in place."""
        window = [ring[:, (place - back * self.dilation) % self.reach] for back in range(self.kernel - 1, 0, -1)]
        sums = self.convolution(torch.cat([*window, x], 1))
        if condition is not None:
            sums = sums + condition[:, min(place, condition.shape[1] - 1)]
        ring[:, place % self.reach] = x
        gates = gated(sums, 1)
        return x if self.residual is None else torch.addmm(x, gates, self.residual.weight.t()), gates


class WaveNet(SequenceNetwork):
    """A stack of dilated gated layers, whose gated units all lead to the output.

    Args:
        embedding: A network from symbols to vectors of size ``width``.
        width: Size of the vectors.
        features: Size of an output.
        dilations: The dilation of every layer.
        kernel: How many places a layer covers.
        skip: Size of the hidden layer before the output.
        context: Size of the context vectors, 0 for none.
        dropout: Share of the gated units dropped in training.

    Shape:
        Symbols ``(N, L, *symbol)``; a context ``(N, context)`` for whole sequences or ``(N, L, context)`` for every
        place; outputs ``(N, L, features)``.
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        width: int,
        features: int,
        dilations: Sequence[int],
        kernel: int = 2,
        skip: int = 128,
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if kernel < 2:
            raise ValueError(f"`kernel` must be at least 2, got {kernel}")
        if not dilations:
            raise ValueError("`dilations` must hold at least one layer, got none")
        self.embedding = embedding
        self.first = nn.Parameter(torch.randn(width))
        self.layers = nn.ModuleList(
            DilatedLayer(width, kernel, dilation, context, dropout, last=layer == len(dilations) - 1)
            for layer, dilation in enumerate(dilations)
        )
        self.hidden = nn.Linear(width * len(self.layers), skip)
        self.head = zeroed(nn.Linear(skip, features))

    @property
    def receptive_field(self) -> int:
        """How many symbols before a place its output depends on."""
        return 1 + sum(layer.reach for layer in self.layers)

    def forward(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        x = shifted(self.embedding(symbols), self.first).transpose(1, 2).contiguous()
        context = _places(context)
        gates = []
        for layer in self.layers:
            x, gate = layer(x, context)
            gates.append(gate)
        return self._output(torch.cat(gates, 1).transpose(1, 2))

    def start(self, batch_shape: tuple[int, ...], context: Tensor | None = None) -> QueueState:
        rows, context = torch.Size(batch_shape).numel(), _places(context)
        rings = [self.first.new_zeros(rows, layer.reach, len(self.first)) for layer in self.layers]
        return QueueState(rings, [layer.condition and layer.condition(context) for layer in self.layers], 0)

    def step(self, symbol: Tensor | None, state: QueueState) -> tuple[Tensor, QueueState]:
        x = self.first.expand(len(state.rings[0]), -1) if symbol is None else self.embedding(symbol)
        gates = []
        for layer, ring, condition in zip(self.layers, state.rings, state.conditions, strict=True):
            x, gate = layer.step(x, ring, condition, state.place)
            gates.append(gate)
        state.place += 1
        return self._output(torch.cat(gates, 1)), state

    def _output(self, gates: Tensor) -> Tensor:
        return self.head(self.hidden(gates).relu())


def gated(sums: Tensor, dim: int) -> Tensor:
    r"""Half of the channels through gates that the other half opens: :math:`\tanh(a) \, \sigma(b)`."""
    signal, gate = sums.chunk(2, dim)
    return signal.tanh() * gate.sigmoid()


def _places(context: Tensor | None) -> Tensor | None:
    """A context with a dimension of places."""
    return context.unsqueeze(1) if context is not None and context.dim() == 2 else context
