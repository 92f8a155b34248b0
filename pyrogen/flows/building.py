"""How recipes build flows: layers of one kind, with linear maps between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn

from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.shapes import ContextShape, Shape, as_context_shape, as_shape
from pyrogen.networks.embedding import Flatten, Labels
from pyrogen.networks.masked import MaskedConditioner, chain
from pyrogen.networks.mlp import Conditioner
from pyrogen.transforms.elements import Element
from pyrogen.transforms.interval import GivenEnd

from .autoregressive import AutoregressiveLayer
from .block_neural import BlockNeuralLayer
from .bounded import Bounded
from .coupling import CouplingLayer
from .linear import Mixing, Standardize
from .model import Flow

_FEW = 16
"""Below so many elements a matrix between autoregressive layers helps; above it overfits small data (measured)."""
_MANY = 256
"""Up to so many elements a matrix mixes them between coupling layers; of an image it would be most of the flow."""
_SMALL = 4


@dataclass(frozen=True)
class Design:
    """What all recipes have in common; see them."""

    layers: int
    hidden: tuple[int, ...]
    classes: int | None
    mixing: bool | None
    standardize: bool
    interval: tuple[GivenEnd, GivenEnd] | None
    margin: float
    dropout: float
    base: DistributionModule | None = None


def coupling(event_shape: Shape, context_shape: ContextShape, element: Element, design: Design) -> Flow:
    """A flow of coupling layers; elements of even and odd place take turns."""
    event_shape = as_shape(event_shape, "event_shape")
    size = prod(event_shape)
    if design.mixing is None:
        design = replace(design, mixing=size <= _MANY)

    def layer(index: int, width: int) -> BijectionModule:
        stay = [size > 1 and place % 2 == index % 2 for place in range(size)]
        conditioner = Conditioner(
            sum(stay), size - sum(stay), element.size, hidden=design.hidden, context=width, dropout=design.dropout
        )
        return CouplingLayer(conditioner, element, stay, event_shape=event_shape, context_shape=_vector(width))

    return _flow(layer, event_shape, context_shape, design)


def autoregressive(
    event_shape: Shape,
    context_shape: ContextShape,
    element: Element,
    design: Design,
    dependence: Sequence[Sequence[bool]] | None,
    sees_noise: bool,
) -> Flow:
    """A flow of autoregressive layers, in a shuffled order and its reverse by turns.

    Raises:
        ValueError: ``dependence`` has another size than the event.
    """
    event_shape = as_shape(event_shape, "event_shape")
    size = prod(event_shape)
    if design.mixing is None:
        design = replace(design, mixing=size < _FEW)
    if dependence is not None:
        design = replace(design, mixing=False)
        if len(dependence) != size or any(len(row) != size for row in dependence):
            raise ValueError(f"`dependence` must have shape {(size, size)}, got {[len(row) for row in dependence]}")

    def layer(index: int, width: int) -> BijectionModule:
        order = _order(size, index)
        conditioner = MaskedConditioner(
            chain(order) if dependence is None else torch.tensor(dependence, dtype=torch.bool),
            element.size,
            hidden=design.hidden,
            context=width,
            dropout=design.dropout,
        )
        return AutoregressiveLayer(
            conditioner, element, event_shape=event_shape, context_shape=_vector(width), sees_noise=sees_noise
        )

    return _flow(layer, event_shape, context_shape, design)


def block_neural(event_shape: Shape, context_shape: ContextShape, design: Design, sees_noise: bool) -> Flow:
    """A flow of block neural autoregressive layers, in a shuffled order and its reverse by turns."""
    event_shape = as_shape(event_shape, "event_shape")
    size = prod(event_shape)
    if design.mixing is None:
        design = replace(design, mixing=size < _FEW)

    def layer(index: int, width: int) -> BijectionModule:
        return BlockNeuralLayer(
            event_shape,
            hidden=design.hidden,
            order=_order(size, index),
            context_shape=_vector(width),
            sees_noise=sees_noise,
        )

    return _flow(layer, event_shape, context_shape, design)


def _flow(
    layer: Callable[[int, int], BijectionModule], event_shape: Shape, context_shape: ContextShape, design: Design
) -> Flow:
    """Layers and what stands between them, noise to data; ``layer`` takes its index and the context's width."""
    if design.layers < 1:
        raise ValueError(f"`layers` must be at least 1, got {design.layers}")
    context_shape, embedding, width = _context(context_shape, design.classes)
    stack: list[BijectionModule] = []
    for index in range(design.layers):
        stack.append(layer(index, width))
        if design.mixing and prod(event_shape) > 1:
            stack.append(Mixing(event_shape))
    if design.standardize:
        stack.append(Standardize(event_shape))
    if design.interval is not None:
        stack.append(_bounded(event_shape, design.interval, design.margin))
    elif design.margin:
        raise ValueError(f"`margin` must be 0 without an `interval`, got {design.margin}")
    return Flow(stack, design.base, event_shape=event_shape, context_shape=context_shape, embedding=embedding)


def _bounded(event_shape: Shape, interval: tuple[GivenEnd, GivenEnd], margin: float) -> Bounded:
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise ValueError(f"`interval` must be a pair (low, high), got {interval!r}")
    try:
        return Bounded(event_shape, low=interval[0], high=interval[1], margin=margin)
    except ValueError as error:
        raise ValueError(f"`interval` must be a pair (low, high) for events of shape {event_shape}: {error}") from error


def _order(size: int, index: int) -> list[int]:
    """The order of layer ``index``: shuffled, every second the reverse of that before.

    The shuffles are always the same, so that a rebuilt flow is the same flow. On digits they are worth three nats
    against the given order and its reverse alone.
    """
    if size < _SMALL:  # a shuffle may well repeat the order of the layer before
        order = list(range(size))
    else:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(index // 2)).tolist()
    return order if index % 2 == 0 else order[::-1]


def _vector(width: int) -> Shape | None:
    return (width,) if width else None


def _context(shape: ContextShape, classes: int | None) -> tuple[ContextShape, nn.Module | None, int]:
    """The context's shape, what embeds it, and how long the embedded vector is."""
    if classes is not None:
        if shape is not None and shape != ():
            raise ValueError(f"`context_shape` must be None where `classes` is given, got {shape}")
        return (), Labels(classes), classes
    shape = as_context_shape(shape)
    if shape is None:
        return None, None, 0
    embedding = Flatten(shape)
    return shape, embedding, embedding.size
