"""Recipes of flows of angles and of unit vectors, ready to train."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import nn

from pyrogen.arguments import checked, switch
from pyrogen.core.module import BijectionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape
from pyrogen.networks.context import Classes
from pyrogen.networks.masked import MaskedConditioner, chain
from pyrogen.networks.mlp import Conditioner
from pyrogen.transforms.elements import Element, Mixed
from pyrogen.transforms.interval import end_of
from pyrogen.transforms.moebius import Moebius
from pyrogen.transforms.spline import CircularSpline, Spline

from .circular import Angles, UniformAngles, Wrapped, flags_of
from .layers import AutoregressiveLayer, CouplingLayer
from .linear import Standardize
from .model import Flow
from .sphere import SphereLayer, UniformDirections
from .stacks import TEXTS, FlowShapes, GivenInterval, bounded, shuffled


@recipe(texts=TEXTS)
@checked(smooth=switch, autoregressive=switch)
def circular(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    angles: Angles = True,
    layers: int = 4,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    smooth: bool = False,
    autoregressive: bool = False,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    standardize: bool = True,
    interval: GivenInterval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
) -> Flow:
    """A flow of angles in radians, alone (a torus) or beside real, positive or bounded numbers in one event.

    ``log_prob`` takes any number for an angle and is periodic in it, as is its gradient. Draws lie in ``[-pi, pi]``.

    Args:
        angles: Which elements are angles: ``True`` for all, or one truth value for each (flattened) element.
        layers: How many layers. Of coupling layers, elements of even and odd place take turns.
        bins: How many bins each spline has, or how many Moebius transformations are mixed.
        bound: The splines of numbers that are no angles live on ``[-bound, bound]``; see :class:`Spline`.
        smooth: Whether angles are mapped by mixtures of Moebius transformations, whose density is smooth, instead of
            splines; draws are then found by a root finder.
        autoregressive: Whether in a layer each element depends on all before it, so that a draw takes a pass for each
            element, instead of one half on the other.
        standardize: Whether mean and scale of each element that is no angle are learned from the data set.
        interval: ``(low, high)``, for the elements that are no angles: each end a number, or a list with one for each
            element, ``None`` where there is none and for angles.

    Raises:
        ValueError: ``angles`` does not fit ``event_shape``, or ``interval`` has an end for an angle.

    References:
        Rezende et al. 2020, "Normalizing flows on tori and spheres", https://arxiv.org/abs/2002.02428

    Example:
        >>> torus = circular((2,), layers=2)
        >>> x = torch.tensor([[3.0, 1.0], [3.0 - 2 * torch.pi, 1.0]])
        >>> torch.allclose(*torus().log_prob(x))
        True
    """
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    flags = flags_of(angles, shapes.size)
    element = Moebius(bins) if smooth else CircularSpline(bins)
    layer = _autoregressive_layer if autoregressive else _coupling_layer
    options = {"hidden": hidden, "context": shapes.context.size, "dropout": dropout}
    stack = [layer(index, (element, Spline(bins, bound)), flags, shapes, options) for index in range(layers)]
    ends = _ends(flags, shapes, standardize, interval, margin)
    base = UniformAngles(shapes.event_shape, angles=flags)
    return Flow([*stack, *ends], base, embedding=shapes.context, **shapes.of_flow)


@recipe(texts=TEXTS)
@checked
def sphere(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 3,
    hidden: Sequence[int] = (64, 64),
    bins: int = 8,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    dropout: float = 0.0,
) -> Flow:
    """A flow of unit vectors, on the sphere of any dimension. Densities are by area.

    Args:
        event_shape: ``(D + 1,)``: the shape of a unit vector, ``(3,)`` for the usual sphere.
        layers: How many layers, each with poles of its own.

    Raises:
        ValueError: ``event_shape`` is not that of a vector of at least two elements.

    References:
        Rezende et al. 2020, "Normalizing flows on tori and spheres", https://arxiv.org/abs/2002.02428

    Example:
        >>> flow = sphere((3,), layers=2)
        >>> flow().sample((5,)).square().sum(-1).allclose(torch.ones(5))
        True
    """
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    if len(shapes.event_shape) != 1 or shapes.size < 2:
        raise ValueError(f"`event_shape` must be that of a vector of at least 2 elements, got {shapes.event_shape}")
    stack = [
        SphereLayer(hidden=hidden, bins=bins, roll=index % shapes.size, dropout=dropout, **shapes.of_layer)
        for index in range(layers)
    ]
    base = UniformDirections(shapes.event_shape)
    return Flow(stack, base, embedding=shapes.context, **shapes.of_flow)


def _coupling_layer(
    index: int, elements: tuple[Element, Element], flags: list[bool], shapes: FlowShapes, options: dict
) -> CouplingLayer:
    stay = [shapes.size > 1 and place % 2 == index % 2 for place in range(shapes.size)]
    seen = [flag for flag, stays in zip(flags, stay, strict=True) if stays]
    element = _element(elements, [flag for flag, stays in zip(flags, stay, strict=True) if not stays])
    conditioner = Conditioner(len(seen), shapes.size - len(seen), element.size, angles=seen, **options)
    return CouplingLayer(conditioner, element, stay, **shapes.of_layer)


def _autoregressive_layer(
    index: int, elements: tuple[Element, Element], flags: list[bool], shapes: FlowShapes, options: dict
) -> AutoregressiveLayer:
    order = shuffled(shapes.size, index)
    element = _element(elements, [flags[place] for place in order])
    conditioner = MaskedConditioner(chain(order), element.size, angles=flags, **options)
    return AutoregressiveLayer(conditioner, element, **shapes.of_layer)


def _element(elements: tuple[Element, Element], flags: list[bool]) -> Element:
    """How numbers are mapped of which some are angles: one element, if they are of one kind."""
    if all(flags) or not any(flags):
        return elements[0] if flags[0] else elements[1]
    return Mixed(elements, [0 if flag else 1 for flag in flags])


def _ends(
    flags: list[bool], shapes: FlowShapes, standardize: bool, interval: GivenInterval, margin: float
) -> list[BijectionModule]:
    """What stands between the layers and the data."""
    others = not all(flags)
    ends: list[BijectionModule] = [Standardize(shapes.event_shape, kept=flags)] if standardize and others else []
    low = high = None
    if interval is not None:
        ends.append(bounded(shapes.event_shape, _of_others(interval, flags, shapes.event_shape), margin))
        low, high = ends[-1].ends
    elif margin:
        raise ValueError(f"`margin` must be 0 without an `interval`, got {margin}")
    return [*ends, Wrapped(shapes.event_shape, angles=flags, low=low, high=high)]


def _of_others(interval: GivenInterval, flags: list[bool], event_shape: Shape) -> GivenInterval:
    """The interval with one end for each element, none for angles."""
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise ValueError(f"`interval` must be a pair (low, high), got {interval!r}")
    if all(flags):
        raise ValueError(f"`interval` must be None where all elements are angles, which have no end, got {interval!r}")
    angles, ends = torch.tensor(flags).reshape(event_shape), []
    for given, infinite in zip(interval, (-inf, inf), strict=True):
        end = torch.as_tensor(end_of(given, infinite, "interval"), dtype=torch.get_default_dtype())
        if end.dim() and bool((end.isfinite() & angles).any()):
            raise ValueError(f"`interval` must hold None for angles, which have no end, got {given!r}")
        ends.append(end.masked_fill(angles, infinite))
    return tuple(ends)
