r"""Walks of scripted experts in a maze: a hall with a round pillar, which has two ways round, and a closed room.

The hall is the square :math:`[-1, 1]^2`, the pillar stands in its middle, and behind the wall at :math:`x = 1` lies a
room without a door. An expert in the hall keeps a distance of its own from the pillar and walks along a taut string,
at a constant speed, from a start to a goal. Of the two strings, of lengths :math:`\ell_l` and :math:`\ell_r`, which
leave the pillar on the left and on the right, it takes

.. math:: p(\text{pillar on the left}) = \frac{e^{-\ell_l / T}}{e^{-\ell_l / T} + e^{-\ell_r / T}} ,

the shorter one more often. So it is known which walks are possible, and how probable each route is. Experts in the room
walk straight.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import checked, several

PILLAR = 0.35
"""The radius of the pillar, which stands at the origin."""

ROOM = (1.2, 1.8)
"""From where to where the closed room reaches along the first axis; along the second it is as long as the hall."""

TEMPERATURE = 0.5
"""By how much a route must be longer for its odds to fall by a factor of e."""

_NEAREST, _FARTHEST = 0.1, 0.2  # what experts keep from the pillar
_ASIDE = 0.05  # from walls, and of starts and goals from the strings round the pillar
_IN_ROOM = 0.2  # the share of experts there


class Walks(NamedTuple):
    """Walks of experts.

    Attributes:
        points: Where each walk is, at equal times, ``(N, length, 2)``.
        left: Whether it leaves the pillar on its left, ``(N,)``; also where its string is straight.
        room: Whether it is in the closed room, ``(N,)``; ``left`` means nothing there.
    """

    points: Tensor
    left: Tensor
    room: Tensor


@checked(length=several)
def draw(size: int, *, seed: int, length: int = 32) -> Walks:
    """Walks of as many experts, from starts to goals that are uniform in the hall or, for every fifth, in the room.

    Args:
        size: How many.
        seed: Of the walks.
        length: How many points each has.

    Example:
        >>> walks = draw(100, seed=0)
        >>> walks.points.shape, bool(collision_free(walks.points).all())
        (torch.Size([100, 32, 2]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    room = torch.rand(size, generator=generator) < _IN_ROOM
    ends = torch.stack([places(size, generator=generator) for _ in range(2)], 1)  # (N, 2, 2)
    ends = torch.where(room[:, None, None], _in_room(torch.rand(size, 2, 2, generator=generator)), ends)
    radius = PILLAR + _NEAREST + (_FARTHEST - _NEAREST) * torch.rand(size, generator=generator)
    left = torch.rand(size, generator=generator) < _share_left(ends[:, 0], ends[:, 1], radius)
    points = _string(ends[:, 0], ends[:, 1], radius, left, torch.linspace(0, 1, length))
    straight = torch.lerp(ends[:, :1], ends[:, 1:], torch.linspace(0, 1, length)[:, None])
    return Walks(torch.where(room[:, None, None], straight, points), left, room)


def places(size: int, *, generator: torch.Generator) -> Tensor:
    """Uniform places in the hall where experts start and end, ``(size, 2)``: away from walls and pillar."""
    found = torch.empty(0, 2)
    while len(found) < size:
        drawn = (1 - _ASIDE) * (2 * torch.rand(2 * size + 8, 2, generator=generator) - 1)
        found = torch.cat([found, drawn[drawn.norm(dim=-1) > PILLAR + _FARTHEST + _ASIDE]])
    return found[:size]


def probability_left(start: Tensor, goal: Tensor) -> Tensor:
    """The probability that an expert leaves the pillar on its left, given where it starts and ends in the hall.

    Shape:
        ``(*batch, 2)`` and ``(*batch, 2)`` to ``batch``.
    """
    radii = PILLAR + torch.linspace(_NEAREST, _FARTHEST, 21)
    return _share_left(start.unsqueeze(-2), goal.unsqueeze(-2), radii).mean(-1)


def depth(points: Tensor, *, margin: float = 0.0) -> Tensor:
    """How deep walks are in pillar or walls where they are deepest, between their points too; zero where they are free.

    Walls between points are not seen: steps must be shorter than they are thick.

    Args:
        points: The walks.
        margin: By how much pillar and walls are thicker than they are.

    Shape:
        ``(*batch, length, 2)`` to ``batch``.
    """
    before, step = points[..., :-1, :], points.diff(dim=-2)
    share = -(before * step).sum(-1) / step.square().sum(-1).clamp(min=1e-12)
    nearest = (before + share.clamp(0, 1).unsqueeze(-1) * step).norm(dim=-1)
    across, along = points.unbind(-1)
    outside = torch.maximum(along.abs() - 1, (across - sum(ROOM) / 2).abs() - (ROOM[1] - ROOM[0]) / 2)
    hall = torch.maximum(along.abs() - 1, across.abs() - 1)
    in_walls = torch.minimum(hall, outside).amax(-1)
    return torch.maximum(in_walls, PILLAR - nearest.amin(-1)).add(margin).clamp(min=0)


def collision_free(points: Tensor) -> Tensor:
    """Whether walks meet neither pillar nor wall, between their points either, and stay in the hall or in the room.

    Shape:
        ``(*batch, length, 2)`` to ``batch``.
    """
    hall = points[..., 0] < (1 + ROOM[0]) / 2
    return (depth(points) == 0) & (hall.all(-1) | ~hall.any(-1))


def leaves_left(points: Tensor) -> Tensor:
    """Whether walks leave the pillar on their left: whether they turn round it against the clock.

    Shape:
        ``(*batch, length, 2)`` to ``batch``.
    """
    before, after = points[..., :-1, :], points[..., 1:, :]
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    return torch.atan2(cross, (before * after).sum(-1)).sum(-1) > 0


def _in_room(uniform: Tensor) -> Tensor:
    low, high = ROOM
    across = low + _ASIDE + (high - low - 2 * _ASIDE) * uniform[..., 0]
    return torch.stack([across, (1 - _ASIDE) * (2 * uniform[..., 1] - 1)], -1)


def _share_left(start: Tensor, goal: Tensor, radius: Tensor) -> Tensor:
    left, right = (_parts(start, goal, radius, turn).sum(0) for turn in (1.0, -1.0))
    return ((right - left) / TEMPERATURE).sigmoid()


def _parts(start: Tensor, goal: Tensor, radius: Tensor, turn: Tensor | float) -> Tensor:
    """The lengths of a taut string: to the circle, along it, and from it; ``(3, *batch)``. A straight one is the first.

    Args:
        start: Where it begins.
        goal: Where it ends.
        radius: Of the circle round the origin.
        turn: 1 against the clock, -1 with it.
    """
    angle = torch.atan2(goal[..., 1], goal[..., 0]) - torch.atan2(start[..., 1], start[..., 0])
    swept = (turn * angle) % (2 * math.pi)
    far = torch.stack([start.norm(dim=-1).expand(swept.shape), goal.norm(dim=-1).expand(swept.shape)])
    tangents = (far.square() - radius**2).clamp(min=0).sqrt()
    arc = swept - torch.acos((radius / far).clamp(max=1)).sum(0)  # from where the string meets the circle
    straight = torch.stack([(goal - start).norm(dim=-1).expand(arc.shape), 0 * arc, 0 * arc])
    return torch.where(arc > 0, torch.stack([tangents[0], radius * arc, tangents[1]]), straight)


def _string(start: Tensor, goal: Tensor, radius: Tensor, left: Tensor, shares: Tensor) -> Tensor:
    """Points of taut strings at shares of their lengths, ``(N, length, 2)``."""
    turn = torch.where(left, 1.0, -1.0)
    first, along, last = _parts(start, goal, radius, turn).unsqueeze(-1)  # (N, 1) each
    far = start.norm(dim=-1)
    begins = torch.atan2(start[:, 1], start[:, 0]) + turn * torch.acos((radius / far).clamp(max=1))
    walked = shares * (first + along + last)
    angle = begins.unsqueeze(-1) + turn.unsqueeze(-1) * (walked - first).clamp(min=0).minimum(along) / radius[:, None]
    circle = radius[:, None, None] * torch.stack([angle.cos(), angle.sin()], -1)
    ahead = torch.where((along > 0).unsqueeze(-1), circle[:, :1], goal.unsqueeze(1))  # where the first part leads
    there = (walked / first).clamp(max=1).unsqueeze(-1)
    back = ((walked - first - along) / last.clamp(min=1e-6)).clamp(0, 1).unsqueeze(-1)
    points = torch.where((walked <= first).unsqueeze(-1), torch.lerp(start.unsqueeze(1), ahead, there), circle)
    return torch.where((back > 0) & (along > 0).unsqueeze(-1), torch.lerp(circle, goal.unsqueeze(1), back), points)
