r"""Videos of balls that bounce in a box, with where they are and how they move.

A ball of radius :math:`r` moves at a constant velocity between the walls of the unit square, which mirror it: its
centre is :math:`x_t = r + \operatorname{fold}(x_0 - r + v t)`, where fold goes back and forth over :math:`[0, 1 - 2r]`.
Balls do not see each other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import checked, inner_share, integer

_SLOWEST, _FASTEST = 0.05, 0.15  # sides of the box a frame


class Videos(NamedTuple):
    """Videos, and what happens in them.

    Attributes:
        pixels: Shares of light from 0 to 1, ``(N, frames, 1, side, side)``.
        centres: Where balls are, to the right and down, in sides of the box, ``(N, frames, balls, 2)``.
        velocities: How they move before each frame's next one, in sides a frame, of the same shape.
        bounced: Whether a ball has met a wall up to a frame, ``(N, frames, balls)``.
    """

    pixels: Tensor
    centres: Tensor
    velocities: Tensor
    bounced: Tensor


@checked(balls=integer, frames=integer, side=integer, radius=inner_share)
def draw(size: int, *, seed: int, frames: int = 8, side: int = 16, balls: int = 1, radius: float = 0.15) -> Videos:
    """Videos of balls from uniform places, with uniform directions and speeds of 0.05 to 0.15 sides a frame.

    Args:
        size: How many videos.
        seed: Of the videos.
        frames: How many frames each has.
        side: Of a frame, in pixels.
        balls: How many balls there are.
        radius: Of a ball, in sides of the box, below a half.

    Raises:
        ValueError: ``radius`` is a half or more.

    Example:
        >>> draw(2, seed=0).pixels.shape
        torch.Size([2, 8, 1, 16, 16])
    """
    if radius >= 0.5:
        raise ValueError(f"`radius` must be below 0.5, got {radius}")
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(size, 1, balls, 2, generator=generator) * (1 - 2 * radius)
    angle = 2 * torch.pi * torch.rand(size, 1, balls, generator=generator)
    speed = _SLOWEST + (_FASTEST - _SLOWEST) * torch.rand(size, 1, balls, generator=generator)
    velocity = speed.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1)
    times = torch.arange(frames).reshape(1, frames, 1, 1)
    unfolded = start + velocity * times
    folded, forward = _fold(unfolded, 1 - 2 * radius)
    bounced = ((unfolded < 0) | (unfolded > 1 - 2 * radius)).any(-1)
    centres = radius + folded
    return Videos(render(centres, side=side, radius=radius), centres, velocity * forward, bounced)


def render(centres: Tensor, *, side: int = 16, radius: float = 0.15) -> Tensor:
    """Frames of balls at given places: light where a ball covers a pixel, with an edge one pixel wide.

    Args:
        centres: To the right and down, in sides of the box.
        side: Of a frame, in pixels.
        radius: Of a ball, in sides of the box.

    Shape:
        ``(*batch, balls, 2)`` to ``(*batch, 1, side, side)``.
    """
    grid = (torch.arange(side, dtype=centres.dtype, device=centres.device) + 0.5) / side
    right = grid - centres[..., 0, None, None]
    down = grid.unsqueeze(-1) - centres[..., 1, None, None]
    cover = ((radius - (right.square() + down.square()).sqrt()) * side + 0.5).clamp(0, 1)  # (*batch, balls, side, side)
    return cover.amax(-3, keepdim=True)


def centre_of_light(pixels: Tensor) -> Tensor:
    """The mean place of the light of each frame, to the right and down, in sides of the box: of one ball its centre.

    Shape:
        ``(*batch, 1, side, side)`` to ``(*batch, 2)``.
    """
    light = pixels.squeeze(-3).clamp(min=0)
    side = light.shape[-1]
    grid = (torch.arange(side, dtype=pixels.dtype, device=pixels.device) + 0.5) / side
    total = light.sum((-2, -1)).clamp(min=1e-6)
    return torch.stack([(light.sum(-2) * grid).sum(-1) / total, (light.sum(-1) * grid).sum(-1) / total], -1)


def _fold(unfolded: Tensor, length: float) -> tuple[Tensor, Tensor]:
    """Where a point is that walls at 0 and ``length`` mirror, and whether it moves as it would without: 1 or -1."""
    turn = unfolded % (2 * length)
    back = turn > length
    return torch.where(back, 2 * length - turn, turn), torch.where(back, -1.0, 1.0)
