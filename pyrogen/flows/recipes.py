"""Recipes: flows ready to train, from shapes and numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import NamedTuple

import torch
from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes, VectorContext
from pyrogen.networks.masked import MaskedConditioner, chain
from pyrogen.networks.mlp import Conditioner
from pyrogen.networks.velocity import VelocityNetwork
from pyrogen.numerics.ode import AdaptiveSolver
from pyrogen.transforms.affine import Affine
from pyrogen.transforms.elements import Element
from pyrogen.transforms.interval import GivenEnd
from pyrogen.transforms.monotone import Sigmoids
from pyrogen.transforms.spline import Spline

from .bounded import Bounded
from .continuous import ContinuousFlow
from .layers import AutoregressiveLayer, BlockNeuralLayer, CouplingLayer, PlanarLayer, RadialLayer, SylvesterLayer
from .linear import Mixing, Standardize
from .model import Flow
from .regression import Regression

_FEW = 16
"""Below so many elements a matrix between autoregressive layers helps; above it overfits small data (measured)."""
_MANY = 256
"""Up to so many elements a matrix mixes them between coupling layers; of an image it would be most of the flow."""
_WIDE = 512
"""On up to so many elements of a context events are regressed: more would take long."""
_SMALL = 4

_Interval = tuple[GivenEnd, GivenEnd] | None

_TEXTS = {
    "layers": "How many layers, each with its own (fixed) shuffled order of the elements, or the reverse of the last.",
    "bins": "How many bins each spline has.",
    "bound": "The splines live on ``[-bound, bound]`` in standardized units and are linear outside.",
    "log_scale_bound": "Each layer scales by a factor between ``exp(-log_scale_bound)`` and ``exp(log_scale_bound)``.",
    "dependence": "If given, a boolean matrix ``(D, D)``: which element (row) may depend on which (column) in a layer,"
    " without cycles; every layer then has the same and ``mixing`` is off.",
    "fast_sampling": "Whether draws take one pass and densities a sweep over the elements (for variational inference),"
    " instead of densities one pass and draws a sweep (for fitting data).",
    "mixing": "Whether a learned matrix mixes the elements before each layer; if ``None``, where there are fewer than"
    f" {_FEW} of them and no ``dependence``.",
    "standardize": "Whether mean and scale of each element are learned from the data set, before training.",
    "regression": "Whether events are first explained by a linear regression on the context, learned from the data set"
    " before training, so that the layers learn what it leaves; with ``standardize``, and where the context has at most"
    f" {_WIDE} elements before any learned embedding. See :mod:`pyrogen.flows.regression`.",
    "interval": "The open interval ``(low, high)`` in which the data lie, if they are bounded, and so does every draw."
    " Each end is a number, one for each element, or ``None`` where there is none.",
    "margin": "By what share the support is wider than ``interval``, for data exactly at its ends; draws then lie"
    " beyond, too. See :class:`~pyrogen.flows.bounded.Bounded`.",
    "base": "The distribution of the noise, itself built by a recipe if the flow is to be saved; standard normal if"
    " ``None``.",
}
_COUPLING = {
    **_TEXTS,
    "layers": "How many coupling layers; elements of even and odd place take turns.",
    "mixing": "Whether a learned matrix mixes the elements before each layer; if ``None``, where there are at most"
    f" {_MANY} of them. It has as many parameters as pairs of elements: of a larger image, it would be most of the"
    " flow.",
}
_CLASSIC = {**_TEXTS, "layers": "How many layers.", "context_shape": "None: these layers take no context."}


@recipe(texts=_COUPLING)
@checked
def affine_coupling(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 6,
    hidden: Sequence[int] = (128, 128),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    log_scale_bound: float = 3.0,
    mixing: bool | None = None,
    standardize: bool = True,
    regression: bool = False,
    interval: _Interval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of affine coupling layers: the cheapest, for smooth densities and many dimensions.

    References:
        Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803

    Example:
        >>> flow = affine_coupling((2,), layers=4)
        >>> flow().sample((5,)).shape
        torch.Size([5, 2])
    """
    shapes = _Shapes(event_shape, context_shape, classes, embedding)
    stack = _coupling(Affine(log_scale_bound), shapes, layers, hidden, dropout)
    return _flow(stack, shapes, mixing, _MANY, _Ends(standardize, regression, interval, margin), base)


@recipe(texts=_COUPLING)
@checked
def spline_coupling(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 4,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    mixing: bool | None = None,
    standardize: bool = True,
    regression: bool = False,
    interval: _Interval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of rational-quadratic-spline coupling layers: sharp densities, fast both ways.

    References:
        Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032

    Example:
        >>> flow = spline_coupling((2,), layers=4)
        >>> flow().log_prob(flow().sample((5,))).shape
        torch.Size([5])
    """
    shapes = _Shapes(event_shape, context_shape, classes, embedding)
    stack = _coupling(Spline(bins, bound), shapes, layers, hidden, dropout)
    return _flow(stack, shapes, mixing, _MANY, _Ends(standardize, regression, interval, margin), base)


@recipe(texts=_TEXTS)
@checked
def affine_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (128, 128),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    log_scale_bound: float = 3.0,
    dependence: Sequence[Sequence[bool]] | None = None,
    fast_sampling: bool = False,
    mixing: bool | None = None,
    standardize: bool = True,
    regression: bool = False,
    interval: _Interval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of affine autoregressive layers: masked autoregressive flow, or inverse autoregressive flow.

    References:
        Papamakarios, Pavlakou and Murray 2017, "Masked autoregressive flow for density estimation",
        https://arxiv.org/abs/1705.07057
        Kingma et al. 2016, "Improving variational inference with inverse autoregressive flow",
        https://arxiv.org/abs/1606.04934

    Example:
        >>> flow = affine_autoregressive((3,), layers=2)
        >>> flow().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """
    shapes = _Shapes(event_shape, context_shape, classes, embedding)
    stack = _autoregressive(Affine(log_scale_bound), shapes, layers, hidden, dependence, fast_sampling, dropout)
    mixing = mixing if dependence is None else False
    ends = _Ends(standardize, regression, interval, margin, correlated=dependence is None)
    return _flow(stack, shapes, mixing, _FEW - 1, ends, base)


@recipe(texts=_TEXTS)
@checked
def spline_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 3,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    dependence: Sequence[Sequence[bool]] | None = None,
    fast_sampling: bool = False,
    mixing: bool | None = None,
    standardize: bool = True,
    regression: bool = False,
    interval: _Interval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of rational-quadratic-spline autoregressive layers: the most flexible a layer.

    References:
        Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032

    Example:
        >>> flow = spline_autoregressive((3,), layers=2)
        >>> flow().sample((5,)).shape
        torch.Size([5, 3])
    """
    shapes = _Shapes(event_shape, context_shape, classes, embedding)
    stack = _autoregressive(Spline(bins, bound), shapes, layers, hidden, dependence, fast_sampling, dropout)
    mixing = mixing if dependence is None else False
    ends = _Ends(standardize, regression, interval, margin, correlated=dependence is None)
    return _flow(stack, shapes, mixing, _FEW - 1, ends, base)


@recipe(texts=_TEXTS)
@checked
def neural_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 2,
    hidden: Sequence[int] = (128, 128),
    units: int = 8,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    dependence: Sequence[Sequence[bool]] | None = None,
    fast_sampling: bool = False,
    mixing: bool | None = None,
    standardize: bool = True,
    regression: bool = False,
    interval: _Interval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of neural autoregressive layers: smooth monotone networks, inverted by a bracketed root finder.

    Args:
        units: How many sigmoids each monotone network has.

    References:
        Huang, Krueger, Lacoste and Courville 2018, "Neural autoregressive flows", https://arxiv.org/abs/1804.00779

    Example:
        >>> flow = neural_autoregressive((3,), layers=2)
        >>> flow().sample((5,)).shape
        torch.Size([5, 3])
    """
    shapes = _Shapes(event_shape, context_shape, classes, embedding)
    stack = _autoregressive(Sigmoids(units), shapes, layers, hidden, dependence, fast_sampling, dropout)
    mixing = mixing if dependence is None else False
    ends = _Ends(standardize, regression, interval, margin, correlated=dependence is None)
    return _flow(stack, shapes, mixing, _FEW - 1, ends, base)


@recipe(texts=_TEXTS)
@checked
def block_neural_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 2,
    hidden: Sequence[int] = (12, 12),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    fast_sampling: bool = False,
    mixing: bool | None = None,
    standardize: bool = True,
    regression: bool = False,
    interval: _Interval = None,
    margin: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of block neural autoregressive layers: the network itself is the bijection, inverted by a root finder.

    Args:
        hidden: How many units *each element* has in each hidden layer.
        mixing: Whether a learned matrix mixes the elements before each layer; if ``None``, where there are fewer than
            16 of them.

    References:
        De Cao, Aziz and Titov 2019, "Block neural autoregressive flow", https://arxiv.org/abs/1904.04676

    Example:
        >>> flow = block_neural_autoregressive((3,), layers=2)
        >>> flow().log_prob(flow().sample((5,))).shape
        torch.Size([5])
    """
    shapes = _Shapes(event_shape, context_shape, classes, embedding)
    orders = [_order(shapes.size, index) for index in range(layers)]
    stack = [
        BlockNeuralLayer(hidden=hidden, order=order, sees_noise=fast_sampling, **shapes.of_layer) for order in orders
    ]
    return _flow(stack, shapes, mixing, _FEW - 1, _Ends(standardize, regression, interval, margin), base)


@recipe(texts=_CLASSIC)
@checked
def planar(event_shape: Shape, context_shape: None = None, *, layers: int = 8, standardize: bool = True) -> Flow:
    """A flow of learned ridges; few parameters, inverted by root finding."""
    return _classic(PlanarLayer, event_shape, context_shape, layers, standardize)


@recipe(texts=_CLASSIC)
@checked
def radial(event_shape: Shape, context_shape: None = None, *, layers: int = 8, standardize: bool = True) -> Flow:
    """A flow of learned contractions and expansions around centres; few parameters, inverted by root finding."""
    return _classic(RadialLayer, event_shape, context_shape, layers, standardize)


@recipe(texts=_CLASSIC)
@checked
def sylvester(
    event_shape: Shape, context_shape: None = None, *, layers: int = 8, rank: int = 2, standardize: bool = True
) -> Flow:
    """A flow of several learned ridges at once; few parameters, inverted by root finding.

    Args:
        rank: How many ridges each layer has, at most the number of elements.
    """
    return _classic(partial(SylvesterLayer, rank=rank), event_shape, context_shape, layers, standardize)


@recipe(texts=_TEXTS)
@checked
def continuous(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    hidden: Sequence[int] = (128, 128),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    standardize: bool = True,
    tolerance: float = 1e-5,
) -> ContinuousFlow:
    """A continuous flow: a velocity network, trained by flow matching or by likelihood.

    Args:
        hidden: Sizes of the hidden layers. With one or two of them an exact density costs no more than an estimate.
        tolerance: Of one step of the solver.

    References:
        Grathwohl et al. 2019, "FFJORD: Free-form continuous dynamics for scalable reversible generative models",
        https://arxiv.org/abs/1810.01367
        Lipman et al. 2023, "Flow matching for generative modeling", https://arxiv.org/abs/2210.02747

    Example:
        >>> flow = continuous((2,), hidden=(32, 32))
        >>> flow().sample((5,)).shape
        torch.Size([5, 2])
    """
    shapes = _Shapes(event_shape, context_shape, classes, embedding)
    velocity = VelocityNetwork(shapes.event_shape, hidden=hidden, context=shapes.context.size)
    options = {"standardize": standardize, "solver": AdaptiveSolver(tolerance)}
    return ContinuousFlow(velocity, embedding=shapes.context, **options, **shapes.of_flow)


class _Ends(NamedTuple):
    """What stands between the layers and the data."""

    standardize: bool
    regression: bool = False
    interval: _Interval = None
    margin: float = 0.0
    correlated: bool = True


class _Shapes:
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


def _coupling(
    element: Element, shapes: _Shapes, layers: int, hidden: Sequence[int], dropout: float
) -> list[BijectionModule]:
    """Coupling layers; elements of even and odd place take turns."""
    size, options, found = shapes.size, {"hidden": hidden, "context": shapes.context.size, "dropout": dropout}, []
    for index in range(layers):
        stay = [size > 1 and place % 2 == index % 2 for place in range(size)]
        conditioner = Conditioner(sum(stay), size - sum(stay), element.size, **options)
        found.append(CouplingLayer(conditioner, element, stay, **shapes.of_layer))
    return found


def _autoregressive(
    element: Element,
    shapes: _Shapes,
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
        allowed = chain(_order(size, index)) if dependence is None else torch.tensor(dependence, dtype=torch.bool)
        conditioner = MaskedConditioner(allowed, element.size, **options)
        found.append(AutoregressiveLayer(conditioner, element, sees_noise=sees_noise, **shapes.of_layer))
    return found


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


def _flow(
    stack: list[BijectionModule],
    shapes: _Shapes,
    mixing: bool | None,
    most: int,
    given: _Ends,
    base: DistributionModule | None,
) -> Flow:
    """Layers and what stands between them (by default for at most so many elements) and after them, noise to data."""
    if (shapes.size <= most if mixing is None else mixing) and shapes.size > 1:
        stack = [part for layer in stack for part in (layer, Mixing(shapes.event_shape))]
    ends: list[BijectionModule] = [Standardize(shapes.event_shape)] * given.standardize
    if given.standardize and given.regression and 0 < (features := shapes.context.fixed) <= _WIDE:
        ends.insert(0, Regression(features=features, correlated=given.correlated, **shapes.of_layer))
    if given.interval is not None:
        ends.append(_bounded(shapes.event_shape, given.interval, given.margin))
    elif given.margin:
        raise ValueError(f"`margin` must be 0 without an `interval`, got {given.margin}")
    return Flow([*stack, *ends], base, embedding=shapes.context, **shapes.of_flow)


_EXAMPLES = ", such as (0.0, 1.0), (0.0, None), or ([0.0, -1.0], [None, 1.0]) for two columns"


def _bounded(event_shape: Shape, interval: tuple[GivenEnd, GivenEnd], margin: float) -> Bounded:
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise ValueError(f"`interval` must be a pair (low, high){_EXAMPLES}, got {interval!r}")
    try:
        return Bounded(event_shape, low=interval[0], high=interval[1], margin=margin)
    except ValueError as error:
        raise ValueError(
            f"`interval` must be a pair (low, high) for events of shape {event_shape}{_EXAMPLES}: {error}"
        ) from error


def _classic(
    layer: Callable[[Shape], BijectionModule], event_shape: Shape, context_shape: None, layers: int, standardize: bool
) -> Flow:
    if context_shape is not None:
        raise ValueError(f"`context_shape` must be None: these layers take no context, got {context_shape}")
    shapes = _Shapes(event_shape, None)
    stack = [layer(shapes.event_shape) for _ in range(layers)]
    return _flow(stack, shapes, False, 0, _Ends(standardize), None)
