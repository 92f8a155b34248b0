"""Recipes: flows ready to train, from shapes and numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from torch import nn

from pyrogen.core.module import BijectionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_context_shape, as_shape
from pyrogen.networks.embedding import Flatten, Labels
from pyrogen.networks.mlp import Conditioner
from pyrogen.transforms.elements import Affine, Element, Spline

from .bounded import Bounded
from .coupling import CouplingLayer
from .linear import Mixing, Standardize
from .model import Flow


@recipe
def affine_coupling(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 6,
    hidden: Sequence[int] = (128, 128),
    classes: int | None = None,
    log_scale_bound: float = 3.0,
    mixing: bool = True,
    standardize: bool = True,
    interval: tuple[float, float] | None = None,
    dropout: float = 0.0,
) -> Flow:
    """A flow of affine coupling layers: the cheapest, for smooth densities and many dimensions.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        layers: How many coupling layers; elements of even and odd place take turns.
        hidden: Sizes of the hidden layers of each conditioner.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        log_scale_bound: Each layer scales by a factor between ``exp(-log_scale_bound)`` and ``exp(log_scale_bound)``.
        mixing: Whether a learned matrix mixes the elements before each layer.
        standardize: Whether the first batch in training sets mean and scale of the data.
        interval: Where the data lie, if they are bounded: a scaled logistic comes last.
        dropout: Share of the conditioners' hidden units dropped in training.

    Raises:
        ValueError: ``layers`` is less than one, or both ``classes`` and ``context_shape`` are given.

    References:
        Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803

    Example:
        >>> flow = affine_coupling((2,), layers=4)
        >>> flow().sample((5,)).shape
        torch.Size([5, 2])
    """
    element = Affine(log_scale_bound)
    return _coupling(event_shape, context_shape, element, layers, hidden, classes, mixing, standardize, interval, dropout)


@recipe
def spline_coupling(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 4,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    classes: int | None = None,
    mixing: bool = True,
    standardize: bool = True,
    interval: tuple[float, float] | None = None,
    dropout: float = 0.0,
) -> Flow:
    """A flow of rational-quadratic-spline coupling layers: sharp densities, fast both ways.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        layers: How many coupling layers; elements of even and odd place take turns.
        hidden: Sizes of the hidden layers of each conditioner.
        bins: How many bins each spline has.
        bound: The splines live on ``[-bound, bound]`` in standardised units and are linear outside.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        mixing: Whether a learned matrix mixes the elements before each layer.
        standardize: Whether the first batch in training sets mean and scale of the data.
        interval: Where the data lie, if they are bounded: a scaled logistic comes last.
        dropout: Share of the conditioners' hidden units dropped in training.

    Raises:
        ValueError: ``layers`` is less than one, or both ``classes`` and ``context_shape`` are given.

    References:
        Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032

    Example:
        >>> flow = spline_coupling((2,), layers=4)
        >>> flow().log_prob(flow().sample((5,))).shape
        torch.Size([5])
    """
    element = Spline(bins, bound)
    return _coupling(event_shape, context_shape, element, layers, hidden, classes, mixing, standardize, interval, dropout)


def _coupling(
    event_shape: Shape,
    context_shape: ContextShape,
    element: Element,
    layers: int,
    hidden: Sequence[int],
    classes: int | None,
    mixing: bool,
    standardize: bool,
    interval: tuple[float, float] | None,
    dropout: float,
) -> Flow:
    event_shape = as_shape(event_shape, "event_shape")
    context_shape, embedding, width = _context(context_shape, classes)
    size = prod(event_shape)

    def layer(index: int) -> BijectionModule:
        stay = [size > 1 and place % 2 == index % 2 for place in range(size)]
        conditioner = Conditioner(
            sum(stay), size - sum(stay), element.size, hidden=hidden, context=width, dropout=dropout
        )
        vector = (width,) if width else None
        return CouplingLayer(conditioner, element, stay, event_shape=event_shape, context_shape=vector)

    bijections = _stack(layer, event_shape, layers, mixing, standardize, interval)
    return Flow(bijections, event_shape=event_shape, context_shape=context_shape, embedding=embedding)


def _stack(
    layer: Callable[[int], BijectionModule],
    event_shape: Shape,
    layers: int,
    mixing: bool,
    standardize: bool,
    interval: tuple[float, float] | None,
) -> list[BijectionModule]:
    """Layers and what stands between them, noise to data."""
    if layers < 1:
        raise ValueError(f"`layers` must be at least 1, got {layers}")
    stack: list[BijectionModule] = []
    for index in range(layers):
        stack.append(layer(index))
        if mixing and prod(event_shape) > 1:
            stack.append(Mixing(event_shape))
    if standardize:
        stack.append(Standardize(event_shape))
    if interval is not None:
        low, high = interval
        stack.append(Bounded(event_shape, low=low, high=high))
    return stack


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
