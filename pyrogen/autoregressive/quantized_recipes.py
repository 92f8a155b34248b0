"""Recipes for quantized values: convolutions over images, pixel by pixel, and over sounds."""

from __future__ import annotations

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import PlaceContext
from pyrogen.networks.pixels import Intensities, PixelCNN
from pyrogen.networks.sequence import Tokens
from pyrogen.networks.wavenet import WaveNet

from .conditionals import Binary, Categorical, Conditional, OfFamily
from .model import Autoregressive

_TEXTS = {
    "width": "Channels of the convolutions.",
    "dropout": "Share of the gated units dropped in training.",
}


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
        depth: How many gated layers.
        kernel: How wide the convolutions are; odd.
        attention: How many causal attention blocks stand among the layers.
        heads: How many heads they have.

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
        layers: How many layers a cycle has; the dilation doubles from 1 within it.
        cycles: How many cycles follow one another. The receptive field is
            ``1 + cycles * (kernel - 1) * (2**layers - 1)``.
        kernel: How many places a layer covers.
        skip: Size of the hidden layer before the output.

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
