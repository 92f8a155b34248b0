"""Figures of what latents mean: traversals along one element at a time, and paths between two latents.

What decodes is a function of latents that gives a distribution of images, such as ``vae.likelihood_at``; its mean is
shown, or a draw where it has none (torch gives NaN for categories).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from types import NoneType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyrogen.arguments import checked, function, integer, numbers, several, sizes
from pyrogen.arrays import takes_arrays

from .arrays import real_array
from .images import mosaic, name_rows, scaled, show
from .style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Decode = Callable[[Tensor], Distribution]


@takes_arrays
@checked(decode=function)
def latent_traversals(
    decode: Decode,
    z: Tensor,
    *,
    values: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3),
    elements: Sequence[int] | None = None,
    image_shape: Sequence[int] | None = None,
) -> Figure:
    """One latent with one element at a time set to other values: a row for each element, a column for each value.

    Args:
        decode: From latents ``(..., *latent_shape)`` to a distribution of images.
        z: Where to start, of shape ``latent_shape``.
        values: What the element is set to.
        elements: Which elements of the flattened latent to move; all of them if ``None``.
        image_shape: Shape of one image, ``(height, width)`` or ``(channels, height, width)``, where events are flat.

    Raises:
        TypeError: ``z`` is no tensor, or ``decode`` gives no distribution.
        ValueError: an element is out of range, there are no values, a number is NaN or infinite, or events are no
            images.

    Example:
        >>> import pyrogen as pg
        >>> vae = pg.latent.vae((1, 8, 8), latent_shape=(4,), hidden=(16,))
        >>> figure = latent_traversals(vae.likelihood_at, torch.zeros(4))
    """
    _check_latents(z, "z")
    if real_array(values, "values").ndim != 1 or not len(values):
        raise ValueError(f"`values` must be a sequence of at least one number, got {values!r}")
    count = z.numel()
    if not isinstance(elements, Sequence | Tensor | NoneType):
        raise TypeError(f"`elements` must be a sequence of integers, got {elements!r}")
    chosen = list(range(count)) if elements is None else [integer(element, "elements", least=0) for element in elements]
    if not chosen or not all(0 <= element < count for element in chosen):
        raise ValueError(f"`elements` must lie between 0 and {count - 1}, got {chosen}")
    moved = z.detach().flatten().repeat(len(chosen), len(values), 1)
    for row, element in enumerate(chosen):
        moved[row, :, element] = torch.as_tensor(values, dtype=z.dtype, device=z.device)
    images = _decoded(decode, moved.reshape(*moved.shape[:2], *z.shape), image_shape)
    return _figure(images, [f"z[{element}]" for element in chosen], [f"{value:g}" for value in values])


@takes_arrays
@checked(decode=function, steps=several)
def latent_paths(
    decode: Decode,
    first: Tensor,
    last: Tensor,
    *,
    steps: int = 9,
    spherical: bool = False,
    image_shape: Sequence[int] | None = None,
) -> Figure:
    r"""Images along paths between latents: a row for each pair.

    Args:
        decode: From latents ``(..., *latent_shape)`` to a distribution of images.
        first: Latents where the paths begin, ``(rows, *latent_shape)``.
        last: Where they end, of the same shape.
        steps: How many images a row shows, both ends among them.
        spherical: Along great circles, which keep the norm that draws of a standard normal in many dimensions have; in
            straight lines otherwise.
        image_shape: As for :func:`latent_traversals`.

    Raises:
        TypeError: ``first`` or ``last`` is no tensor, or ``decode`` gives no distribution.
        ValueError: shapes differ, there are fewer than two steps, a number is NaN or infinite, or events are no images.

    Example:
        >>> import pyrogen as pg
        >>> vae = pg.latent.vae((1, 8, 8), latent_shape=(4,), hidden=(16,))
        >>> figure = latent_paths(vae.likelihood_at, torch.randn(3, 4), torch.randn(3, 4), spherical=True)
    """
    _check_latents(first, "first")
    _check_latents(last, "last")
    if first.shape != last.shape or first.dim() < 2 or not first.numel():
        raise ValueError(
            f"`first` and `last` must have one shape (rows, *latent_shape), got {tuple(first.shape)} and "
            f"{tuple(last.shape)}"
        )
    ends = [end.detach().flatten(1)[:, None] for end in (first, last)]
    share = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)[:, None]
    path = _great_circle(*ends, share) if spherical else torch.lerp(*ends, share)
    return _figure(_decoded(decode, path.unflatten(-1, first.shape[1:]), image_shape), (), ())


def _check_latents(values: Tensor, name: str) -> None:
    numbers(values, name)
    if not values.is_floating_point():
        raise TypeError(f"`{name}` must hold floating-point numbers, got {values.dtype}")


def _great_circle(first: Tensor, last: Tensor, share: Tensor) -> Tensor:
    r"""Spherical interpolation, :math:`(\sin((1 - s) \theta) a + \sin(s \theta) b) / \sin \theta`."""
    cosine = torch.cosine_similarity(first, last, -1)[..., None].clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.acos()
    return (((1 - share) * angle).sin() * first + (share * angle).sin() * last) / angle.sin()


def _decoded(decode: Decode, z: Tensor, image_shape: Sequence[int] | None) -> Tensor:
    with torch.no_grad():
        distribution = decode(z)
        if not isinstance(distribution, Distribution):
            raise TypeError(f"`decode` must give a distribution of images, got {type(distribution).__name__}")
        try:
            images = distribution.mean
        except NotImplementedError:
            images = distribution.sample()
        if images.isnan().all():
            images = distribution.sample()
    if image_shape is None:
        return images
    image_shape = sizes(image_shape, "image_shape")
    if images.shape[2:].numel() != prod(image_shape):
        raise ValueError(
            f"`image_shape` must have the {images.shape[2:].numel()} pixels of an event, got {image_shape}"
        )
    return images.reshape(*images.shape[:2], *image_shape)


def _figure(images: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    array = real_array(images, "images")
    whole = mosaic(array, "images")
    width = 0.55 * array.shape[1]
    figure = new_figure(width + 0.8, width * whole.shape[0] / whole.shape[1] + 0.35)
    (axes,) = figure.subplots(1, 1, squeeze=False).flat
    show(axes, scaled(whole, float(array.min()), float(array.max())), "")
    name_rows(axes, rows, whole.shape[0])
    if columns:
        places = (np.arange(len(columns)) + 0.5) * whole.shape[1] / len(columns) - 0.5
        axes.xaxis.tick_top()
        axes.set_xticks(places, labels=list(columns))
        axes.tick_params(length=0, labelsize=8)
    return figure
