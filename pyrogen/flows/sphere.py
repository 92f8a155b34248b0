r"""Flows of unit vectors: on the usual sphere and on those of any dimension.

Noise is uniform on the sphere. A layer maps heights and angle of a point, each by a spline that depends on the heights
before it (:mod:`pyrogen.transforms.sphere`), and then turns the sphere by a learned rotation. Densities are by area.

At the two poles of a layer all angles are one point, so that the density may jump there; it is right almost everywhere.
Layers have different poles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.distributions.sphere import UniformSphere
from pyrogen.networks.masked import MaskedConditioner, chain
from pyrogen.transforms.autoregressive import MaskedAutoregressive
from pyrogen.transforms.elements import Element, Mixed
from pyrogen.transforms.sphere import Cylindrical
from pyrogen.transforms.spline import CircularSpline, SegmentSpline

from .linear import Rotation


class UniformDirections(DistributionModule):
    """Uniform unit vectors: the base of a flow on the sphere.

    Args:
        event_shape: ``(D + 1,)``, for vectors of a sphere of ``D`` dimensions.
    """

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, context: Context = None) -> UniformSphere:
        return UniformSphere(self.event_shape[0], self.zero, validate_args=False)


class SphereLayer(BijectionModule):
    """A bijection of the sphere: splines of heights and angle, and a rotation; see :class:`Cylindrical`.

    Args:
        event_shape: ``(D + 1,)``.
        hidden: Sizes of the hidden layers of the network.
        bins: How many bins each spline has.
        roll: By how many places the elements are turned around before heights are taken.
        context_shape: ``None`` or the shape ``(C,)`` of a context vector.
        dropout: Share of the hidden units dropped in training.
    """

    def __init__(
        self,
        event_shape: Shape,
        *,
        hidden: Sequence[int],
        bins: int = 8,
        roll: int = 0,
        context_shape: ContextShape = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.dimensions, self.roll = self.event_shape[0] - 1, roll
        self.element = _element(self.dimensions, bins)
        context = self.context_shape[0] if self.context_shape else 0
        self.conditioner = MaskedConditioner(
            chain(range(self.dimensions)), self.element.size, hidden=hidden, context=context, dropout=dropout
        )
        self.rotation = Rotation(self.event_shape)

    def forward(self, context: Context = None) -> Cylindrical:
        network = self.conditioner.weighted(context)
        coordinates = MaskedAutoregressive(self.conditioner, network, self.element, (self.dimensions,))
        return Cylindrical(coordinates, self.rotation(), self.roll)


def _element(dimensions: int, bins: int) -> Element:
    if dimensions == 1:
        return CircularSpline(bins)
    return Mixed((SegmentSpline(bins), CircularSpline(bins)), [0] * (dimensions - 1) + [1])
