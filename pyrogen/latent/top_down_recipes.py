"""Recipes of hierarchies of latents, for vectors and for images."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.module import DistributionModule
from pyrogen.core.parametric import Parametric
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext, WithContext
from pyrogen.networks.convolution import Centred
from pyrogen.networks.statistics import Standardizer
from pyrogen.networks.top_down import (
    BottomUp,
    DenseLayers,
    FirstState,
    ImageLayers,
    ResidualLevel,
    image_head,
    image_stem,
)

from .builder import likelihood_of
from .image_recipes import pixels, planes
from .recipes import TEXTS
from .top_down import TopDown

_TEXTS = {
    "scale": TEXTS["scale"],
    "symbols": TEXTS["symbols"],
    "binary": TEXTS["binary"],
    "likelihood": "The distribution of data given the last state, in place of one of these three families; itself built"
    " by a recipe if the model is to be saved.",
    "blocks": "How many residual blocks a level has on its way up, and on its way down after the latent.",
}


def _levels(value: Any, name: str) -> tuple[Shape, ...]:
    """Shapes of latents, at least one."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"`{name}` must hold the shape of each level's latent, from the top down, got {value!r}")
    return tuple(as_shape(one, f"{name}[{place}]") for place, one in enumerate(value))


@recipe(texts=_TEXTS)
@checked(levels=_levels)
def top_down(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    levels: Sequence[int],
    symbols: int | None = None,
    binary: bool = False,
    scale: float | None = None,
    width: int = 128,
    blocks: int = 1,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    likelihood: DistributionModule | None = None,
    draws: int = 100,
) -> TopDown:
    """A hierarchy of latent vectors, from the top down: residual dense networks, normals relative to their priors.

    The context, where there is one, moves the state at the top, from which all levels and the likelihood read.

    Args:
        levels: Sizes of the latents, from the top down.
        likelihood: The distribution of data given the last state, ``(width,)`` as the entry ``"z"``, in place of one of
            these three families; itself built by a recipe if the model is to be saved.
        width: Size of the state.

    Raises:
        ValueError: more than one of ``symbols``, ``binary``, ``scale`` and ``likelihood`` is given, a level is no
            vector, or shapes do not fit.

    References:
        Sønderby, Raiko, Maaløe, Sønderby and Winther 2016, "Ladder variational autoencoders",
        https://arxiv.org/abs/1602.02282

    Example:
        >>> module = top_down((8,), levels=(2, 4), binary=True, width=16)
        >>> module().sample((5,)).shape
        torch.Size([5, 8])
    """
    event_shape, shapes = as_shape(event_shape, "event_shape"), _levels(levels, "levels")
    if any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"`levels` must hold sizes of vectors, got {levels}; for images, use `convolutional_top_down`")
    context, layers = (
        VectorContext(context_shape, classes=classes, embedding=embedding),
        DenseLayers(len(shapes) * blocks),
    )
    if likelihood is None:
        family = likelihood_of(scale, symbols, binary)
        head = nn.Sequential(layers.block(width), nn.Linear(width, prod(family.numbers_shape(event_shape))))
        likelihood = Parametric(head, family, event_shape=event_shape, context_shape=(width,))
    else:
        _alone(symbols, binary, scale)
    stages = [nn.Sequential(*(layers.block(width) for _ in range(blocks))) for _ in shapes]
    encoder = BottomUp(nn.Linear(prod(event_shape), width), stages)
    prepare = None if binary or symbols is not None else Standardizer(event_shape, name="x")
    return TopDown(
        [ResidualLevel(shape, width, layers, blocks=blocks) for shape in shapes],
        likelihood,
        first=FirstState((width,), context),
        encoder=WithContext(encoder, "x", prepare=prepare, size=prod(event_shape)),
        context_shape=context.context_shape,
        draws=draws,
    )


@recipe(texts=_TEXTS)
@checked(levels=_levels)
def convolutional_top_down(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    levels: Sequence[Shape],
    symbols: int | None = None,
    binary: bool = False,
    scale: float | None = None,
    width: int = 32,
    blocks: int = 1,
    group: int = 16,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    likelihood: DistributionModule | None = None,
    draws: int = 100,
) -> TopDown:
    """A hierarchy of grids of latents, from coarse to fine: residual convolutions, a very deep autoencoder of images.

    Args:
        event_shape: ``(channels, height, width)`` of an image, of any size.
        levels: Shapes ``(size, rows, columns)`` of the latents, from the top down; each grid is at least as fine as the
            one before, and no finer than the image.
        symbols: If given, pixels are integers ``0 … symbols - 1`` as floats, with a discretized logistic likelihood.
        likelihood: The distribution of images given the last state, ``(width, rows, columns)`` with the grid of the
            last level, as the entry ``"z"``, in place of one of these three families; itself built by a recipe if the
            model is to be saved.
        width: Channels of the state.

    Raises:
        ValueError: more than one of ``symbols``, ``binary``, ``scale`` and ``likelihood`` is given, ``group`` does not
            divide ``width``, or a grid does not fit.

    References:
        Child 2021, "Very deep VAEs generalize autoregressive models and can outperform them on images",
        https://arxiv.org/abs/2011.10650

    Example:
        >>> module = convolutional_top_down((1, 8, 8), levels=[(4, 1, 1), (2, 4, 4)], binary=True, width=16)
        >>> module().sample((5,)).shape
        torch.Size([5, 1, 8, 8])
    """
    event_shape, shapes = as_shape(event_shape, "event_shape"), _levels(levels, "levels")
    grids = _grids(event_shape, shapes)
    if width % group:
        raise ValueError(f"`width` must be a multiple of `group` = {group}, got {width}")
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    layers = ImageLayers(len(shapes) * blocks, group=group)
    if likelihood is None:
        family, state = pixels(scale, symbols, binary), (width, *grids[-1])
        head = image_head(width, planes(family, event_shape))
        likelihood = Parametric(head, family, event_shape=event_shape, context_shape=state)
    else:
        _alone(symbols, binary, scale)
    finer = [*grids[1:], grids[-1]]  # that below each level
    stages = [_stage(grid, below, width, blocks, layers) for grid, below in zip(grids, finer, strict=True)]
    if symbols is None and not binary:
        prepare = Standardizer(event_shape, name="x")
    else:
        prepare = Centred(2 if symbols is None else symbols)
    return TopDown(
        [
            ResidualLevel(shape, width, layers, blocks=blocks, after=_enlarged(grid, below))
            for shape, grid, below in zip(shapes, grids, finer, strict=True)
        ],
        likelihood,
        first=FirstState((width, *grids[0]), context),
        encoder=WithContext(BottomUp(image_stem(event_shape, width, grids[-1]), stages[::-1]), "x", prepare=prepare),
        context_shape=context.context_shape,
        draws=draws,
    )


def _stage(grid: Shape, below: Shape, width: int, blocks: int, layers: ImageLayers) -> nn.Module:
    """On the way up: from the grid below a level to its own."""
    coarser = [] if grid == below else [nn.AdaptiveAvgPool2d(grid)]
    return nn.Sequential(*coarser, *(layers.block(width) for _ in range(blocks)))


def _enlarged(grid: Shape, below: Shape) -> nn.Module | None:
    """On the way down: to the grid below a level."""
    return None if grid == below else nn.Upsample(size=below, mode="bilinear")


def _grids(event_shape: Shape, shapes: Sequence[Shape]) -> list[Shape]:
    """The rows and columns of each level."""
    if len(event_shape) != 3:
        raise ValueError(f"`event_shape` must be (channels, height, width), got {event_shape}")
    if any(len(shape) != 3 for shape in shapes):
        raise ValueError(f"`levels` must hold shapes (size, rows, columns), got {shapes}")
    grids = [shape[1:] for shape in shapes]
    for grid, below in zip(grids, [*grids[1:], event_shape[1:]], strict=True):
        if grid[0] > below[0] or grid[1] > below[1]:
            raise ValueError(
                f"`levels` must become no coarser from the top down, and none finer than the image, got {grid} above "
                f"{below}"
            )
    return grids


def _alone(symbols: int | None, binary: bool, scale: float | None) -> None:
    """Refuses families of data beside a likelihood."""
    given = {"symbols": symbols is not None, "binary": binary, "scale": scale is not None}
    if named := [name for name, there in given.items() if there]:
        raise ValueError(f"`{named[0]}` must not be given beside `likelihood`")
