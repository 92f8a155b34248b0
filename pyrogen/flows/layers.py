"""Layers of flows: the learnable parameters and networks of :mod:`pyrogen.transforms`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.networks.masked import MaskedConditioner
from pyrogen.networks.mlp import Conditioner
from pyrogen.networks.weighted import Projection
from pyrogen.transforms.autoregressive import MaskedAutoregressive
from pyrogen.transforms.block_neural import BlockNeural, RawLayer
from pyrogen.transforms.coupling import Coupling
from pyrogen.transforms.elements import Element
from pyrogen.transforms.planar import Planar, Radial, Sylvester
from pyrogen.transforms.transform import Inverse, Transform

_GAIN = math.log(2)
"""At which a fresh block neural layer hardly stretches or shrinks (measured on standard normal data)."""


class CouplingLayer(BijectionModule):
    """Some elements of an event stay and a network computes from them how the others are mapped.

    The element's forward map goes from data to noise, so that densities take the cheaper direction.

    Args:
        conditioner: From the elements that stay (and the context) to ``element.size`` parameters for each of the
            others.
        element: How each element is mapped.
        stay: For each of the (flattened) event's elements, whether it stays.
        event_shape: Shape of one event.
        context_shape: ``None`` or the shape ``(C,)`` of the context vector the conditioner takes.

    Raises:
        ValueError: ``stay`` does not have one entry for each element.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        element: Element,
        stay: Sequence[bool],
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        if len(stay) != prod(self.event_shape):
            raise ValueError(f"`stay` must have {prod(self.event_shape)} entries, got {len(stay)}")
        self.conditioner, self.element = conditioner, element
        staying = torch.tensor(stay, dtype=torch.bool)
        self.register_buffer("stay", staying.nonzero().flatten(), persistent=False)
        self.register_buffer("move", (~staying).nonzero().flatten(), persistent=False)

    def forward(self, context: Context = None) -> Inverse:
        network = self.conditioner.weighted(context)
        return Inverse(Coupling(network, self.element, self.stay, self.move, self.event_shape))


class AutoregressiveLayer(BijectionModule):
    """Each element of an event is mapped with parameters from a network that sees some of the others.

    The network sees data, so that densities take one pass and draws a sweep over the elements; or noise, and it is the
    other way round.

    Args:
        conditioner: A masked network that gives ``element.size`` parameters for each of ``prod(event_shape)`` elements.
        element: How each element is mapped.
        event_shape: Shape of one event.
        context_shape: ``None`` or the shape ``(C,)`` of the context vector the conditioner takes.
        sees_noise: Whether the network sees noise (draws in one pass) instead of data (densities in one pass).
    """

    def __init__(
        self,
        conditioner: MaskedConditioner,
        element: Element,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
        sees_noise: bool = False,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.conditioner, self.element, self.sees_noise = conditioner, element, sees_noise

    def forward(self, context: Context = None) -> Transform:
        network = self.conditioner.weighted(context)
        transform = MaskedAutoregressive(self.conditioner, network, self.element, self.event_shape)
        return transform if self.sees_noise else transform.inv


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


class PlanarLayer(BijectionModule):
    """A learned ridge: the event is moved along one direction by a function of one projection."""

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        size = prod(self.event_shape)
        self.direction = nn.Parameter(torch.zeros(size))
        self.weight = nn.Parameter(torch.randn(size) / size**0.5)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, context: Context = None) -> Planar:
        return Planar(self.direction, self.weight, self.bias, self.event_shape)


class RadialLayer(BijectionModule):
    """A learned contraction or expansion around a centre."""

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.center = nn.Parameter(0.5 * torch.randn(prod(self.event_shape)))
        self.raw_radius = nn.Parameter(torch.zeros(()))
        self.raw_strength = nn.Parameter(torch.zeros(()))

    def forward(self, context: Context = None) -> Radial:
        return Radial(self.center, self.raw_radius, self.raw_strength, self.event_shape)


class SylvesterLayer(BijectionModule):
    """Several learned ridges at once, along orthonormal directions.

    Args:
        event_shape: Shape of one event, of ``D`` elements.
        rank: How many ridges, at most ``D``.

    Raises:
        ValueError: ``rank`` is not between 1 and ``D``.
    """

    @checked
    def __init__(self, event_shape: Shape, *, rank: int) -> None:
        super().__init__(event_shape)
        size = prod(self.event_shape)
        if not 1 <= rank <= size:
            raise ValueError(f"`rank` must be between 1 and {size}, got {rank}")
        self.basis = nn.Parameter(torch.randn(size, rank))
        self.outer = nn.Parameter(torch.zeros(rank, rank))
        self.inner = nn.Parameter(torch.randn(rank, rank) / rank**0.5)
        self.bias = nn.Parameter(torch.zeros(rank))

    def forward(self, context: Context = None) -> Sylvester:
        return Sylvester(self.basis, self.outer, self.inner, self.bias, self.event_shape)
