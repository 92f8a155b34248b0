"""What recipes of flows have in common: shapes, chains of layers, and what stands between them and the data."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import nn

from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.masked import MaskedConditioner, chain
from pyrogen.networks.mlp import Conditioner
from pyrogen.transforms.elements import Element
from pyrogen.transforms.interval import GivenEnd

from .bounded import Bounded
from .layers import AutoregressiveLayer, CouplingLayer
from .linear import Mixing, Standardize
from .model import Flow
from .regression import Regression

FEW = 32
"""Up to so many elements a matrix between autoregressive layers helps; that of 64 pixels overfits (measured)."""
MANY = 256
"""Up to so many elements a matrix mixes them between coupling layers; of an image it would be most of the flow."""
WIDE = 512
"""On up to so many elements of a context events are regressed: more would take long."""
_SMALL = 4
_EXAMPLES = ", such as (0.0, 1.0), (0.0, None), or ([0.0, -1.0], [None, 1.0]) for two columns"

GivenInterval = tuple[GivenEnd, GivenEnd] | None
"""Where the data lie, as it is given."""

TEXTS = {
    "layers": "How many layers, each with its own (fixed) shuffled order of the elements, or the reverse of the last.",
    "bins": "How many bins each spline has.",
    "bound": "The splines live on ``[-bound, bound]`` in standardized units and are the identity outside.",
    "log_scale_bound": "Each layer scales by a factor between ``exp(-log_scale_bound)`` and ``exp(log_scale_bound)``.",
    "dependence": "If given, a boolean matrix ``(D, D)``: which element (row) may depend on which (column) in a layer,"
    " without cycles; every layer then has the same and ``mixing`` is off.",
    "fast_sampling": "Whether draws take one pass and densities a sweep over the elements (for variational inference),"
    " instead of densities one pass and draws a sweep (for fitting data).",
    "mixing": "Whether a learned matrix mixes the elements before each layer; if ``None``, where there are at most"
    f" {FEW} of them and no ``dependence``.",
    "standardize": "Whether mean and scale of each element are learned from the data set, before training.",
    "regression": "Whether events are first explained by a linear regression on the context, learned from the data set"
    " before training, so that the layers learn what it leaves; with ``standardize``, and where the context has at most"
    f" {WIDE} elements before any learned embedding. See :mod:`pyrogen.flows.regression`.",
    "interval": "The open interval ``(low, high)`` in which the data lie, if they are bounded, and so does every draw."
    " Each end is a number, one for each element, or ``None`` where there is none.",
    "margin": "By what share the support is wider than ``interval``, for data exactly at its ends; draws then lie"
    " beyond, too. See :class:`~pyrogen.flows.bounded.Bounded`.",
    "base": "The distribution of the noise, itself built by a recipe if the flow is to be saved; standard normal if"
    " ``None``.",
}
"""The texts of arguments that several recipes have."""


class FlowEnds(NamedTuple):
    """What stands between the layers and the data."""

    standardize: bool
    regression: bool = False
    interval: GivenInterval = None
    margin: float = 0.0
    correlated: bool = True


class FlowShapes:
    """The shapes of a flow and of its layers, and what makes a context a vector."""

    def __init__(
        self,
        event_shape: Shape,
        context_shape: ContextShape,
        classes: Classes = None,
        embedding: nn.Module | None = None,
    ) -> None:
        self.event_shape = as_shape(event_shape, "event_shape")
        self.size = prod(self.event_shape)
        self.context = VectorContext(context_shape, classes=classes, embedding=embedding)
        self.of_layer = {"event_shape": self.event_shape, "context_shape": None}
        if self.context.size:
            self.of_layer["context_shape"] = (self.context.size,)
        self.of_flow = {"event_shape": self.event_shape, "context_shape": self.context.context_shape}


def coupling_layers(
    element: Element, shapes: FlowShapes, layers: int, hidden: Sequence[int], dropout: float
) -> list[BijectionModule]:
    """Coupling layers; elements of even and odd place take turns."""
    size, options, found = shapes.size, {"hidden": hidden, "context": shapes.context.size, "dropout": dropout}, []
    for index in range(layers):
        stay = [size > 1 and place % 2 == index % 2 for place in range(size)]
        conditioner = Conditioner(sum(stay), size - sum(stay), element.size, **options)
        found.append(CouplingLayer(conditioner, element, stay, **shapes.of_layer))
    return found


def autoregressive_layers(
    element: Element,
    shapes: FlowShapes,
    layers: int,
    hidden: Sequence[int],
    dependence: Sequence[Sequence[bool]] | None,
    sees_noise: bool,
    dropout: float,
) -> list[BijectionModule]:
    """Autoregressive layers, in a shuffled order and its reverse by turns."""
    size, options, found = shapes.size, {"hidden": hidden, "context": shapes.context.size, "dropout": dropout}, []
    if dependence is not None and (len(dependence) != size or any(len(row) != size for row in dependence)):
        raise ValueError(f"`dependence` must have shape {(size, size)}, got {[len(row) for row in dependence]}")
    for index in range(layers):
        allowed = chain(shuffled(size, index)) if dependence is None else torch.tensor(dependence, dtype=torch.bool)
        conditioner = MaskedConditioner(allowed, element.size, **options)
        found.append(AutoregressiveLayer(conditioner, element, sees_noise=sees_noise, **shapes.of_layer))
    return found


def shuffled(size: int, index: int) -> list[int]:
    """The order of layer ``index``: shuffled, every second the reverse of that before.

    The shuffles are always the same, so that a rebuilt flow is the same flow. On digits they are worth three nats
    against the given order and its reverse alone.
    """
    if size < _SMALL:  # a shuffle may well repeat the order of the layer before
        order = list(range(size))
    else:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(index // 2)).tolist()
    return order if index % 2 == 0 else order[::-1]


def finished(
    stack: list[BijectionModule],
    shapes: FlowShapes,
    mixing: bool | None,
    most: int,
    given: FlowEnds,
    base: DistributionModule | None,
) -> Flow:
    """Layers and what stands between them (by default for at most so many elements) and after them, noise to data."""
    if (shapes.size <= most if mixing is None else mixing) and shapes.size > 1:
        stack = [part for layer in stack for part in (layer, Mixing(shapes.event_shape))]
    ends: list[BijectionModule] = [Standardize(shapes.event_shape)] * given.standardize
    if given.standardize and given.regression and 0 < (features := shapes.context.fixed) <= WIDE:
        ends.insert(0, Regression(features=features, correlated=given.correlated, **shapes.of_layer))
    if given.interval is not None:
        ends.append(bounded(shapes.event_shape, given.interval, given.margin))
    elif given.margin:
        raise ValueError(f"`margin` must be 0 without an `interval`, got {given.margin}")
    return Flow([*stack, *ends], base, embedding=shapes.context, **shapes.of_flow)


def bounded(event_shape: Shape, interval: tuple[GivenEnd, GivenEnd], margin: float) -> Bounded:
    """The last bijection onto an interval.

    Raises:
        ValueError: it is none, or does not fit the events.
    """
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise ValueError(f"`interval` must be a pair (low, high){_EXAMPLES}, got {interval!r}")
    try:
        return Bounded(event_shape, low=interval[0], high=interval[1], margin=margin)
    except ValueError as error:
        raise ValueError(
            f"`interval` must be a pair (low, high) for events of shape {event_shape}{_EXAMPLES}: {error}"
        ) from error
