"""Made heads for tomography: ellipses of bone, brain, fluid and other tissue, and small lesions to be added to them.

Values are attenuations of X-rays in units of water's: 0 is air, about 1 tissue, 2 bone. Images are two units wide; a
pixel has the share of an ellipse that covers it, to first order.

References:
    Shepp and Logan 1974, "The Fourier reconstruction of a head section", https://doi.org/10.1109/TNS.1974.6499235
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import count, integer, positive

_LESION_REACH = 0.35  # how far from the middle lesions lie, in each direction


def ellipses(centres: Tensor, radii: Tensor, turns: Tensor, *, side: int) -> Tensor:
    """Pictures of ellipses: the share of each pixel that they cover.

    Args:
        centres: Right and down from the middle of an image that is two units wide, ``(N, 2)``.
        radii: Half the axes, ``(N, 2)``.
        turns: By how much the first axis is turned from the right downwards, in radians, ``(N,)``.
        side: Of the pictures, in pixels.

    Shape:
        ``(N, 1, side, side)``.

    Example:
        >>> disc = ellipses(torch.zeros(1, 2), torch.full((1, 2), 0.5), torch.zeros(1), side=32)
        >>> round(disc.mean().item() * 4, 1)  # its area
        0.8
    """
    place = (torch.arange(integer(side, "side")) + 0.5) * 2 / side - 1
    across, down = place - centres[:, :1, None], place.unsqueeze(-1) - centres[:, 1:, None]
    cos, sin = turns.cos().reshape(-1, 1, 1), turns.sin().reshape(-1, 1, 1)
    first, second = radii[:, :1, None], radii[:, 1:, None]
    along = torch.stack([(cos * across + sin * down) / first, (cos * down - sin * across) / second])
    radius = along.norm(dim=0)
    # The distance to the edge is (1 - radius) over the slope of the radius, which is finite but in the middle.
    slope = torch.stack([along[0] / first, along[1] / second]).norm(dim=0) / radius.clamp_min(1e-6)
    distance = (1 - radius) / slope.clamp_min(1e-6) * side / 2
    return (distance + 0.5).clamp(0, 1).unsqueeze(1)


def heads(size: int, *, seed: int, side: int = 32) -> Tensor:
    """Heads without lesions: skull, brain, two ventricles, and three regions of tissue that differ a little.

    Args:
        size: How many.
        seed: Of all that varies.
        side: Of the pictures, in pixels.

    Shape:
        ``(size, 1, side, side)``.

    Example:
        >>> heads(2, seed=0).shape
        torch.Size([2, 1, 32, 32])
    """
    size, random = count(size, "size"), torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(size, *shape, generator=random)

    middle, turn = between(-0.08, 0.08, 2), between(-0.25, 0.25)
    outer = torch.stack([between(0.6, 0.75), between(0.75, 0.88)], -1)
    image = 2 * ellipses(middle, outer, turn, side=side)
    image = image - ellipses(middle, outer - between(0.1, 0.16, 1), turn, side=side)
    for sign in (-1, 1):
        beside = middle + torch.stack([sign * between(0.1, 0.2), between(-0.15, 0.1)], -1)
        ventricle = torch.stack([between(0.05, 0.1), between(0.15, 0.3)], -1)
        image = image - 0.4 * ellipses(beside, ventricle, turn, side=side)
    for _ in range(3):
        tissue = ellipses(middle + between(-0.3, 0.3, 2), between(0.15, 0.3, 2), turn, side=side)
        image = image + between(-0.2, 0.2, 1, 1, 1) * tissue
    return image


def lesions(size: int, *, seed: int, side: int = 32, contrast: float = 0.3) -> Tensor:
    """Small discs near the middle, each to be added to a head.

    Args:
        size: How many.
        seed: Of places and radii.
        side: Of the pictures, in pixels.
        contrast: What they add to the attenuation, in units of water's.

    Shape:
        ``(size, 1, side, side)``.

    Example:
        >>> ill = heads(2, seed=0) + lesions(2, seed=1)
    """
    size, random = count(size, "size"), torch.Generator().manual_seed(seed)
    centres = _LESION_REACH * (2 * torch.rand(size, 2, generator=random) - 1)
    radii = (0.1 + 0.06 * torch.rand(size, 1, generator=random)).expand(-1, 2)
    return positive(contrast, "contrast") * ellipses(centres, radii, torch.zeros(size), side=side)
