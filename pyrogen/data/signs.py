r"""Traffic signs drawn by formulas, things that are none, and pictures of either before a background.

A board is what lies within a curve :math:`r(\varphi)` around its middle: a circle, a regular polygon, or the star of
what is no sign. Towards the edge it has a rim, within it a field, and on that a glyph of a few strokes. A picture shows
a board at a random place, in a random size, a little turned, in a light of its own, and more or less out of focus.

Designs have four channels, :math:`(a r, a g, a b, a)`: the colours, each times how opaque it is, and how opaque, from 0
to 1. Those of files fit in beside those that are made.

References:
    Porter and Duff 1984, "Compositing digital images", https://doi.org/10.1145/964965.808606
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from math import pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, conv2d, grid_sample, interpolate, pad

from pyrogen.arguments import any_integer, anything, checked, count, integer, real_tensor

RED, BLUE, YELLOW, WHITE, BLACK = (0.8, 0.05, 0.1), (0.05, 0.25, 0.65), (0.98, 0.8, 0.1), (0.97,) * 3, (0.05,) * 3

BOARDS = {
    "warning": (3, 0.0, RED, WHITE, BLACK),
    "give way": (3, 0.5, RED, WHITE, BLACK),
    "prohibition": (0, 0.0, RED, WHITE, BLACK),
    "order": (0, 0.0, WHITE, BLUE, WHITE),
    "priority": (4, 0.0, BLACK, YELLOW, BLACK),
    "stop": (8, 0.5, WHITE, RED, WHITE),
    "information": (4, 0.5, WHITE, BLUE, WHITE),
}
"""Of each kind of sign how many corners it has (none: a circle), by which share of a side it is turned from a corner on
top, and the colours of rim, field and glyph."""

GLYPHS = {
    "nothing": (),
    "bar": ((0.0, 0.0, 0.45, 0.13, 0.0),),
    "post": ((0.0, 0.0, 0.13, 0.45, 0.0),),
    "cross": ((0.0, 0.0, 0.45, 0.1, 0.25), (0.0, 0.0, 0.45, 0.1, -0.25)),
    "up": ((0.0, 0.05, 0.08, 0.42, 0.0), (-0.14, -0.22, 0.24, 0.08, -0.25), (0.14, -0.22, 0.24, 0.08, 0.25)),
    "left": ((0.05, 0.0, 0.42, 0.08, 0.0), (-0.22, -0.14, 0.24, 0.08, -0.25), (-0.22, 0.14, 0.24, 0.08, 0.25)),
    "right": ((-0.05, 0.0, 0.42, 0.08, 0.0), (0.22, -0.14, 0.24, 0.08, 0.25), (0.22, 0.14, 0.24, 0.08, -0.25)),
    "bend": ((-0.2, 0.15, 0.08, 0.3, 0.0), (0.05, -0.15, 0.33, 0.08, 0.0)),
}
"""Of each glyph its strokes: their middle (to the right and down), half their sides, and by which share of half a turn
they are turned; in units of half the side."""

_LEFT_OUT = {
    "roadsigns": "ampelfrau_matthew_gates_01 ampelmaennchen_matthew_g_01 bus_symbol_black_01 Motorway_on yield stop "
    "nws_government_website__01 stop-sign-angled_01 stop_sign_right_font_mig_ route_jakob_chaosinfa_ "
    "chauss_e_particuli_reme_01",
    "restriction": "junction_circular mini_roundabout_left mini_roundabout_right speed_camera toll_gantry",
}
"""Files of packages that show no sign, not all of one, or what another shows, by their folder."""

_FIELD = 0.8  # of the way from the middle to the edge, within the rim


@checked(side=integer)
def designs(side: int = 64) -> Tensor:
    """The made signs: every glyph on every board, in the order of ``BOARDS`` and, on each, of ``GLYPHS``.

    Args:
        side: In pixels.

    Shape:
        ``(56, 4, side, side)``.

    Example:
        >>> designs(32).shape
        torch.Size([56, 4, 32, 32])
    """
    boards = [(corners, turn, 0.0, *colours) for corners, turn, *colours in BOARDS.values()]
    return torch.stack([_board(*each, glyph=glyph, side=side) for each in boards for glyph in GLYPHS.values()])


@checked(size=count, side=integer)
def badges(size: int, *, seed: int, side: int = 64) -> Tensor:
    """What resembles a sign and is none: stars of random colours, with the glyphs of signs.

    Args:
        size: How many.
        seed: Of corners, depths, colours and glyphs.
        side: In pixels.

    Shape:
        ``(size, 4, side, side)``.
    """
    random = torch.Generator().manual_seed(seed)
    corners = torch.randint(4, 8, (size,), generator=random).tolist()
    glyphs = [list(GLYPHS.values())[which] for which in torch.randint(len(GLYPHS), (size,), generator=random)]
    depths = (0.25 + 0.25 * torch.rand(size, generator=random)).tolist()
    colours = torch.rand(size, 3, 3, generator=random).tolist()
    made = zip(corners, depths, colours, glyphs, strict=True)
    boards = [_board(n, 0.0, depth, *three, glyph=glyph, side=side) for n, depth, three, glyph in made]
    return torch.stack(boards) if boards else torch.zeros(0, 4, side, side)


@checked(size=count, side=integer, layers=integer)
def collages(size: int, *, seed: int, side: int = 64, layers: int = 8) -> Tensor:
    """Circles and polygons of random colours on one another, some with outlines: whatever is flat and has edges.

    A model of such things before backgrounds knows of edges and flat colours and nothing of signs, as the background
    model of a likelihood ratio should.

    Args:
        size: How many.
        seed: Of all that varies.
        side: In pixels.
        layers: How many shapes there are at most; the first is the largest.

    Shape:
        ``(size, 4, side, side)``.
    """
    random = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(size, *shape, 1, 1, generator=random)

    def colours(light: Tensor) -> Tensor:
        """Vivid ones and greys, and what is between them."""
        vivid = between(0.0, 1.0, 3)
        return light * (vivid + between(0.0, 1.0, 1) * (vivid.mean(1, keepdim=True) - vivid))

    right, down = _grid(side)
    count = torch.randint(layers, (size, 1, 1, 1), generator=random)
    ink = colours(between(0.0, 1.0, 1).square())  # of all outlines in a picture, mostly dark
    made = torch.zeros(size, 4, side, side)
    for layer in range(layers):
        reach = between(0.15, 0.6) if layer else between(0.4, 1.0)
        shift = 0.5 if layer else 0.1
        x, y = (right - between(-shift, shift)) / reach, (down - between(-shift, shift)) / reach
        radius, angle = _polar(x * between(-1.2, 1.2).exp().clamp(min=1), y, between(0.0, 2 * pi))
        corners = torch.randint(1, 10, (size, 1, 1), generator=random)
        depth = ((_polygon(angle, corners * (corners > 2)) - radius) * reach).unsqueeze(1)
        plain = between(0.0, 1.0, 1) < 0.5
        within = torch.where(plain, 1.0, _cover(depth - between(0.03, 0.12, 1)))  # an outline
        colour = ink + (colours(torch.ones(())) - ink) * within
        cover = _cover(depth) * (layer <= count)
        made = made + (torch.cat([colour, torch.ones(size, 1, side, side)], 1) - made) * cover
    return made


@checked(seed=any_integer, size=anything)
def posed(
    designs: Tensor, backgrounds: Tensor, *, seed: int, size: tuple[float, float] = (0.6, 0.95), turn: float = 0.25
) -> Tensor:
    """Pictures of designs before backgrounds, one for each pair.

    Args:
        designs: What is shown, in the middle of its square.
        backgrounds: What is behind, numbers from 0 to 1.
        seed: Of place, size, turn, light and focus.
        size: The smallest and the largest side of the design's square, as a share of that of the picture.
        turn: The largest angle, in radians.

    Shape:
        ``(N, 4, k, k)`` and ``(N, 3, side, side)`` to ``(N, 3, side, side)``, numbers from 0 to 1.

    Raises:
        TypeError: designs or backgrounds hold no floating-point numbers.
        ValueError: their shapes do not fit, numbers are not from 0 to 1, or sizes are no shares in order.

    Example:
        >>> posed(designs(32), torch.rand(56, 3, 24, 24), seed=0).shape
        torch.Size([56, 3, 24, 24])
    """
    _check(designs, backgrounds)
    if not 0 < size[0] <= size[1] <= 1:
        raise ValueError(f"`size` must be two shares of the side, the smaller one first, got {size}")
    random, n = torch.Generator().manual_seed(seed), len(designs)
    if not n:  # which affine_grid does not take
        return backgrounds.clone()

    def between(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(n, *shape, generator=random)).to(backgrounds)

    share, angle = between(*size), between(-turn, turn)
    place = between(-1.0, 1.0, 2) * (1 - share).unsqueeze(-1)  # within the picture
    cosine, sine = angle.cos(), angle.sin()
    turned = torch.stack([cosine, sine, -sine, cosine], -1).reshape(n, 2, 2) / share.reshape(n, 1, 1)
    map_ = torch.cat([turned, -turned @ place.unsqueeze(-1)], -1)  # from the picture to the design
    fine = [n, 4, *(2 * side for side in backgrounds.shape[-2:])]
    seen = avg_pool2d(grid_sample(designs.to(backgrounds), affine_grid(map_, fine, False), align_corners=False), 2)
    light = between(0.5, 1.1, 1, 1, 1) * between(0.9, 1.1, 3, 1, 1)
    picture = (light * seen[:, :3]).clamp(max=1) + (1 - seen[:, 3:]) * backgrounds
    return _blurred(picture, between(0.2, 0.8)).clamp(0, 1)


@checked(side=integer)
def read(folders: Iterable[Path | str], *, side: int = 64) -> Tensor:
    """Designs of files of yours, ``*.svg``: what is drawn in each, in the middle of a square. Needs CairoSVG, Pillow.

    Real signs are in the Debian packages openclipart-svg (folder ``svg/transportation/roadsigns``) and josm (folders
    ``restriction`` and ``turn_restrictions`` of ``images/presets/vehicle``, in its jar). Files of the first two that
    show no sign, not all of one, or what another shows, are left out. What is no sign: the npm package openmoji has
    drawings of animals, food and things (``color/svg``).

    Args:
        folders: In whose order, and by their names, files are read.
        side: In pixels.

    Shape:
        ``(N, 4, side, side)``.

    Raises:
        ImportError: CairoSVG or Pillow is not installed.
        ValueError: there is no such file.
    """
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.svg"))]
    kept = [file for file in files if file.stem not in _LEFT_OUT.get(file.parent.name, "").split()]
    if not kept:
        raise ValueError(f"`folders` must hold files of designs, *.svg, got none among {len(files)}")
    return torch.cat([_rendered(file, side) for file in kept])


def _rendered(file: Path, side: int) -> Tensor:
    import cairosvg
    from PIL import Image

    drawn = Image.open(io.BytesIO(cairosvg.svg2png(url=str(file), output_width=96, output_height=96)))
    drawn = drawn.convert("RGBA")
    drawn = drawn.crop(drawn.getchannel("A").getbbox())
    square = Image.new("RGBA", (max(drawn.size),) * 2)
    square.paste(drawn, tuple((square.width - length) // 2 for length in drawn.size))
    pixels = torch.from_numpy(np.array(square.convert("RGBa"))).permute(2, 0, 1) / 255  # colours times how opaque
    return interpolate(pixels.unsqueeze(0), size=(side, side), mode="area")


def _board(
    corners: int,
    turn: float,
    depth: float,
    rim: Sequence[float],
    field: Sequence[float],
    ink: Sequence[float],
    *,
    glyph: Sequence[Sequence[float]],
    side: int,
) -> Tensor:
    """One design; ``depth`` is how far the sides of a star come in, as a share of its radius."""
    right, down = _grid(side)
    radius, angle = _polar(right, down, torch.tensor(2 * pi * turn / max(corners, 1)))
    edge = 1 - 0.5 * depth * (1 - (corners * angle).cos()) if depth else _polygon(angle, torch.tensor(corners))
    room = 0.8 if corners == 3 else 1.0  # a triangle has less of it
    strokes = [_stroke(right / room, down / room, *stroke) for stroke in glyph]
    drawn = torch.stack([torch.zeros_like(radius), *strokes]).amax(0)
    rim, field, ink = (torch.tensor(colour).reshape(3, 1, 1) for colour in (rim, field, ink))
    painted = rim + (field + (ink - field) * drawn - rim) * _cover(_FIELD * edge - radius)
    opaque = _cover(edge - radius).unsqueeze(0)
    return torch.cat([painted * opaque, opaque])


def _grid(side: int) -> tuple[Tensor, Tensor]:
    """How far to the right and how far down the pixels are from the middle, in units of half the side."""
    places = (torch.arange(side) + 0.5) * 2 / side - 1
    return places.expand(side, side), places.unsqueeze(-1).expand(side, side)


def _polar(right: Tensor, down: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """The distance from the middle and the angle from the top."""
    return (right.square() + down.square()).sqrt(), torch.atan2(right, -down) + turn


def _polygon(angle: Tensor, corners: Tensor) -> Tensor:
    """How far away the edge of a regular polygon with a corner on top is; 1 for a circle, which has no corners."""
    half = pi / corners.clamp(min=3)
    return torch.where(corners > 0, half.cos() / (angle.remainder(2 * half) - half).cos(), 1.0)


def _stroke(right: Tensor, down: Tensor, x: float, y: float, wide: float, high: float, turn: float) -> Tensor:
    turn = torch.tensor(pi * turn)
    along = turn.cos() * (right - x) + turn.sin() * (down - y)
    across = turn.cos() * (down - y) - turn.sin() * (right - x)
    return _cover(torch.minimum(wide - along.abs(), high - across.abs()))


def _cover(distance: Tensor) -> Tensor:
    """How much of each pixel is covered, from how far it is within an edge."""
    return torch.sigmoid(2 * distance.shape[-1] * distance)


def _blurred(pictures: Tensor, width: Tensor) -> Tensor:
    """Each picture under a Gaussian of its own width, in pixels."""
    places = torch.arange(-2, 3, device=width.device)
    weights = (-0.5 * (places / width.unsqueeze(-1)).square()).softmax(-1).repeat_interleave(3, 0).unsqueeze(1)
    channels = pad(pictures, (2, 2, 2, 2), "replicate").flatten(0, 1).unsqueeze(0)
    n = channels.shape[1]
    down = conv2d(channels, weights.unsqueeze(-1), groups=n)
    return conv2d(down, weights.unsqueeze(-2), groups=n).reshape(pictures.shape)


def _check(designs: Tensor, backgrounds: Tensor) -> None:
    for name, images, channels in (("designs", designs, 4), ("backgrounds", backgrounds, 3)):
        if not real_tensor(images, name).is_floating_point():
            raise TypeError(f"`{name}` must hold floating-point numbers, got {images.dtype}")
        if images.dim() != 4 or images.shape[1] != channels or images.shape[2] != images.shape[3]:
            raise ValueError(f"`{name}` must have shape (N, {channels}, side, side), got {tuple(images.shape)}")
        outside = images[~((images >= 0) & (images <= 1))]
        if len(outside):
            raise ValueError(f"`{name}` must be from 0 to 1, got {outside[0].item()}")
    if len(designs) != len(backgrounds):
        raise ValueError(f"`designs` and `backgrounds` must be as many, got {len(designs)} and {len(backgrounds)}")
