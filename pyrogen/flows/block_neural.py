"""Block neural autoregressive layers: the network is the bijection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.networks.weighted import Projection
from pyrogen.transforms.block_neural import BlockNeural, RawLayer
from pyrogen.transforms.transform import Transform

_GAIN = math.log(2)
"""At which a fresh layer hardly stretches or shrinks (measured on standard normal data)."""


class BlockNeuralLayer(BijectionModule):
    """One masked network from data to noise, increasing in each element; see :class:`BlockNeural`.

    Args:
        event_shape: Shape of one event, of ``D`` elements.
        hidden: How many units each element has in each hidden layer.
        order: Which element comes when, a permutation of ``0 … D - 1``.
        context_shape: ``None`` or the shape ``(C,)`` of a context vector.
        sees_noise: Whether the network goes from noise to data instead.

    Raises:
        ValueError: ``hidden`` is empty.
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        hidden: Sequence[int],
        order: Sequence[int],
        context_shape: ContextShape = None,
        sees_noise: bool = False,
    ) -> None:
        super().__init__(event_shape, context_shape)
        if not hidden:
            raise ValueError("`hidden` must name at least one layer, got none")
        size, sizes = prod(self.event_shape), (1, *hidden, 1)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.layers = nn.ModuleList(_Weights(size, *pair) for pair in zip(sizes, sizes[1:], strict=False))
        self.gate = nn.Parameter(torch.zeros(size))
        self.context = nn.Linear(*self.context_shape, size * hidden[0], bias=False) if context_shape else None
        self.sees_noise = sees_noise

    def forward(self, context: Context = None) -> Transform:
        projection = None if self.context is None else Projection(context, self.context.weight, None)
        layers = [layer() for layer in self.layers]
        transform = BlockNeural(layers, self.gate, self.order, self.event_shape, projection)
        return transform if self.sees_noise else transform.inv


class _Weights(nn.Module):
    """Weights of one layer."""

    def __init__(self, size: int, inputs: int, outputs: int) -> None:
        super().__init__()
        before = torch.ones(size, size).tril(-1).repeat_interleave(inputs, 1).unsqueeze(1)
        self.register_buffer("mask", before, persistent=False)
        self.share = nn.Parameter(torch.randn(size, outputs, inputs)) if inputs > 1 else None
        self.gain = nn.Parameter(torch.full((size, outputs, 1), _GAIN))
        self.lower = nn.Parameter(torch.randn(size, outputs, size * inputs) / (size * inputs) ** 0.5)
        spread = torch.linspace(-2, 2, outputs) if outputs > 1 else torch.zeros(1)
        self.bias = nn.Parameter(spread.expand(size, -1).unsqueeze(-1).clone())

    def forward(self) -> RawLayer:
        return RawLayer(self.share, self.gain, self.lower, self.mask, self.bias)
