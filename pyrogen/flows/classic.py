"""Planar, radial and Sylvester layers: few parameters, for posteriors of few dimensions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.module import BijectionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import Context, Shape, as_shape
from pyrogen.transforms.planar import Planar, Radial, Sylvester

from .linear import Standardize
from .model import Flow


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


@recipe
@checked
def planar(event_shape: Shape, context_shape: None = None, *, layers: int = 8, standardize: bool = True) -> Flow:
    """A flow of learned ridges; few parameters, inverted by root finding.

    Args:
        event_shape: Shape of one event.
        context_shape: None: these layers take no context.
        layers: How many layers.
        standardize: Whether mean and scale of each element are learned from the data set, before training.

    Raises:
        ValueError: a context shape is given.
    """
    return _flow(event_shape, context_shape, lambda shape: PlanarLayer(shape), layers, standardize)


@recipe
@checked
def radial(event_shape: Shape, context_shape: None = None, *, layers: int = 8, standardize: bool = True) -> Flow:
    """A flow of learned contractions and expansions around centres; few parameters, inverted by root finding.

    Args:
        event_shape: Shape of one event.
        context_shape: None: these layers take no context.
        layers: How many layers.
        standardize: Whether mean and scale of each element are learned from the data set, before training.

    Raises:
        ValueError: a context shape is given.
    """
    return _flow(event_shape, context_shape, lambda shape: RadialLayer(shape), layers, standardize)


@recipe
@checked
def sylvester(
    event_shape: Shape, context_shape: None = None, *, layers: int = 8, rank: int = 2, standardize: bool = True
) -> Flow:
    """A flow of several learned ridges at once; few parameters, inverted by root finding.

    Args:
        event_shape: Shape of one event.
        context_shape: None: these layers take no context.
        layers: How many layers.
        rank: How many ridges each layer has, at most the number of elements.
        standardize: Whether mean and scale of each element are learned from the data set, before training.

    Raises:
        ValueError: a context shape is given.
    """
    return _flow(event_shape, context_shape, lambda shape: SylvesterLayer(shape, rank=rank), layers, standardize)


def _flow(
    event_shape: Shape,
    context_shape: None,
    layer: Callable[[Shape], BijectionModule],
    layers: int,
    standardize: bool,
) -> Flow:
    if context_shape is not None:
        raise ValueError(f"`context_shape` must be None: these layers take no context, got {context_shape}")
    event_shape = as_shape(event_shape, "event_shape")
    stack = [layer(event_shape) for _ in range(layers)]
    return Flow(stack + [Standardize(event_shape)] * standardize, event_shape=event_shape)
