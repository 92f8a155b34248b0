"""Recipes: functions that also build the networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.causal_transformer import AnyOrderTransformer, CausalStack, CausalTransformer
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import SequenceContext, VectorContext
from pyrogen.networks.masked_sequence import MaskedSequence
from pyrogen.networks.sequence import Numbers, Tokens
from pyrogen.networks.source import SourceEncoder

from .conditionals import Binary, Categorical, Conditional, NormalMixture
from .layout import check_order
from .model import AnyOrder, Autoregressive
from .orders import MixedOrders

_TEXTS = {
    "symbols": "How many symbols there are, counted from zero; two make binary events (of floats). If ``None``, symbols"
    " are real numbers under a mixture of normals.",
    "context_shape": "``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated. A "
    "transformer takes a tensor ``(length, features)`` as a sequence of vectors.",
    "components": "How many normals.",
    "cross": "Whether every block attends to the context; else its vectors come before the sequence.",
    "source": "If given, the context is a source sequence, and goes through so many blocks of attention in both "
    "directions before every block of the model attends to it (:mod:`pyrogen.networks.source`): symbols, "
    "``context_shape=(length,)`` with ``classes``, or vectors, ``(length, features)``, or several in a dict. Members "
    "that pad shorter sources are symbols of -1 and vectors of NaN.",
    "depth": "How many blocks.",
    "heads": "How many query heads.",
    "key_heads": "How many key heads; ``heads`` if ``None``.",
    "ratio": "How much wider the perceptrons are.",
    "order": "Which place comes first, second, ...; row by row if ``None``.",
}


@recipe(texts=_TEXTS)
@checked
def made(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int | None = None,
    components: int = 10,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    hidden: Sequence[int] = (256, 256),
    order: Sequence[int] | None = None,
    orders: int = 1,
    dropout: float = 0.0,
) -> Autoregressive | MixedOrders:
    """A masked autoencoder (MADE): a perceptron whose masks keep each output from seeing what comes after it.

    Args:
        orders: With more than one, the model is the exact even mixture over so many fixed orders (``order``, its
            reverse, then shuffles that are always the same), with one set of weights under different masks.

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
    first = list(range(prod(event_shape)) if order is None else order)
    check_order(first, prod(event_shape))
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    conditional = _conditional(symbols, components)
    network = MaskedSequence(
        len(first),
        conditional.size,
        symbols=symbols if symbols is not None and symbols > 2 else None,
        order=first,
        hidden=hidden,
        context=context.size,
        dropout=dropout,
    )
    members = [
        Autoregressive(
            network.reordered(each) if place else network,
            conditional,
            event_shape=event_shape,
            context_shape=context.context_shape,
            order=each,
            embedding=context,
        )
        for place, each in enumerate(_several(first, orders))
    ]
    return members[0] if orders == 1 else MixedOrders(members)


@recipe(texts=_TEXTS)
@checked
def transformer(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int | None = None,
    components: int = 10,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    cross: bool = False,
    source: int | None = None,
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
    """A causal transformer with rotary position embeddings, over tokens, pixels or real numbers.

    Args:
        event_shape: Shape of one event; its elements follow one another row by row.
        dropout: Share of the outputs of each part of a block dropped in training.
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
    for name, symbol in {"end": end, "padding": padding}.items():
        if symbol is not None and (symbols is None or not 0 <= symbol < symbols):
            raise ValueError(f"`{name}` must be one of the {symbols} symbols, got {symbol}")
    context = _sequence(context_shape, width, classes, embedding, cross, source, heads, ratio)
    blocks = {"depth": depth, "heads": heads, "key_heads": key_heads, "ratio": ratio, "dropout": dropout}
    cross = cross or source is not None
    stack = CausalStack(width, _length(event_shape, context, cross), cross=cross, **blocks)
    conditional = _conditional(symbols, components)
    return Autoregressive(
        CausalTransformer(_tokens(symbols, width), stack, width=width, features=conditional.size),
        conditional,
        event_shape=event_shape,
        context_shape=context.context_shape,
        order=order,
        end=end,
        padding=padding,
        embedding=context,
    )


@recipe(texts=_TEXTS)
@checked
def any_order(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int | None = None,
    components: int = 10,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    cross: bool = False,
    source: int | None = None,
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
        dropout: Share of the outputs of each part of a block dropped in training.
        orders: How many random orders each row is scored in.

    Example:
        >>> model = any_order((4,), symbols=2, width=32, depth=1)
        >>> x, known = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([False, True, False, True])
        >>> model().given(x, known).sample((5,))[:, 1].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    event_shape = as_shape(event_shape, "event_shape")
    context = _sequence(context_shape, width, classes, embedding, cross, source, heads, ratio)
    blocks = {"depth": depth, "heads": heads, "key_heads": key_heads, "ratio": ratio, "dropout": dropout}
    cross = cross or source is not None
    stack = CausalStack(width, _length(event_shape, context, cross), cross=cross, rotary=False, **blocks)
    conditional, length = _conditional(symbols, components), prod(event_shape)
    return AnyOrder(
        AnyOrderTransformer(_tokens(symbols, width), stack, length=length, width=width, features=conditional.size),
        conditional,
        event_shape=event_shape,
        context_shape=context.context_shape,
        embedding=context,
        orders=orders,
    )


def _conditional(symbols: int | None, components: int) -> Conditional:
    if symbols is None:
        return NormalMixture(components)
    return Binary() if symbols == 2 else Categorical(symbols)


def _tokens(symbols: int | None, width: int) -> nn.Module:
    return Numbers((), width) if symbols is None else Tokens(symbols, width)


def _sequence(
    context_shape: ContextShape,
    width: int,
    classes: Classes,
    embedding: nn.Module | None,
    cross: bool,
    source: int | None,
    heads: int,
    ratio: int,
) -> SequenceContext | SourceEncoder:
    if source is not None:
        sizes = {"depth": source, "heads": heads, "ratio": ratio}
        return SourceEncoder(context_shape, width, **sizes, classes=classes, embedding=embedding)
    context = SequenceContext(context_shape, width, classes=classes, embedding=embedding)
    if cross and context.context_shape is None:
        raise ValueError("`cross` needs a context, got neither `context_shape` nor `classes`")
    return context


def _length(event_shape: Shape, context: SequenceContext | SourceEncoder, cross: bool) -> int:
    """How many vectors go through the blocks: those of the event, and of the context if they come before."""
    return prod(event_shape) + (0 if cross else context.length)


def _several(first: list[int], orders: int) -> list[list[int]]:
    """An order, its reverse, and shuffles that are always the same, so that a rebuilt model is the same model."""
    generator = torch.Generator().manual_seed(0)
    shuffles = [torch.randperm(len(first), generator=generator).tolist() for _ in range(orders - 2)]
    return [first, first[::-1], *shuffles][:orders]
