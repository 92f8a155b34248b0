"""Recipes: diffusion models ready to train, from shapes and numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes, described
from pyrogen.networks.diffusion_transformer import DiffusionTransformer
from pyrogen.networks.noisy import NoisyNetwork
from pyrogen.networks.residual_mlp import ResidualMLP
from pyrogen.networks.unet import UNet
from pyrogen.numerics.schedule import Schedule
from pyrogen.numerics.schedules import CosineVP

from .denoiser import NetworkDenoiser, Preconditioned
from .integers import IntegerDenoiser
from .model import Diffusion
from .reference import IntegerReference, NormalReference

_FEW = 32
"""Up to so many integers the network gives each its own logit; above, the outputs would outweigh the network."""

TEXTS = {
    "context_shape": "``None``, the shape of one context tensor, or a dict of shapes. Numbers and labels modulate the"
    " norms, sequences ``(length, features)`` are attended to or, where they are as long as the event, stand beside it,"
    " images stand beside an event that is one, or beside each frame. Members of a sequence that are NaN, or symbols of"
    " -1, are absent.",
    "classes": "How many values integer contexts take: labels (``context_shape`` ``()``, the default with ``classes``)"
    " or sequences of symbols (``(length,)``); a dict for several contexts.",
    "depth": "How many blocks.",
    "context_dropout": "Share of the rows that lose their context in training, which classifier-free guidance needs.",
    "symbols": "If given, events are integers ``0 … symbols - 1``.",
    "data_scale": "Standard deviation of the data, which should have a mean near zero; 1 if ``None``, 0.5 for integers"
    " (which are diffused in (-1, 1)).",
    "schedule": "The path from data to noise; :class:`~pyrogen.numerics.schedules.CosineVP` if ``None``. A model with"
    " another is saved without its recipe, and loads with ``into=``.",
    "draws": "How many noise levels ``log_prob`` averages over.",
}


@recipe(texts=TEXTS)
@checked
def mlp(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    width: int = 128,
    depth: int = 3,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    context_dropout: float = 0.0,
    dropout: float = 0.0,
    symbols: int | None = None,
    data_scale: float | None = None,
    schedule: Schedule | None = None,
    draws: int = 8,
) -> Diffusion:
    """A diffusion model of vectors: a residual perceptron with adaptive norms.

    Args:
        event_shape: Shape of one event, which is flattened.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. Everything is flattened.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> mlp((2,))().sample((5,)).shape
        torch.Size([5, 2])
    """
    network = partial(
        ResidualMLP,
        as_shape(event_shape, "event_shape"),
        described(context_shape, classes)[0],
        width=width,
        depth=depth,
        classes=classes,
        embedding=embedding,
        context_dropout=context_dropout,
        dropout=dropout,
    )
    return _diffusion(network, symbols, data_scale, schedule, draws)


@recipe(texts=TEXTS)
@checked
def unet(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    channels: Sequence[int] = (32, 64),
    depth: int = 2,
    attention: int = 1,
    heads: int = 4,
    width: int = 128,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    context_dropout: float = 0.0,
    dropout: float = 0.0,
    symbols: int | None = None,
    data_scale: float | None = None,
    schedule: Schedule | None = None,
    draws: int = 8,
) -> Diffusion:
    """A diffusion model of sequences, images and videos: a U-Net with adaptive norms and attention.

    Args:
        event_shape: ``(length, features)``, ``(channels, height, width)`` or ``(frames, channels, height, width)``; the
            network convolves over length, sides, or sides and frames in turn.
        channels: Of the hidden layers, one entry for each resolution from fine to coarse.
        depth: Residual blocks at each resolution.
        attention: How many of the resolutions, counted from the coarsest, have attention.
        heads: Of the attention; divides the channels there.
        width: Size of what modulates the norms.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> unet((1, 8, 8), channels=(8, 16), symbols=17)().sample((2,)).shape
        torch.Size([2, 1, 8, 8])
    """
    require_resolutions(channels, attention, heads)
    network = partial(
        UNet,
        as_shape(event_shape, "event_shape"),
        described(context_shape, classes)[0],
        channels=channels,
        depth=depth,
        attention=attention,
        heads=heads,
        width=width,
        classes=classes,
        embedding=embedding,
        context_dropout=context_dropout,
        dropout=dropout,
    )
    return _diffusion(network, symbols, data_scale, schedule, draws)


@recipe(texts=TEXTS)
@checked
def transformer(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    patch: int = 2,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    context_dropout: float = 0.0,
    dropout: float = 0.0,
    symbols: int | None = None,
    data_scale: float | None = None,
    schedule: Schedule | None = None,
    draws: int = 8,
) -> Diffusion:
    """A diffusion model of images, videos, sequences and vectors: a transformer with adaptive norms.

    Args:
        event_shape: ``(channels, height, width)``, ``(frames, channels, height, width)``, ``(length, features)`` or
            ``(size,)``.
        patch: Side of the patches into which images and frames are cut.
        heads: Of the attention; divides ``width``.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> transformer((6, 2), width=32)().sample((3,)).shape
        torch.Size([3, 6, 2])
    """
    require_divisible(heads, width=(width,))
    network = partial(
        DiffusionTransformer,
        as_shape(event_shape, "event_shape"),
        described(context_shape, classes)[0],
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        classes=classes,
        embedding=embedding,
        context_dropout=context_dropout,
        dropout=dropout,
    )
    return _diffusion(network, symbols, data_scale, schedule, draws)


def _diffusion(
    build: Callable[..., NoisyNetwork],
    symbols: int | None,
    data_scale: float | None,
    schedule: Schedule | None,
    draws: int,
) -> Diffusion:
    """The model of a network, which has an output for each integer if there are few."""
    few = symbols is not None and symbols <= _FEW
    network = build(outputs=symbols if few else None)
    shapes = {"event_shape": network.event_shape, "context_shape": network.context_shape}
    if symbols is None:
        scale, default = 1.0 if data_scale is None else data_scale, CosineVP()
        reference = NormalReference(scale=scale)
    else:
        scale, default = 0.5 if data_scale is None else data_scale, _resolving(symbols)
        reference = IntegerReference(symbols)
    schedule = default if schedule is None else schedule
    if few:
        denoiser = IntegerDenoiser(network, schedule, reference, **shapes)
    else:
        denoiser = NetworkDenoiser(network, schedule, Preconditioned(data_scale=scale), **shapes)
    return Diffusion(denoiser, reference=reference, draws=draws)


def _resolving(symbols: int) -> Schedule:
    """A schedule whose last noise is a tenth of the distance of two integers: they are distinguished at five of it."""
    return CosineVP(start=2 / math.pi * math.atan(0.2 / symbols))


def require_resolutions(channels: Sequence[int], attention: int, heads: int) -> None:
    """Refuses more resolutions with attention than there are, and heads that do not divide their channels."""
    if attention > len(channels):
        raise ValueError(f"`attention` must be at most the {len(channels)} resolutions, got {attention}")
    require_divisible(heads, channels=channels[len(channels) - attention :])


def require_divisible(heads: int, **sizes: Sequence[int]) -> None:
    """Refuses sizes that so many heads do not divide."""
    for name, values in sizes.items():
        for size in values:
            if size % heads:
                raise ValueError(f"`{name}` must be divisible by `heads` = {heads}, got {size}")
