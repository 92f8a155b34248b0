"""Recipes: flows ready to train, from shapes and numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

from pyrogen.arguments import checked
from pyrogen.core.module import DistributionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape
from pyrogen.transforms.elements import Affine
from pyrogen.transforms.interval import GivenEnd
from pyrogen.transforms.monotone import Sigmoids
from pyrogen.transforms.spline import Spline

from .building import Design, autoregressive, block_neural, coupling
from .model import Flow


@recipe
@checked
def affine_coupling(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 6,
    hidden: Sequence[int] = (128, 128),
    classes: int | None = None,
    log_scale_bound: float = 3.0,
    mixing: bool | None = None,
    standardize: bool = True,
    interval: tuple[GivenEnd, GivenEnd] | None = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of affine coupling layers: the cheapest, for smooth densities and many dimensions.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        layers: How many coupling layers; elements of even and odd place take turns.
        hidden: Sizes of the hidden layers of each conditioner.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        log_scale_bound: Each layer scales by a factor between ``exp(-log_scale_bound)`` and ``exp(log_scale_bound)``.
        mixing: Whether a learned matrix mixes the elements before each layer; if ``None``, where there are at most 256
            of them. It has as many parameters as pairs of elements: of a larger image, it would be most of the flow.
        standardize: Whether mean and scale of each element are learned from the data set, before training.
        interval: The open interval ``(low, high)`` in which the data lie, if they are bounded, and so does every draw.
            Each end is a number, one for each element, or ``None`` where there is none.
        margin: By what share the support is wider than ``interval``, for data exactly at its ends; draws then lie
            beyond, too. See :class:`~pyrogen.flows.bounded.Bounded`.
        dropout: Share of the conditioners' hidden units dropped in training.
        base: The distribution of the noise, itself built by a recipe if the flow is to be saved; standard normal if
            ``None``.

    Raises:
        ValueError: ``layers`` is less than one, or both ``classes`` and ``context_shape`` are given.

    References:
        Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803

    Example:
        >>> flow = affine_coupling((2,), layers=4)
        >>> flow().sample((5,)).shape
        torch.Size([5, 2])
    """
    design = Design(layers, tuple(hidden), classes, mixing, standardize, interval, margin, dropout, base)
    return coupling(event_shape, context_shape, Affine(log_scale_bound), design)


@recipe
@checked
def spline_coupling(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 4,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    classes: int | None = None,
    mixing: bool | None = None,
    standardize: bool = True,
    interval: tuple[GivenEnd, GivenEnd] | None = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
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
        mixing: Whether a learned matrix mixes the elements before each layer; if ``None``, where there are at most 256
            of them. It has as many parameters as pairs of elements: of a larger image, it would be most of the flow.
        standardize: Whether mean and scale of each element are learned from the data set, before training.
        interval: The open interval ``(low, high)`` in which the data lie, if they are bounded, and so does every draw.
            Each end is a number, one for each element, or ``None`` where there is none.
        margin: By what share the support is wider than ``interval``, for data exactly at its ends; draws then lie
            beyond, too. See :class:`~pyrogen.flows.bounded.Bounded`.
        dropout: Share of the conditioners' hidden units dropped in training.
        base: The distribution of the noise, itself built by a recipe if the flow is to be saved; standard normal if
            ``None``.

    Raises:
        ValueError: ``layers`` is less than one, or both ``classes`` and ``context_shape`` are given.

    References:
        Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032

    Example:
        >>> flow = spline_coupling((2,), layers=4)
        >>> flow().log_prob(flow().sample((5,))).shape
        torch.Size([5])
    """
    design = Design(layers, tuple(hidden), classes, mixing, standardize, interval, margin, dropout, base)
    return coupling(event_shape, context_shape, Spline(bins, bound), design)


@recipe
@checked
def affine_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (128, 128),
    classes: int | None = None,
    log_scale_bound: float = 3.0,
    dependence: Sequence[Sequence[bool]] | None = None,
    fast_sampling: bool = False,
    mixing: bool | None = None,
    standardize: bool = True,
    interval: tuple[GivenEnd, GivenEnd] | None = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of affine autoregressive layers: masked autoregressive flow, or inverse autoregressive flow.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        layers: How many layers, each with its own (fixed) shuffled order of the elements, or the reverse of the last.
        hidden: Sizes of the hidden layers of each masked network.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        log_scale_bound: Each layer scales by a factor between ``exp(-log_scale_bound)`` and ``exp(log_scale_bound)``.
        dependence: If given, a matrix that says which element (row) may depend on which (column) in each layer, without
            cycles; every layer then has the same and ``mixing`` is off.
        fast_sampling: Whether draws take one pass and densities a sweep over the elements (for variational inference),
            instead of densities one pass and draws a sweep (for fitting data).
        mixing: Whether a learned matrix mixes the elements before each layer; if ``None``, where there are fewer than
            16 of them and no ``dependence``.
        standardize: Whether mean and scale of each element are learned from the data set, before training.
        interval: The open interval ``(low, high)`` in which the data lie, if they are bounded, and so does every draw.
            Each end is a number, one for each element, or ``None`` where there is none.
        margin: By what share the support is wider than ``interval``, for data exactly at its ends; draws then lie
            beyond, too. See :class:`~pyrogen.flows.bounded.Bounded`.
        dropout: Share of the networks' hidden units dropped in training.
        base: The distribution of the noise, itself built by a recipe if the flow is to be saved; standard normal if
            ``None``.

    Raises:
        ValueError: ``layers`` is less than one, both ``classes`` and ``context_shape`` are given, or ``dependence`` has
            a cycle or another size than the event.

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
    design = Design(layers, tuple(hidden), classes, mixing, standardize, interval, margin, dropout, base)
    return autoregressive(event_shape, context_shape, Affine(log_scale_bound), design, dependence, fast_sampling)


@recipe
@checked
def spline_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 3,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    classes: int | None = None,
    dependence: Sequence[Sequence[bool]] | None = None,
    fast_sampling: bool = False,
    mixing: bool | None = None,
    standardize: bool = True,
    interval: tuple[GivenEnd, GivenEnd] | None = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of rational-quadratic-spline autoregressive layers: the most flexible a layer.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        layers: How many layers, each with its own (fixed) shuffled order of the elements, or the reverse of the last.
        hidden: Sizes of the hidden layers of each masked network.
        bins: How many bins each spline has.
        bound: The splines live on ``[-bound, bound]`` in standardised units and are linear outside.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        dependence: As for :func:`affine_autoregressive`.
        fast_sampling: As for :func:`affine_autoregressive`.
        mixing: Whether a learned matrix mixes the elements before each layer; if ``None``, where there are fewer than
            16 of them and no ``dependence``.
        standardize: Whether mean and scale of each element are learned from the data set, before training.
        interval: The open interval ``(low, high)`` in which the data lie, if they are bounded, and so does every draw.
            Each end is a number, one for each element, or ``None`` where there is none.
        margin: By what share the support is wider than ``interval``, for data exactly at its ends; draws then lie
            beyond, too. See :class:`~pyrogen.flows.bounded.Bounded`.
        dropout: Share of the networks' hidden units dropped in training.
        base: The distribution of the noise, itself built by a recipe if the flow is to be saved; standard normal if
            ``None``.

    Raises:
        ValueError: As for :func:`affine_autoregressive`.

    References:
        Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032

    Example:
        >>> flow = spline_autoregressive((3,), layers=2)
        >>> flow().sample((5,)).shape
        torch.Size([5, 3])
    """
    design = Design(layers, tuple(hidden), classes, mixing, standardize, interval, margin, dropout, base)
    return autoregressive(event_shape, context_shape, Spline(bins, bound), design, dependence, fast_sampling)


@recipe
@checked
def neural_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 2,
    hidden: Sequence[int] = (128, 128),
    units: int = 8,
    classes: int | None = None,
    dependence: Sequence[Sequence[bool]] | None = None,
    fast_sampling: bool = False,
    mixing: bool | None = None,
    standardize: bool = True,
    interval: tuple[GivenEnd, GivenEnd] | None = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of neural autoregressive layers: smooth monotone networks, inverted by a bracketed root finder.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        layers: How many layers, each with its own (fixed) shuffled order of the elements, or the reverse of the last.
        hidden: Sizes of the hidden layers of each masked network.
        units: How many sigmoids each monotone network has.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        dependence: As for :func:`affine_autoregressive`.
        fast_sampling: As for :func:`affine_autoregressive`.
        mixing: Whether a learned matrix mixes the elements before each layer; if ``None``, where there are fewer than
            16 of them and no ``dependence``.
        standardize: Whether mean and scale of each element are learned from the data set, before training.
        interval: The open interval ``(low, high)`` in which the data lie, if they are bounded, and so does every draw.
            Each end is a number, one for each element, or ``None`` where there is none.
        margin: By what share the support is wider than ``interval``, for data exactly at its ends; draws then lie
            beyond, too. See :class:`~pyrogen.flows.bounded.Bounded`.
        dropout: Share of the networks' hidden units dropped in training.
        base: The distribution of the noise, itself built by a recipe if the flow is to be saved; standard normal if
            ``None``.

    Raises:
        ValueError: As for :func:`affine_autoregressive`.

    References:
        Huang, Krueger, Lacoste and Courville 2018, "Neural autoregressive flows", https://arxiv.org/abs/1804.00779

    Example:
        >>> flow = neural_autoregressive((3,), layers=2)
        >>> flow().sample((5,)).shape
        torch.Size([5, 3])
    """
    design = Design(layers, tuple(hidden), classes, mixing, standardize, interval, margin, dropout, base)
    return autoregressive(event_shape, context_shape, Sigmoids(units), design, dependence, fast_sampling)


@recipe
@checked
def block_neural_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 2,
    hidden: Sequence[int] = (12, 12),
    classes: int | None = None,
    fast_sampling: bool = False,
    mixing: bool | None = None,
    standardize: bool = True,
    interval: tuple[GivenEnd, GivenEnd] | None = None,
    margin: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of block neural autoregressive layers: the network itself is the bijection, inverted by a root finder.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        layers: How many layers, each with its own (fixed) shuffled order of the elements, or the reverse of the last.
        hidden: How many units *each element* has in each hidden layer.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        fast_sampling: Whether draws take one pass and densities a sweep over the elements, instead of the reverse.
        mixing: Whether a learned matrix mixes the elements before each layer; if ``None``, where there are fewer than
            16 of them.
        standardize: Whether mean and scale of each element are learned from the data set, before training.
        interval: The open interval ``(low, high)`` in which the data lie, if they are bounded, and so does every draw.
            Each end is a number, one for each element, or ``None`` where there is none.
        margin: By what share the support is wider than ``interval``, for data exactly at its ends; draws then lie
            beyond, too. See :class:`~pyrogen.flows.bounded.Bounded`.
        base: The distribution of the noise, itself built by a recipe if the flow is to be saved; standard normal if
            ``None``.

    Raises:
        ValueError: ``layers`` is less than one, ``hidden`` is empty, or both ``classes`` and ``context_shape`` are
            given.

    References:
        De Cao, Aziz and Titov 2019, "Block neural autoregressive flow", https://arxiv.org/abs/1904.04676

    Example:
        >>> flow = block_neural_autoregressive((3,), layers=2)
        >>> flow().log_prob(flow().sample((5,))).shape
        torch.Size([5])
    """
    design = Design(layers, tuple(hidden), classes, mixing, standardize, interval, margin, 0.0, base)
    return block_neural(event_shape, context_shape, design, fast_sampling)
