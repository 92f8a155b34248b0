r"""Walks of experts that circle, each in one of three styles, for imitation: after the first experiment of InfoGAIL.

An agent in the plane comes along the first axis and is at the origin at time zero. Before each step of length
:math:`v` it chooses a direction from the last five places where it was. An expert of style :math:`k` has a circle in
mind that touches the first axis at the origin, with centre :math:`(0, r_k)` and radius :math:`|r_k|`: to the left and
against the clock where :math:`r_k > 0`, else to the right and with the clock. It aims at the point of the circle that
is one step ahead of it, and misses the direction by a normal error:

.. math::
    p_{t+1} = p_t + v \, (\cos \theta_t, \sin \theta_t), \qquad
    \theta_t \sim \mathcal{N}(\alpha_k(p_t), \sigma^2), \qquad
    \alpha_k(p) = \text{the direction from } p \text{ to } c_k + R_{\delta_k} |r_k| \frac{p - c_k}{|p - c_k|} ,

with :math:`\delta_k = 2 \arcsin(v / 2 r_k)` and :math:`R` a rotation. Without errors all points are on the circle and
the agent turns by :math:`\delta_k` before each step; with them it returns to the circle, so the walk can go on for
ever. The likelihood of a style is known, hence so is the style of any walk.

References:
    Li, Song and Ermon 2017, "InfoGAIL: interpretable imitation learning from visual demonstrations",
    https://arxiv.org/abs/1703.08840
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import checked, function, integer, non_negative, real_tensor
from pyrogen.arrays import takes_arrays

SPEED = 0.25
"""The length of a step."""

RADII = (1.0, 0.5, -0.7)
"""Of the circles of the styles; positive to the left."""

NOISE = 0.2
"""The standard deviation of the errors of experts, in radians."""

SEEN = 5
"""How many places an agent remembers, the last of them where it is."""

Turning = Callable[[Tensor, int], Tensor]


class CirclingWalks(NamedTuple):
    """Walks of experts.

    Attributes:
        points: Where each walk is after each step, ``(N, length, 2)``.
        style: Which of the circles it follows, each with the same probability, ``(N,)``.
    """

    points: Tensor
    style: Tensor


@checked(length=integer, noise=non_negative)
def draw(size: int, *, seed: int, length: int = 32, noise: float = NOISE) -> CirclingWalks:
    """Walks of as many experts.

    Args:
        size: How many.
        seed: Of the walks.
        length: How many steps each has.
        noise: The standard deviation of the errors, in radians.

    Example:
        >>> walks = draw(100, seed=0)
        >>> walks.points.shape, (style_of(walks.points) == walks.style).float().mean().item() > 0.95
        (torch.Size([100, 32, 2]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    style = torch.randint(len(RADII), (size,), generator=generator)
    radius = torch.tensor(RADII)[style]
    error = noise * torch.randn(size, length, generator=generator)

    def turning(seen: Tensor, step: int) -> Tensor:
        return _wrapped(aim(seen[:, -1], radius) + error[:, step] - _direction(seen[:, -1] - seen[:, -2]))

    return CirclingWalks(rollout(turning, approach(size), length), style)


def approach(size: int) -> Tensor:
    """The places of agents who come along the first axis and are at the origin now, ``(size, SEEN, 2)``."""
    places = torch.stack([SPEED * torch.arange(1.0 - SEEN, 1.0), torch.zeros(SEEN)], -1)
    return places.expand(size, SEEN, 2)


@checked(turning=function, length=integer)
def rollout(turning: Turning, start: Tensor, length: int) -> Tensor:
    """Walks of agents who turn before each step, ``(N, length, 2)``; differentiable.

    Args:
        turning: By which angle, in radians against the clock, ``(N,)``: a function of the last places
            ``(N, SEEN, 2)`` and of the number of the step, from zero.
        start: The places before the first step, ``(N, SEEN, 2)``.
        length: How many steps there are.

    Raises:
        ValueError: ``start`` or the angles have another shape.

    Example:
        >>> square = rollout(lambda seen, step: torch.full((1,), math.pi / 2), approach(1), 4)
        >>> bool(square[0, -1].norm() < 1e-6)
        True
    """
    if start.shape[1:] != (SEEN, 2):
        raise ValueError(f"`start` must have shape (N, {SEEN}, 2), got {tuple(start.shape)}")
    places = list(start.unbind(1))
    angle = _direction(places[-1] - places[-2])
    for step in range(length):
        turn = turning(torch.stack(places[-SEEN:], 1), step)
        if turn.shape != angle.shape:
            raise ValueError(f"`turning` must give angles {tuple(angle.shape)}, got {tuple(turn.shape)}")
        angle = angle + turn
        places.append(places[-1] + SPEED * torch.stack([angle.cos(), angle.sin()], -1))
    return torch.stack(places[-length:], 1)


@takes_arrays
def seen(points: Tensor) -> Tensor:
    """What the agents of walks saw before each step.

    Shape:
        ``(N, length, 2)`` to ``(N, length, SEEN, 2)``.
    """
    return _from_approach(points)[:, :-1].unfold(1, SEEN, 1).transpose(-1, -2)


def view(places: Tensor) -> Tensor:
    """The last places in numbers of order one, for a network: where the agent is, and its last directions.

    Shape:
        ``(*batch, SEEN, 2)`` to ``(*batch, 2 * SEEN)``.
    """
    return torch.cat([places[..., -1, :], places.diff(dim=-2).flatten(-2) / SPEED], -1)


@takes_arrays
def moves(points: Tensor) -> Tensor:
    """Every step of walks in numbers of order one, for a network: the view before it, and its direction.

    Shape:
        ``(N, length, 2)`` to ``(N, length, 2 * SEEN + 2)``.
    """
    places = seen(points)
    return torch.cat([view(places), (points - places[..., -1, :]) / SPEED], -1)


@takes_arrays
def turns(points: Tensor) -> Tensor:
    """By which angle the agents of walks turned before each step, in radians against the clock.

    Shape:
        ``(N, length, 2)`` to ``(N, length)``.
    """
    angle = _direction(_from_approach(points)[:, SEEN - 2 :].diff(dim=1))
    return _wrapped(angle.diff(dim=1))


def aim(place: Tensor, radius: Tensor) -> Tensor:
    """The direction in which an expert wants to go from a place, in radians.

    Args:
        place: Where it is.
        radius: Of its circle; positive to the left.

    Shape:
        ``(*batch, 2)`` and ``batch`` to ``batch``.
    """
    across, along = place[..., 0], place[..., 1] - radius  # from the centre
    ahead = torch.atan2(along, across) + 2 * torch.asin(SPEED / (2 * radius))
    return torch.atan2(radius.abs() * ahead.sin() - along, radius.abs() * ahead.cos() - across)


@takes_arrays
def errors(points: Tensor) -> Tensor:
    """How far each step of walks is from what an expert of each style would aim at, in radians.

    Those of an expert under its own style are independent and normal, of standard deviation :data:`NOISE`.

    Shape:
        ``(N, length, 2)`` to ``(N, styles, length)``.
    """
    path = _from_approach(points)[:, SEEN - 1 :]
    aims = aim(path[:, None, :-1], points.new_tensor(RADII)[:, None])
    return _wrapped(_direction(path.diff(dim=1)).unsqueeze(1) - aims)


@takes_arrays
def style_of(points: Tensor) -> Tensor:
    """The style of greatest likelihood: that of the least squared errors.

    Shape:
        ``(N, length, 2)`` to ``(N,)``.
    """
    return errors(points).square().mean(-1).argmin(-1)


class Circling(NamedTuple):
    """How walks circle, each of them.

    Attributes:
        error: The root mean square of :func:`errors` over the last steps, in radians, under the style for which it is
            least, ``(N,)``; that of experts is :data:`NOISE`.
        on_course: Whether it is less than twice :data:`NOISE`, ``(N,)``.
        same_style: Whether that style is the one of the first steps, ``(N,)``.
    """

    error: Tensor
    on_course: Tensor
    same_style: Tensor


@takes_arrays
@checked(points=real_tensor, first=integer, last=integer)
def judged(points: Tensor, *, first: int, last: int) -> Circling:
    """How well walks circle at their end, and whether as at their beginning.

    Args:
        points: The walks, ``(N, length, 2)``.
        first: How many steps show the style in which each begins.
        last: In how many at the end they are judged.

    Example:
        >>> judged(draw(50, seed=0, length=96).points, first=32, last=24).same_style.all()
        tensor(True)
    """
    error = errors(points)[..., -last:].square().mean(-1)
    least = error.amin(-1).sqrt()
    return Circling(least, least < 2 * NOISE, error.argmin(-1) == style_of(points[:, :first]))


def _from_approach(points: Tensor) -> Tensor:
    """Walks with the places before them."""
    if points.dim() != 3 or points.shape[2] != 2 or not points.shape[1]:
        raise ValueError(f"`points` must be walks (N, length, 2), got {tuple(points.shape)}")
    return torch.cat([approach(len(points)).to(points), points], 1)


def _direction(step: Tensor) -> Tensor:
    return torch.atan2(step[..., 1], step[..., 0])


def _wrapped(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
