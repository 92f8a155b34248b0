"""Planar, radial and Sylvester layers: few parameters, for posteriors of few dimensions."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, Shape
from pyrogen.transforms.planar import Planar, Radial, Sylvester


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
