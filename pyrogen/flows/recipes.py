"""Recipes: flows ready to train, from shapes and numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape
from pyrogen.networks.context import Classes
from pyrogen.networks.velocity import VelocityNetwork
from pyrogen.numerics.ode import AdaptiveSolver
from pyrogen.transforms.affine import Affine
from pyrogen.transforms.monotone import Sigmoids
from pyrogen.transforms.spline import Spline

from .continuous import ContinuousFlow
from .layers import BlockNeuralLayer, PlanarLayer, RadialLayer, SylvesterLayer
from .model import Flow
from .stacks import (
    FEW,
    MANY,
    TEXTS,
    FlowEnds,
    FlowShapes,
    GivenInterval,
    autoregressive_layers,
    coupling_layers,
    finished,
    shuffled,
)

_COUPLING = {
    **TEXTS,
    "layers": "How many coupling layers; elements of even and odd place take turns.",
    "mixing": "Whether a learned matrix mixes the elements before each layer; if ``None``, where there are at most"
    f" {MANY} of them. It has as many parameters as pairs of elements: of a larger image, it would be most of the"
    " flow.",
}
_MOST_WEIGHTS = 70_000_000
"""In one layer of a block neural flow; with their gradients and an optimizer they take a gigabyte."""

_CLASSIC = {**TEXTS, "layers": "How many layers.", "context_shape": "None: these layers take no context."}


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
    interval: GivenInterval = None,
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
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    stack = coupling_layers(Affine(log_scale_bound), shapes, layers, hidden, dropout)
    return finished(stack, shapes, mixing, MANY, FlowEnds(standardize, regression, interval, margin), base)


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
    interval: GivenInterval = None,
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
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    stack = coupling_layers(Spline(bins, bound), shapes, layers, hidden, dropout)
    return finished(stack, shapes, mixing, MANY, FlowEnds(standardize, regression, interval, margin), base)


@recipe(texts=TEXTS)
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
    interval: GivenInterval = None,
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
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    stack = autoregressive_layers(Affine(log_scale_bound), shapes, layers, hidden, dependence, fast_sampling, dropout)
    mixing = mixing if dependence is None else False
    ends = FlowEnds(standardize, regression, interval, margin, correlated=dependence is None)
    return finished(stack, shapes, mixing, FEW, ends, base)


@recipe(texts=TEXTS)
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
    interval: GivenInterval = None,
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
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    stack = autoregressive_layers(Spline(bins, bound), shapes, layers, hidden, dependence, fast_sampling, dropout)
    mixing = mixing if dependence is None else False
    ends = FlowEnds(standardize, regression, interval, margin, correlated=dependence is None)
    return finished(stack, shapes, mixing, FEW, ends, base)


@recipe(texts=TEXTS)
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
    interval: GivenInterval = None,
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
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    stack = autoregressive_layers(Sigmoids(units), shapes, layers, hidden, dependence, fast_sampling, dropout)
    mixing = mixing if dependence is None else False
    ends = FlowEnds(standardize, regression, interval, margin, correlated=dependence is None)
    return finished(stack, shapes, mixing, FEW, ends, base)


@recipe(texts=TEXTS)
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
    interval: GivenInterval = None,
    margin: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of block neural autoregressive layers: the network itself is the bijection, inverted by a root finder.

    Args:
        hidden: How many units *each element* has in each hidden layer. A layer has as many weights as pairs of units:
            36 million for 500 elements. More than 70 million are refused.
        mixing: Whether a learned matrix mixes the elements before each layer; if ``None``, where there are at most 32
            of them.

    References:
        De Cao, Aziz and Titov 2019, "Block neural autoregressive flow", https://arxiv.org/abs/1904.04676

    Example:
        >>> flow = block_neural_autoregressive((3,), layers=2)
        >>> flow().log_prob(flow().sample((5,))).shape
        torch.Size([5])
    """
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    _check_weights(shapes.size, hidden)
    orders = [shuffled(shapes.size, index) for index in range(layers)]
    stack = [
        BlockNeuralLayer(hidden=hidden, order=order, sees_noise=fast_sampling, **shapes.of_layer) for order in orders
    ]
    return finished(stack, shapes, mixing, FEW, FlowEnds(standardize, regression, interval, margin), base)


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


@recipe(texts=TEXTS)
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
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    velocity = VelocityNetwork(shapes.event_shape, hidden=hidden, context=shapes.context.size)
    options = {"standardize": standardize, "solver": AdaptiveSolver(tolerance)}
    return ContinuousFlow(velocity, embedding=shapes.context, **options, **shapes.of_flow)


def _check_weights(size: int, hidden: Sequence[int]) -> None:
    """Refuses block neural layers too large to be trained: every unit has a weight for each of the layer before."""
    numbers = size**2 * max((before * after for before, after in pairwise(hidden)), default=0)
    if numbers > _MOST_WEIGHTS:
        raise ValueError(
            f"`event_shape` must have fewer elements for {list(hidden)} units each, got {size}, for which one layer "
            f"has {numbers:,} weights, more than {_MOST_WEIGHTS:,}; take fewer units, `spline_autoregressive`, or "
            "`multiscale` for images"
        )


def _classic(
    layer: Callable[[Shape], BijectionModule], event_shape: Shape, context_shape: None, layers: int, standardize: bool
) -> Flow:
    if context_shape is not None:
        raise ValueError(f"`context_shape` must be None: these layers take no context, got {context_shape}")
    shapes = FlowShapes(event_shape, None)
    stack = [layer(shapes.event_shape) for _ in range(layers)]
    return finished(stack, shapes, False, 0, FlowEnds(standardize), None)
