"""Recipes for images: the gated PixelCNN."""

from __future__ import annotations

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.pixels import ImageContext, Intensities, PixelCNN
from pyrogen.networks.sequence import Tokens

from .conditionals import Binary, Categorical, Conditional, OfFamily
from .contexts import context_of
from .model import Autoregressive


@recipe
@checked
def pixel_cnn(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    levels: int = 256,
    components: int | None = None,
    classes: int | None = None,
    width: int = 64,
    depth: int = 6,
    kernel: int = 3,
    attention: int = 0,
    heads: int = 4,
    dropout: float = 0.0,
) -> Autoregressive:
    """A gated PixelCNN over images, pixel by pixel and row by row.

    With ``components`` a pixel is a mixture of discretised logistics, as in PixelCNN++: few numbers for many levels,
    and later channels follow earlier ones.

    Args:
        event_shape: ``(rows, columns)`` or ``(channels, rows, columns)``.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. An image ``(channels, rows,
            columns)`` of the event's size speaks to every pixel; anything else is flattened and speaks to all alike.
        levels: How many levels a channel has; pixels are whole numbers ``0 … levels - 1``, of any dtype.
        components: How many logistics are mixed; each level has a probability of its own if ``None`` (one channel
            only).
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        width: Channels of the convolutions.
        depth: How many gated layers.
        kernel: How wide the convolutions are; odd.
        attention: How many causal attention blocks stand among the layers.
        heads: How many heads they have.
        dropout: Share of the gated numbers dropped in training.

    Raises:
        ValueError: the event is no image, several channels have no ``components``, or sizes do not fit.

    References:
        van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders",
        https://arxiv.org/abs/1606.05328
        Salimans, Karpathy, Chen and Kingma 2017, "PixelCNN++", https://arxiv.org/abs/1701.05517

    Example:
        >>> model = pixel_cnn((1, 4, 4), levels=2, width=8, depth=2)
        >>> model().log_prob(model().sample((3,))).shape
        torch.Size([3])
    """
    event_shape = as_shape(event_shape, "event_shape")
    if len(event_shape) not in (2, 3):
        raise ValueError(f"`event_shape` must be (rows, columns) or (channels, rows, columns), got {event_shape}")
    shape, channels = event_shape[-2:], event_shape[0] if len(event_shape) == 3 else 1

    def local(given: Shape) -> tuple[nn.Module, int] | None:
        return (ImageContext(given, width), width) if len(given) == 3 and given[1:] == shape else None

    context_shape, embedding, size = context_of(context_shape, classes, width, local)
    conditional = _conditional(levels, components, channels)
    network = PixelCNN(
        _pixels(levels, components, channels, width),
        shape=shape,
        width=width,
        features=conditional.size,
        depth=depth,
        kernel=kernel,
        context=size,
        attention=attention,
        heads=heads,
        dropout=dropout,
    )
    return Autoregressive(
        network,
        conditional,
        event_shape=event_shape,
        context_shape=context_shape,
        symbol_axes=(0,) if channels > 1 else (),
        embedding=embedding,
    )


def _conditional(levels: int, components: int | None, channels: int) -> Conditional:
    if channels > 1:
        if components is None:
            raise ValueError(f"`components` must be given for pixels of {channels} channels, got None")
        family = families.pixel_logistic_mixture(levels, components)
        return OfFamily(family, (channels,))
    if components is not None:
        return OfFamily(families.discretized_logistic_mixture(levels, components))
    return Binary() if levels == 2 else Categorical(levels)


def _pixels(levels: int, components: int | None, channels: int, width: int) -> nn.Module:
    """Levels with a probability of their own get a vector of their own."""
    if components is None:
        return Tokens(levels, width)
    return Intensities((channels,) if channels > 1 else (), levels, width)
