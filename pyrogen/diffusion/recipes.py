"""Recipes: diffusion models ready to train, from shapes and numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from pyrogen.arguments import checked, integer, share, sizes
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_context_shape, as_shape
from pyrogen.networks.diffusion_transformer import DiffusionTransformer
from pyrogen.networks.residual_mlp import ResidualMLP
from pyrogen.networks.unet import UNet
from pyrogen.numerics.schedules import CosineVP, Schedule

from .denoiser import NetworkDenoiser, Preconditioned
from .levels import LevelDenoiser
from .model import Diffusion
from .reference import LevelReference, NormalReference

_FEW = 32
"""Up to so many levels the network gives each its own number; above, the outputs would outweigh the network."""


@recipe
@checked
def mlp(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    width: int = 128,
    depth: int = 3,
    classes: int | dict[str, int] | None = None,
    context_dropout: float = 0.0,
    dropout: float = 0.0,
    levels: int | None = None,
    data_scale: float | None = None,
    schedule: Schedule | None = None,
    draws: int = 8,
) -> Diffusion:
    """A diffusion model of vectors: a residual perceptron with adaptive norms.

    Args:
        event_shape: Shape of one event, which is flattened.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. Everything is flattened.
        width: Size of the hidden vectors.
        depth: How many residual blocks.
        classes: How many values integer contexts take: labels (``context_shape`` ``()``, the default with ``classes``)
            or sequences of symbols (``(length,)``); a dict for several contexts.
        context_dropout: Share of the rows that lose their context in training, which classifier-free guidance needs.
        dropout: Share of the hidden units dropped in training.
        levels: If given, events are integers ``0 … levels - 1``.
        data_scale: Standard deviation of the data, which should have a mean near zero; 1 if ``None``, 0.5 for integers
            (which are diffused in (-1, 1)).
        schedule: The path from data to noise; :class:`~pyrogen.numerics.schedules.CosineVP` if ``None``. A model with
            another is saved without its recipe, and loads with ``into=``.
        draws: How many noise levels ``log_prob`` averages over.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> mlp((2,))().sample((5,)).shape
        torch.Size([5, 2])
    """
    context_shape = _context_shape(context_shape, classes)
    _check(dropout, width=width, depth=depth)

    def network(numbers: int | None) -> nn.Module:
        return ResidualMLP(
            as_shape(event_shape, "event_shape"),
            context_shape,
            outputs=numbers,
            width=width,
            depth=depth,
            classes=classes,
            context_dropout=context_dropout,
            dropout=dropout,
        )

    return _diffusion(network, event_shape, context_shape, levels, data_scale, schedule, draws)


@recipe
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
    classes: int | dict[str, int] | None = None,
    context_dropout: float = 0.0,
    dropout: float = 0.0,
    levels: int | None = None,
    data_scale: float | None = None,
    schedule: Schedule | None = None,
    draws: int = 8,
) -> Diffusion:
    """A diffusion model of images: a U-Net with adaptive norms and attention.

    Args:
        event_shape: ``(channels, height, width)``.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. Numbers and labels modulate the
            norms, sequences ``(length, features)`` are attended to, images stand beside the input.
        channels: Of the hidden layers, one entry for each resolution from fine to coarse.
        depth: Residual blocks at each resolution.
        attention: How many of the resolutions, counted from the coarsest, have attention.
        heads: Of the attention; divides the channels there.
        width: Size of what modulates the norms.
        classes: As for :func:`mlp`.
        context_dropout: As for :func:`mlp`.
        dropout: As for :func:`mlp`.
        levels: As for :func:`mlp`.
        data_scale: As for :func:`mlp`.
        schedule: As for :func:`mlp`.
        draws: As for :func:`mlp`.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> unet((1, 8, 8), channels=(8, 16), levels=17)().sample((2,)).shape
        torch.Size([2, 1, 8, 8])
    """
    context_shape = _context_shape(context_shape, classes)
    _check(dropout, width=width, depth=depth, heads=heads)
    channels = sizes(channels, "channels", fewest=1)
    if integer(attention, "attention", least=0) > len(channels):
        raise ValueError(f"`attention` must be at most the {len(channels)} resolutions, got {attention}")
    for size in channels[len(channels) - attention :]:
        _divisible("channels", size, heads)

    def network(numbers: int | None) -> nn.Module:
        return UNet(
            as_shape(event_shape, "event_shape"),
            context_shape,
            outputs=numbers,
            channels=channels,
            depth=depth,
            attention=attention,
            heads=heads,
            width=width,
            classes=classes,
            context_dropout=context_dropout,
            dropout=dropout,
        )

    return _diffusion(network, event_shape, context_shape, levels, data_scale, schedule, draws)


@recipe
@checked
def transformer(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    patch: int = 2,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    classes: int | dict[str, int] | None = None,
    context_dropout: float = 0.0,
    dropout: float = 0.0,
    levels: int | None = None,
    data_scale: float | None = None,
    schedule: Schedule | None = None,
    draws: int = 8,
) -> Diffusion:
    """A diffusion model of images, sequences and vectors: a transformer with adaptive norms.

    Args:
        event_shape: ``(channels, height, width)``, ``(length, features)`` or ``(size,)``.
        context_shape: As for :func:`unet`; images only where events are images.
        patch: Side of the patches into which images are cut.
        width: Size of the hidden vectors.
        depth: How many blocks.
        heads: Of the attention; divides ``width``.
        classes: As for :func:`mlp`.
        context_dropout: As for :func:`mlp`.
        dropout: As for :func:`mlp`.
        levels: As for :func:`mlp`.
        data_scale: As for :func:`mlp`.
        schedule: As for :func:`mlp`.
        draws: As for :func:`mlp`.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> transformer((6, 2), width=32)().sample((3,)).shape
        torch.Size([3, 6, 2])
    """
    context_shape = _context_shape(context_shape, classes)
    _check(dropout, patch=patch, width=width, depth=depth, heads=heads)
    _divisible("width", width, heads)

    def network(numbers: int | None) -> nn.Module:
        return DiffusionTransformer(
            as_shape(event_shape, "event_shape"),
            context_shape,
            outputs=numbers,
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            classes=classes,
            context_dropout=context_dropout,
            dropout=dropout,
        )

    return _diffusion(network, event_shape, context_shape, levels, data_scale, schedule, draws)


def _check(dropout: float, **sizes: int) -> None:
    share(dropout, "dropout")
    for name, size in sizes.items():
        integer(size, name)


def _divisible(name: str, size: int, heads: int) -> None:
    if size % heads:
        raise ValueError(f"`{name}` must be divisible by `heads` = {heads}, got {size}")


def _context_shape(context_shape: ContextShape, classes: int | dict[str, int] | None) -> ContextShape:
    return () if isinstance(classes, int) and context_shape is None else as_context_shape(context_shape)


def _diffusion(
    network: Callable[[int | None], nn.Module],
    event_shape: Shape,
    context_shape: ContextShape,
    levels: int | None,
    data_scale: float | None,
    schedule: Schedule | None,
    draws: int,
) -> Diffusion:
    shapes = {"event_shape": as_shape(event_shape, "event_shape"), "context_shape": context_shape}
    if levels is None:
        scale = 1.0 if data_scale is None else data_scale
        schedule = CosineVP() if schedule is None else schedule
        reference = NormalReference(scale=scale)
    else:
        scale = 0.5 if data_scale is None else data_scale
        schedule = _resolving(levels) if schedule is None else schedule
        reference = LevelReference(levels)
    if levels is not None and levels <= _FEW:
        denoiser = LevelDenoiser(network(levels), schedule, reference, **shapes)
    else:
        denoiser = NetworkDenoiser(network(None), schedule, Preconditioned(data_scale=scale), **shapes)
    return Diffusion(denoiser, reference=reference, draws=draws)


def _resolving(levels: int) -> Schedule:
    """A schedule whose last noise is a tenth of the distance of two levels: they are told apart at five of it."""
    return CosineVP(start=2 / math.pi * math.atan(0.2 / levels))
