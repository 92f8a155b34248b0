"""Recipes: functions that also build the networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.causal_transformer import AnyOrderTransformer, CausalStack, CausalTransformer
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import PlaceContext, SequenceContext, VectorContext
from pyrogen.networks.masked_sequence import MaskedSequence
from pyrogen.networks.pixels import Intensities, PixelCNN
from pyrogen.networks.sequence import Numbers, Tokens
from pyrogen.networks.source import SourceEncoder
from pyrogen.networks.wavenet import WaveNet

from .conditionals import Binary, Categorical, Conditional, NormalMixture, OfFamily
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


@recipe(texts=_TEXTS)
@checked
def pixel_cnn(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int = 256,
    components: int | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    width: int = 64,
    depth: int = 6,
    kernel: int = 3,
    attention: int = 0,
    heads: int = 4,
    dropout: float = 0.0,
) -> Autoregressive:
    """A gated PixelCNN over images, pixel by pixel and row by row.

    With ``components`` a pixel is a mixture of discretized logistics, as in PixelCNN++: few parameters for many
    symbols, and later channels follow earlier ones.

    Args:
        event_shape: ``(rows, columns)`` or ``(channels, rows, columns)``.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. An image ``(channels, rows,
            columns)`` of the event's size conditions every pixel by itself; anything else is flattened and conditions
            all alike.
        symbols: How many values a channel has; pixels are whole numbers ``0 … symbols - 1``, of any dtype.
        components: How many logistics are mixed; each value has a probability of its own if ``None`` (one channel
            only).
        width: Channels of the convolutions.
        depth: How many gated layers.
        kernel: How wide the convolutions are; odd.
        attention: How many causal attention blocks stand among the layers.
        heads: How many heads they have.
        dropout: Share of the gated units dropped in training.

    Raises:
        ValueError: the event is no image, several channels have no ``components``, or sizes do not fit.

    References:
        van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders",
        https://arxiv.org/abs/1606.05328
        Salimans, Karpathy, Chen and Kingma 2017, "PixelCNN++", https://arxiv.org/abs/1701.05517

    Example:
        >>> model = pixel_cnn((1, 4, 4), symbols=2, width=8, depth=2)
        >>> model().log_prob(model().sample((3,))).shape
        torch.Size([3])
    """
    event_shape = as_shape(event_shape, "event_shape")
    if len(event_shape) not in (2, 3):
        raise ValueError(f"`event_shape` must be (rows, columns) or (channels, rows, columns), got {event_shape}")
    shape, channels = event_shape[-2:], event_shape[0] if len(event_shape) == 3 else 1
    context = PlaceContext(context_shape, shape, width, classes=classes, embedding=embedding)
    conditional, pixels = _quantized(symbols, components, channels, width)
    if components is None and symbols == 2:
        conditional = Binary()
    network = PixelCNN(
        pixels,
        shape=shape,
        width=width,
        features=conditional.size,
        depth=depth,
        kernel=kernel,
        context=context.features,
        attention=attention,
        heads=heads,
        dropout=dropout,
    )
    return Autoregressive(
        network,
        conditional,
        event_shape=event_shape,
        context_shape=context.context_shape,
        symbol_axes=(0,) if channels > 1 else (),
        embedding=context,
    )


@recipe(texts=_TEXTS)
@checked
def wavenet(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int = 256,
    components: int | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    width: int = 32,
    layers: int = 10,
    cycles: int = 1,
    kernel: int = 2,
    skip: int = 128,
    dropout: float = 0.0,
) -> Autoregressive:
    """A WaveNet over sequences of quantized values: dilated causal convolutions, fast to train and fast to draw from.

    Sounds become symbols by :func:`pyrogen.data.mu_law` (256 of them, each with a probability of its own) or by plain
    quantization (many, under a mixture of logistics).

    Args:
        event_shape: ``(length,)``.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. A tensor ``(length, size)``
            conditions every place by itself (local context: phonemes, spectra); anything else is flattened and
            conditions all alike (global context: the speaker).
        symbols: How many symbols there are: integers ``0 … symbols - 1``.
        components: How many discretized logistics are mixed; each symbol has a probability of its own if ``None``.
        width: Channels of the convolutions.
        layers: How many layers a cycle has; the dilation doubles from 1 within it.
        cycles: How many cycles follow one another. The receptive field is
            ``1 + cycles * (kernel - 1) * (2**layers - 1)``.
        kernel: How many places a layer covers.
        skip: Size of the hidden layer before the output.
        dropout: Share of the gated units dropped in training.

    Raises:
        ValueError: the event has not one dimension, or sizes do not fit.

    References:
        van den Oord et al. 2016, "WaveNet: A generative model for raw audio", https://arxiv.org/abs/1609.03499

    Example:
        >>> model = wavenet((20,), symbols=16, width=8, layers=3)
        >>> model().log_prob(model().sample((3,))).shape
        torch.Size([3])
    """
    event_shape = as_shape(event_shape, "event_shape")
    if len(event_shape) != 1:
        raise ValueError(f"`event_shape` must be (length,), got {event_shape}")
    context = PlaceContext(context_shape, event_shape, width, classes=classes, embedding=embedding)
    conditional, samples = _quantized(symbols, components, 1, width)
    network = WaveNet(
        samples,
        width=width,
        features=conditional.size,
        dilations=[2**layer for layer in range(layers)] * cycles,
        kernel=kernel,
        skip=skip,
        context=context.features,
        dropout=dropout,
    )
    return Autoregressive(
        network, conditional, event_shape=event_shape, context_shape=context.context_shape, embedding=context
    )


def _conditional(symbols: int | None, components: int) -> Conditional:
    if symbols is None:
        return NormalMixture(components)
    return Binary() if symbols == 2 else Categorical(symbols)


def _tokens(symbols: int | None, width: int) -> nn.Module:
    return Numbers((), width) if symbols is None else Tokens(symbols, width)


def _quantized(symbols: int, components: int | None, channels: int, width: int) -> tuple[Conditional, nn.Module]:
    """The conditional of quantized values, and what makes vectors of them: each its own, or by where it lies."""
    if components is None and channels > 1:
        raise ValueError(f"`components` must be given for pixels of {channels} channels, got None")
    if components is None:
        return Categorical(symbols), Tokens(symbols, width)
    if channels > 1:
        family, shape = families.pixel_logistic_mixture(symbols, components), (channels,)
    else:
        family, shape = families.discretized_logistic_mixture(symbols, components), ()
    return OfFamily(family, shape), Intensities(shape, symbols, width)


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
