"""Recipes for waves: WaveNet."""

from __future__ import annotations

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.pixels import Intensities
from pyrogen.networks.sequence import Tokens
from pyrogen.networks.statistics import Standardizer
from pyrogen.networks.wavenet import WaveNet

from .conditionals import Categorical, OfFamily
from .contexts import context_of
from .model import Autoregressive


@recipe
@checked
def wavenet(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    levels: int = 256,
    components: int | None = None,
    classes: int | None = None,
    width: int = 32,
    layers: int = 10,
    cycles: int = 1,
    kernel: int = 2,
    skip: int = 128,
    dropout: float = 0.0,
) -> Autoregressive:
    """A WaveNet over sequences of levels: dilated causal convolutions, fast to train and fast to draw from.

    Sounds become levels by :func:`pyrogen.data.mu_law` (256 of them, each with a probability of its own) or by plain
    quantisation (many, under a mixture of logistics).

    Args:
        event_shape: ``(length,)``.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. A tensor ``(length, size)``
            speaks to every place (local context: phonemes, spectra); anything else is flattened and speaks to all
            alike (global context: the speaker).
        levels: How many levels there are; symbols are integers ``0 … levels - 1``.
        components: How many discretised logistics are mixed; each level has a probability of its own if ``None``.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        width: Channels of the convolutions.
        layers: How many layers a cycle has; the dilation doubles from 1 within it.
        cycles: How many cycles follow one another. The receptive field is
            ``1 + cycles * (kernel - 1) * (2**layers - 1)``.
        kernel: How many places a layer looks at.
        skip: Size of the hidden layer before the output.
        dropout: Share of the gated numbers dropped in training.

    Raises:
        ValueError: the event has not one dimension, or sizes do not fit.

    References:
        van den Oord et al. 2016, "WaveNet: A generative model for raw audio", https://arxiv.org/abs/1609.03499

    Example:
        >>> model = wavenet((20,), levels=16, width=8, layers=3)
        >>> model().log_prob(model().sample((3,))).shape
        torch.Size([3])
    """
    event_shape = as_shape(event_shape, "event_shape")
    if len(event_shape) != 1:
        raise ValueError(f"`event_shape` must be (length,), got {event_shape}")
    if layers < 1 or cycles < 1:
        raise ValueError(f"`layers` and `cycles` must be at least 1, got {layers} and {cycles}")

    def local(given: Shape) -> tuple[nn.Module, int] | None:
        return (Standardizer(given), given[1]) if len(given) == 2 and given[:1] == event_shape else None

    context_shape, embedding, size = context_of(context_shape, classes, width, local)
    if components is None:
        conditional, symbols = Categorical(levels), Tokens(levels, width)
    else:
        conditional = OfFamily(families.discretized_logistic_mixture(levels, components))
        symbols = Intensities((), levels, width)
    network = WaveNet(
        symbols,
        width=width,
        features=conditional.size,
        dilations=[2**layer for layer in range(layers)] * cycles,
        kernel=kernel,
        skip=skip,
        context=size,
        dropout=dropout,
    )
    return Autoregressive(
        network, conditional, event_shape=event_shape, context_shape=context_shape, embedding=embedding
    )
