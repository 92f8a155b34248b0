"""Which frequencies a magnetic resonance scanner measures, and simple sensitivities of its coils."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.arguments import checked, integer, number, sizes, vector
from pyrogen.arguments import finite as finite_tensor


@checked
def uniform_lines(shape: tuple[int, int], factor: int, *, centre: int = 0) -> Tensor:
    """Every so manieth column of frequencies, the zero frequency among them, and all columns in the middle.

    Args:
        shape: ``(height, width)`` of the image.
        factor: Which columns: one of so many.
        centre: How many columns in the middle are measured in any case.

    Returns:
        A mask for :class:`Fourier`, ``(height, width)``.
    """
    height, width = _plane(shape)
    column = torch.arange(width) - width // 2
    return ((column % factor == 0) | _middle(width, centre)).expand(height, width)


@checked
def random_lines(
    shape: tuple[int, int], factor: int, *, centre: int = 0, generator: torch.Generator | None = None
) -> Tensor:
    """A random part of the columns of frequencies, of which those in the middle are always measured.

    Args:
        shape: ``(height, width)`` of the image.
        factor: One of so many columns is measured, those in the middle included: ``round(width / factor)``.
        centre: How many columns in the middle are measured in any case.
        generator: Where the random numbers come from.

    Returns:
        A mask for :class:`Fourier`, ``(height, width)``.
    """
    height, width = _plane(shape)
    kept = _middle(width, centre)
    more = round(width / factor) - int(kept.sum())
    if more < 0:
        raise ValueError(
            f"`centre` must be at most the {round(width / factor)} columns that are measured, got {centre}"
        )
    other = (~kept).nonzero().squeeze(-1)
    kept[other[torch.randperm(len(other), generator=generator)[:more]]] = True
    return kept.expand(height, width)


def radial(shape: tuple[int, int], angles: Tensor, *, samples: int | None = None) -> Tensor:
    """Frequencies along spokes through the middle.

    By the projection-slice theorem a spoke is the Fourier transform of the view of :class:`Radon` at the same angle.

    Args:
        shape: ``(height, width)`` of the image.
        angles: Of the spokes, in radians, ``(spokes,)``; for golden-angle sampling, multiples of 1.9416.
        samples: How many along a spoke, from -0.5 to less than 0.5 cycles a pixel; as many as the longer side has
            pixels if not given.

    Returns:
        Frequencies for :class:`NonuniformFourier`, ``(spokes, samples, 2)``.
    """
    count = max(_plane(shape)) if samples is None else integer(samples, "samples")
    vector(finite_tensor(angles, "angles"), "angles", "(spokes,)")
    along = (torch.arange(count, dtype=angles.dtype, device=angles.device) - count // 2) / count
    direction = torch.stack([-angles.sin(), angles.cos()], -1)  # rows point downwards
    return along.unsqueeze(-1) * direction.unsqueeze(-2)


def coil_maps(shape: tuple[int, int], coils: int, *, distance: float = 1.5) -> Tensor:
    """Smooth sensitivities of coils that stand around an image, whose squares sum to one.

    The field of each falls as one over the distance from it, and its phase turns around it.

    Args:
        shape: ``(height, width)`` of the image.
        coils: How many.
        distance: From the middle to the coils, in halves of the image's diagonal, more than one.

    Returns:
        Complex maps ``(coils, height, width)`` for :class:`Coils`.
    """
    height, width = _plane(shape)
    if number(distance, "distance") <= 1:
        raise ValueError(f"`distance` must be more than 1, outside the image, got {distance}")
    half = math.hypot(height, width) / 2
    across = (torch.arange(width) - (width - 1) / 2) / half
    up = ((height - 1) / 2 - torch.arange(height)) / half
    turn = 2 * math.pi * torch.arange(integer(coils, "coils")) / coils
    place = torch.complex(across.expand(height, width), up.unsqueeze(-1).expand(height, width))
    field = 1 / (place - torch.polar(torch.full((coils,), distance), turn)[:, None, None])
    return field / field.abs().square().sum(0).sqrt()


def _middle(width: int, centre: int) -> Tensor:
    integer(centre, "centre", least=0)
    first = width // 2 - centre // 2
    column = torch.arange(width)
    return (column >= first) & (column < first + centre)


def _plane(shape: tuple[int, int]) -> tuple[int, int]:
    found = sizes(shape, "shape")
    if len(found) != 2:
        raise ValueError(f"`shape` must be (height, width), got {found}")
    return found
