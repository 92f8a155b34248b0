r"""Pictures of cubes and cylinders on a table, as differentiable functions of what stands where: a soft renderer.

The camera looks down at the table by :math:`\varphi` = 35 degrees, from so far that all lines of sight are parallel. A
point at :math:`x` to the right, :math:`y` away from the camera and :math:`z` above the table is seen at

.. math:: (u, v) = (x, \; y \sin\varphi + z \cos\varphi) .

In a picture without perspective all edges are known in closed form. A box is a *zonogon*, the sum of three segments
:math:`[-g_k, g_k]`, which is what lies between three pairs of parallel lines,
:math:`|n_k \cdot p| \le \sum_j |n_k \cdot g_j|` with :math:`n_k` orthogonal to :math:`g_k`; so is its shadow. A
cylinder is an ellipse moved along a segment, and so is its shadow. A pixel at the signed distance :math:`d` inside an
edge is covered by :math:`1 / (1 + e^{-4 d})`, with :math:`d` in pixels. A solid :math:`i` is what one sees with weight

.. math:: w_i \propto \alpha_i \prod_{j \ne i} (1 - \alpha_j \, \sigma((y_i - y_j) / \tau)) ,

:math:`\alpha` being how much of the pixel each covers; together they cover :math:`1 - \prod_i (1 - \alpha_i)` of it.

Faces are lit by a distant lamp (Lambert's law, and light from all around); shadows fall on the table alone, and not on
other solids. The order in which solids hide each other is that of their middles, which is right where they do not
overlap in plan.

References:
    Liu, Li, Chen and Li 2019, "Soft rasterizer: a differentiable renderer for image-based 3D reasoning",
    https://arxiv.org/abs/1904.01786
"""

from __future__ import annotations

from math import cos, pi, radians, sin
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrogen.arguments import checked, count, integer, no_symbol, positive
from pyrogen.numerics.autograd import is_functional

KINDS = ("nothing", "cube", "cylinder")
"""What may stand at a place."""

TABLE = (0.86, 0.88, 0.92)
"""The colour of the table, as shares of red, green and blue."""

_DOWN = radians(35)  # how far the camera looks down
_SINE, _COSINE = sin(_DOWN), cos(_DOWN)
_MIDDLE = 0.45  # the height of the picture's middle
_AROUND = 0.45  # the share of light from all around
_DARKNESS = 0.4  # of shadows
_PENUMBRA = 0.04  # how wide the edges of shadows are
_ORDER = 0.05  # within what difference of distance solids shine through each other
_TINY = 1e-6


class Solids(NamedTuple):
    """What stands on the table: tensors of shape ``(*batch, n)``, and the colours ``(*batch, n, 3)``.

    Lengths are in the unit of the ``width`` of pictures.
    """

    kind: Tensor
    """Integers, the place in ``KINDS``."""

    colour: Tensor
    """Shares of red, green and blue, from 0 to 1."""

    right: Tensor
    """How far to the right of the origin the middle is."""

    away: Tensor
    """How much farther away from the camera than the origin the middle is."""

    size: Tensor
    """Half the edge of a cube; the radius, and half the height, of a cylinder."""

    turn: Tensor
    """By how much a cube is turned about its vertical axis, in radians; that of a cylinder changes nothing."""


def lamp(side: Tensor, *, height: float = pi / 4) -> Tensor:
    """The direction in which the lamp is: ``(*batch, 3)``, to the right, away and up.

    Args:
        side: How far it is to the right of the camera, as an angle on the table, in radians, ``(*batch,)``.
        height: Its angle above the table, in radians.

    Example:
        >>> lamp(torch.tensor(0.0)).round(decimals=2)  # from behind the camera
        tensor([ 0.0000, -0.7100,  0.7100])
    """
    if not side.is_floating_point():
        raise TypeError(f"`side` must hold floating-point numbers, got {side.dtype}")
    up = torch.full_like(side, sin(height))
    return torch.stack([cos(height) * side.sin(), -cos(height) * side.cos(), up], -1)


@checked(side=integer, width=positive)
def render(solids: Solids, light: Tensor, *, side: int = 32, width: float = 2.8) -> Tensor:
    """Pictures of solids on a table, differentiable in all but the kinds.

    Args:
        solids: What stands on the table. All shapes broadcast.
        light: The direction in which the lamp is, unit vectors ``(*batch, 3)`` as of :func:`lamp`.
        side: Of the pictures, in pixels.
        width: Of what they show. The origin lies in the middle between left and right, at 0.34 of the height.

    Shape:
        ``(*batch, 3, side, side)``, numbers from 0 to 1.

    Raises:
        ValueError: a kind is unknown, a size is negative, the lamp is not above the table or no unit vector, or shapes
            do not fit.

    Example:
        >>> pixels, solids, light = draw(2, seed=0)
        >>> torch.equal(render(solids, light), pixels)
        True
    """
    _check(solids, light)
    pixel = width / side
    grid = (torch.arange(side, device=light.device, dtype=light.dtype) + 0.5) * pixel - width / 2
    u, v = grid - solids.right[..., None, None], (_MIDDLE - grid).unsqueeze(-1) - _SINE * solids.away[..., None, None]
    towards = light.unsqueeze(-2)[..., None, None, :].unbind(-1)  # of all solids and pixels
    kind, size, turn = (values[..., None, None] for values in (solids.kind, solids.size, solids.turn))
    box, round_ = _cube(u, v, size, turn, towards, pixel), _cylinder(u, v, size, towards, pixel)
    cover, brightness, shadow = (
        torch.where(kind == 1, of_box, of_round) * (kind > 0) for of_box, of_round in zip(box, round_, strict=True)
    )
    table = torch.tensor(TABLE, dtype=light.dtype, device=light.device)[:, None, None]
    table = table * (1 - _DARKNESS * (1 - (1 - shadow).prod(-3))).unsqueeze(-3)
    seen, together = _seen(cover, solids.away)
    painted = seen.unsqueeze(-3) * brightness.unsqueeze(-3) * solids.colour[..., None, None]
    return painted.sum(-4) + (1 - together).unsqueeze(-3) * table


@checked(size=count, most=integer, side=integer)
def draw(size: int, *, seed: int, most: int = 3, side: int = 32) -> tuple[Tensor, Solids, Tensor]:
    """Scenes of up to so many solids, from the front to the back: pictures, what is in them, and where the lamp is.

    Args:
        size: How many scenes.
        seed: Of all that varies.
        most: How many solids there are at most; every number up to it is equally likely.
        side: Of the pictures, in pixels.

    Shape:
        ``(size, 3, side, side)``; ``(size, most)`` and for colours ``(size, most, 3)``; ``(size, 3)``.

    Example:
        >>> pixels, solids, light = draw(5, seed=0)
        >>> pixels.shape, solids.kind.shape
        (torch.Size([5, 3, 32, 32]), torch.Size([5, 3]))
    """
    random = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(size, *shape, generator=random)

    present = torch.arange(most) < torch.randint(most + 1, (size, 1), generator=random)
    kind = torch.where(present, torch.randint(1, 3, (size, most), generator=random), 0)
    away = between(-1.0, -0.4, 1) + between(0.7, 1.1, most).cumsum(-1) - 0.7
    shapes = {"right": between(-0.9, 0.9, most), "size": between(0.25, 0.4, most), "turn": between(0, pi / 2, most)}
    solids = Solids(kind=kind, colour=between(0.1, 0.9, most, 3), away=away, **shapes)
    light = lamp(between(-1, 1))
    return render(solids, light, side=side), solids, light


def _check(solids: Solids, light: Tensor) -> None:
    for name, tensor in (("solids.colour", solids.colour), ("light", light)):
        if tensor.shape[-1:] != (3,):
            raise ValueError(f"`{name}` must end in shape (3,), got shape {tuple(tensor.shape)}")
    if not is_functional((*solids, light)):
        _check_values(solids, light)
    shapes = {name: values.shape for name, values in solids._asdict().items()}
    shapes |= {"colour": solids.colour.shape[:-1], "light": (*light.shape[:-1], 1)}
    try:
        torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        found = {name: tuple(shape) for name, shape in shapes.items()}
        raise ValueError(f"`solids` and `light` must have shapes that broadcast, got {found}") from None


def _check_values(solids: Solids, light: Tensor) -> None:
    if no_symbol(solids.kind, len(KINDS)).any():
        raise ValueError(f"`solids.kind` must hold integers from 0 to {len(KINDS) - 1}, got {solids.kind}")
    if (solids.size < 0).any():  # zero and infinity, where a chain may stray, leave a picture of no number
        raise ValueError(f"`solids.size` must not be negative, got {solids.size}")
    if not (light[..., 2] > 0).all():
        raise ValueError(f"`light` must come from above the table, got {light}")
    if ((light.square().sum(-1) - 1).abs() > 1e-2).any():
        raise ValueError(f"`light` must hold unit vectors, as `lamp` gives them, got {light}")


def _cube(u: Tensor, v: Tensor, size: Tensor, turn: Tensor, light: tuple, pixel: float) -> tuple[Tensor, ...]:
    """How much of each pixel a cube covers, how bright it is there, and how much its shadow covers."""
    turn = turn.remainder(pi / 2)
    cosine, sine, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
    # Half the edges, as seen: two on the table, and one upwards; the left and the right face are those in front.
    first, second = (size * cosine, _SINE * size * sine), (-size * sine, _SINE * size * cosine)
    up = (zero, _COSINE * size)
    middle = (u, v - up[1])
    faces = [
        (_shifted(middle, up), (first, second), light[2]),
        (_shifted(middle, _minus(first)), (second, up), -cosine * light[0] - sine * light[1]),
        (_shifted(middle, _minus(second)), (first, up), sine * light[0] - cosine * light[1]),
    ]
    share = torch.stack(torch.broadcast_tensors(*(_zonogon(at, edges, pixel) for at, edges, _ in faces))).softmax(0)
    brightness = sum(part * _brightness(cosine) for part, (_, _, cosine) in zip(share, faces, strict=True))
    across, along = _shadow(size, light)
    half = (across / 2, _SINE * along / 2)
    shadow = _zonogon(_shifted((u, v), half), (first, second, half), 4 * _PENUMBRA)
    return _zonogon(middle, (first, second, up), pixel).exp(), brightness, shadow.exp()


def _cylinder(u: Tensor, v: Tensor, size: Tensor, light: tuple, pixel: float) -> tuple[Tensor, ...]:
    """The same of a cylinder."""
    top = 2 * _COSINE * size
    body = _ellipse(u, v - torch.minimum(v.clamp(min=0), top), size)
    on_top = torch.sigmoid(4 * _ellipse(u, v - top, size) / pixel)
    outwards = (u / size).clamp(-1, 1)
    forwards = (1 - outwards.square()).clamp(min=_TINY).sqrt()
    side = _brightness(outwards * light[0] - forwards * light[1])
    x, y = u, v / _SINE  # on the table
    across, along = _shadow(size, light)
    share = ((x * across + y * along) / (across.square() + along.square() + _TINY)).clamp(0, 1)
    aside = ((x - share * across).square() + (y - share * along).square() + _TINY).sqrt()
    shadow = torch.sigmoid((size - aside) / _PENUMBRA)
    brightness = on_top * _brightness(light[2]) + (1 - on_top) * side
    return torch.sigmoid(4 * body / pixel), brightness, shadow


def _zonogon(point: tuple, edges: tuple[tuple, ...], pixel: float) -> Tensor:
    """The logarithm of how much of pixels at a point, seen from its middle, the sum of segments covers."""
    log_cover = 0
    for right, up in edges:
        length = (right.square() + up.square() + _TINY**2).sqrt()
        across, along = -up / length, (right + _TINY) / length
        half = sum((across * other[0] + along * other[1]).abs() for other in edges)
        place = across * point[0] + along * point[1]
        log_cover = log_cover + logsigmoid(4 * (half - place) / pixel) + logsigmoid(4 * (half + place) / pixel)
    return log_cover


def _ellipse(right: Tensor, up: Tensor, radius: Tensor) -> Tensor:
    """The distance to the edge of a circle on the table, seen from its middle; positive inside, to first order."""
    first, second = right / radius, up / (_SINE * radius)
    norm = (first.square() + second.square() + _TINY).sqrt()
    slope = ((first / radius).square() + (second / (_SINE * radius)).square() + _TINY).sqrt() / norm
    return (1 - norm) / slope


def _seen(cover: Tensor, away: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each pixel shows each solid, and how much any."""
    behind = torch.sigmoid((away.unsqueeze(-1) - away.unsqueeze(-2)) / _ORDER)  # (*batch, n, n): the first, the second
    behind = behind * (1 - torch.eye(away.shape[-1], dtype=away.dtype, device=away.device))
    left = (1 - behind[..., None, None] * cover.unsqueeze(-4)).prod(-3)
    seen, together = cover * left, 1 - (1 - cover).prod(-3)
    return seen * (together / seen.sum(-3).clamp(min=_TINY)).unsqueeze(-3), together


def _shadow(size: Tensor, light: tuple) -> tuple[Tensor, Tensor]:
    """How far the shadow of the top falls, to the right and away."""
    return tuple(-2 * size * part / light[2] for part in light[:2])


def _brightness(cosine: Tensor) -> Tensor:
    return _AROUND + (1 - _AROUND) * cosine.clamp(min=0)


def _shifted(point: tuple, by: tuple) -> tuple[Tensor, Tensor]:
    return point[0] - by[0], point[1] - by[1]


def _minus(point: tuple) -> tuple[Tensor, Tensor]:
    return -point[0], -point[1]
