"""Recipes: functions that also build the networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_context_shape, as_shape
from pyrogen.networks.attention import AnyOrderTransformer, CausalStack, CausalTransformer
from pyrogen.networks.embedding import Flatten, Labels, Members
from pyrogen.networks.masked_sequence import MaskedSequence
from pyrogen.networks.sequence import Numbers, Tokens
from pyrogen.networks.statistics import Chained

from .conditionals import Binary, Categorical, Conditional, NormalMixture
from .layout import check_order
from .model import AnyOrder, Autoregressive
from .orders import MixedOrders


@recipe
@checked
def made(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int | None = None,
    components: int = 10,
    classes: int | None = None,
    hidden: Sequence[int] = (256, 256),
    order: Sequence[int] | None = None,
    orders: int = 1,
    dropout: float = 0.0,
) -> Autoregressive | MixedOrders:
    """A masked autoencoder (MADE): a perceptron whose masks keep each output from seeing what comes after it.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        symbols: How many symbols there are, counted from zero; two make binary events (of floats). If ``None``,
            symbols are real numbers under a mixture of normals.
        components: How many normals.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        hidden: Sizes of the hidden layers, at least one.
        order: Which place comes first, second, ...; row by row if ``None``.
        orders: With more than one, the model is the exact even mixture over so many fixed orders (``order``, its
            reverse, then shuffles that are always the same), with one set of weights under different masks.
        dropout: Share of the hidden units dropped in training.

    Raises:
        ValueError: ``orders`` is not positive, or ``order`` does not name each place once.

    References:
        Germain, Gregor, Murray and Larochelle 2015, "MADE: Masked autoencoder for distribution estimation",
        https://arxiv.org/abs/1502.03509

    Example:
        >>> model = made((4,), symbols=2, hidden=(32,), orders=3)
        >>> model().log_prob(torch.tensor([0.0, 1.0, 1.0, 0.0])).shape
        torch.Size([])
    """
    event_shape = as_shape(event_shape, "event_shape")
    length = torch.Size(event_shape).numel()
    if orders < 1:
        raise ValueError(f"`orders` must be at least 1, got {orders}")
    first = list(range(length) if order is None else order)
    check_order(first, length)
    context_shape, embedding, size = _vector(context_shape, classes)
    conditional = _conditional(symbols, components)
    inputs = symbols if symbols is not None and symbols > 2 else None
    network = MaskedSequence(
        length, conditional.size, classes=inputs, order=first, hidden=hidden, context=size, dropout=dropout
    )
    members = [
        Autoregressive(
            network.reordered(each) if place else network,
            conditional,
            event_shape=event_shape,
            context_shape=context_shape,
            order=each,
            embedding=embedding,
        )
        for place, each in enumerate(_several(first, orders))
    ]
    return members[0] if orders == 1 else MixedOrders(members)


@recipe
@checked
def transformer(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int | None = None,
    components: int = 10,
    classes: int | None = None,
    cross: bool = False,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    key_heads: int | None = None,
    ratio: int = 4,
    dropout: float = 0.0,
    order: Sequence[int] | None = None,
    end: int | None = None,
    padding: int | None = None,
) -> Autoregressive:
    """A causal transformer with rotated places, over tokens, pixels or real numbers.

    Args:
        event_shape: Shape of one event; its elements follow one another row by row.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. A tensor of two dimensions is a
            sequence of vectors; anything else is flattened into one vector.
        symbols: How many symbols there are, counted from zero; if ``None``, symbols are real numbers under a mixture of
            normals.
        components: How many normals.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        cross: Whether every block attends to the context; else its vectors come before the sequence.
        width: Size of the vectors.
        depth: How many blocks.
        heads: How many query heads.
        key_heads: How many key heads; ``heads`` if ``None``.
        ratio: How much wider the perceptrons are.
        dropout: Share of the numbers each part of a block gives that are dropped in training.
        order: Which place comes first, second, ...; row by row if ``None``.
        end: The symbol that ends a sequence, if lengths differ.
        padding: The symbol after the end; ``end`` itself if ``None``.

    Raises:
        ValueError: sizes do not divide, or ``end`` or ``padding`` is no symbol.

    Example:
        >>> model = transformer((8,), symbols=5, width=32, depth=2)
        >>> model().sample((3,)).shape
        torch.Size([3, 8])
    """
    event_shape = as_shape(event_shape, "event_shape")
    length = torch.Size(event_shape).numel()
    _check_symbols(symbols, end=end, padding=padding)
    context_shape, embedding, ahead = _context(context_shape, classes, width, cross)
    blocks = {"depth": depth, "heads": heads, "key_heads": key_heads, "ratio": ratio, "dropout": dropout}
    stack = CausalStack(width, ahead + length, cross=cross, **blocks)
    conditional = _conditional(symbols, components)
    network = CausalTransformer(_embedding(symbols, width), stack, width=width, features=conditional.size)
    return Autoregressive(
        network,
        conditional,
        event_shape=event_shape,
        context_shape=context_shape,
        order=order,
        end=end,
        padding=padding,
        embedding=embedding,
    )


@recipe
@checked
def any_order(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int | None = None,
    components: int = 10,
    classes: int | None = None,
    cross: bool = False,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    key_heads: int | None = None,
    ratio: int = 4,
    dropout: float = 0.0,
    orders: int = 1,
) -> AnyOrder:
    """A transformer that takes the elements of an event in any order: it scores and completes any part given any other.

    ``log_prob`` is a lower bound (over random orders) of the log-probability of the draws; ``along(order)`` gives an
    exact model.

    Args:
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        symbols: How many symbols there are; if ``None``, symbols are real numbers under a mixture of normals.
        components: How many normals.
        classes: If given, the context is a tensor of so many integer labels.
        cross: Whether every block attends to the context; else its vectors come before the sequence.
        width: Size of the vectors.
        depth: How many blocks.
        heads: How many query heads.
        key_heads: How many key heads; ``heads`` if ``None``.
        ratio: How much wider the perceptrons are.
        dropout: Share of the numbers each part of a block gives that are dropped in training.
        orders: How many random orders each row is scored in.

    Example:
        >>> model = any_order((4,), symbols=2, width=32, depth=1)
        >>> x, known = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([False, True, False, True])
        >>> model().given(x, known).sample((5,))[:, 1].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    event_shape = as_shape(event_shape, "event_shape")
    length = torch.Size(event_shape).numel()
    context_shape, embedding, ahead = _context(context_shape, classes, width, cross)
    blocks = {"depth": depth, "heads": heads, "key_heads": key_heads, "ratio": ratio, "dropout": dropout}
    stack = CausalStack(width, ahead + length, cross=cross, rotary=False, **blocks)
    conditional = _conditional(symbols, components)
    network = AnyOrderTransformer(
        _embedding(symbols, width), stack, length=length, width=width, features=conditional.size
    )
    return AnyOrder(
        network,
        conditional,
        event_shape=event_shape,
        context_shape=context_shape,
        embedding=embedding,
        orders=orders,
    )


def _conditional(symbols: int | None, components: int) -> Conditional:
    if symbols is None:
        return NormalMixture(components)
    return Binary() if symbols == 2 else Categorical(symbols)


def _embedding(symbols: int | None, width: int) -> nn.Module:
    return Numbers((), width) if symbols is None else Tokens(symbols, width)


def _context(
    shape: ContextShape, classes: int | None, width: int, cross: bool
) -> tuple[ContextShape, nn.Module | None, int]:
    """The context's shape, what makes vectors of it, and how many of them come before the sequence."""
    shape, flatten, size = _vector(shape, classes)
    if shape is None:
        if cross:
            raise ValueError("`cross` needs a context, got neither `context_shape` nor `classes`")
        return None, None, 0
    if isinstance(shape, tuple) and len(shape) == 2:
        return shape, Members(shape, width), 0 if cross else shape[0]
    one = Chained(flatten, nn.Linear(size, width), nn.Unflatten(-1, (1, width)))
    return shape, one, 0 if cross else 1


def _vector(shape: ContextShape, classes: int | None) -> tuple[ContextShape, nn.Module | None, int]:
    """The context's shape, what makes one vector of it, and how long."""
    if classes is not None:
        if shape is not None and shape != ():
            raise ValueError(f"`context_shape` must be None where `classes` is given, got {shape}")
        return (), Labels(classes), classes
    shape = as_context_shape(shape)
    if shape is None:
        return None, None, 0
    flatten = Flatten(shape)
    return shape, flatten, flatten.size


def _several(first: list[int], orders: int) -> list[list[int]]:
    """An order, its reverse, and shuffles that are always the same, so that a rebuilt model is the same model."""
    generator = torch.Generator().manual_seed(0)
    shuffles = [torch.randperm(len(first), generator=generator).tolist() for _ in range(orders - 2)]
    return [first, first[::-1], *shuffles][:orders]


def _check_symbols(symbols: int | None, **special: int | None) -> None:
    for name, symbol in special.items():
        if symbol is not None and (symbols is None or not 0 <= symbol < symbols):
            raise ValueError(f"`{name}` must be one of the {symbols} symbols, got {symbol}")
