"""Small pictures of two coloured shapes and the captions that say what is where."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import checked, count, integer, whole_share

COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.75, 0.1),
    "blue": (0.15, 0.2, 0.95),
    "yellow": (0.95, 0.9, 0.1),
    "cyan": (0.1, 0.85, 0.9),
    "magenta": (0.9, 0.1, 0.85),
    "white": (0.98, 0.98, 0.98),
    "black": (0.02, 0.02, 0.02),
}
"""The colours of shapes, as shares of red, green and blue."""

SHAPES = ("circle", "square", "triangle", "ring", "cross", "diamond")
"""What can be in a scene."""

RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Where the first shape is, seen from the second: to the right, and down."""

WORDS = ("", "a", *COLOURS, *SHAPES, "left", "right", "of", "above", "below")
"""The vocabulary of captions: a token is a place in it, and the first fills up captions shorter than the longest."""

CAPTION_LENGTH = 8
"""Tokens in a caption: "a red circle left of a blue square"."""

BACKGROUND = 0.5


class Scenes(NamedTuple):
    """Pictures, their captions, and what is in them."""

    pixels: Tensor
    """Numbers from 0 to 1, of shape ``(N, 3, side, side)``."""

    captions: Tensor
    """Tokens of shape ``(N, 8)``; :func:`decode` makes words of them."""

    attributes: Tensor
    """Integers of shape ``(N, 5)``: colour and shape of the first, relation, colour and shape of the second, each the
    place in ``COLOURS``, ``SHAPES`` and ``RELATIONS``."""


@checked(size=count, spread=whole_share, side=integer)
def draw(
    size: int,
    *,
    seed: int,
    side: int = 16,
    colours: int = 4,
    shapes: int = 3,
    spread: float = 1.0,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Scenes:
    """Two different shapes on grey, one left or right of, above or below the other, with the caption that says so.

    All captions are equally likely but for those that ``only`` and ``without`` rule out. Places and sizes vary; edges
    are smooth, and shapes neither touch nor leave the picture. "a red circle left of a blue square" and "a blue square
    right of a red circle" are the same picture.

    Args:
        size: How many scenes.
        seed: Of the scenes.
        side: Of the pictures, in pixels.
        colours: How many there are, the first of ``COLOURS``.
        shapes: How many there are, the first of ``SHAPES``.
        spread: How much places and sizes vary, as a share of what there is room for.
        only: Coloured shapes, "red square", say, of which every scene has at least one; any if empty.
        without: Coloured shapes that no scene has.

    Raises:
        ValueError: ``only`` or ``without`` names something else than a coloured shape, or no scene is left; ``side``
            is less than 16; there are fewer ``colours`` or ``shapes``.

    Example:
        >>> decode(draw(1, seed=3).captions)
        ['a blue triangle below a yellow square']
    """
    _require_known(colours, COLOURS, "colours")
    _require_known(shapes, SHAPES, "shapes")
    things = list(product(range(colours), range(shapes)))
    possible = _possible(things, _coloured_shapes(only, "only"), _coloured_shapes(without, "without"))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(possible), (size,), generator=generator)
    layout = 0.5 + spread * (torch.rand(size, 2, 3, generator=generator) - 0.5)
    pixels = render(possible[rows], layout, side=side)
    return Scenes(pixels, encode(describe(possible))[rows], possible[rows])


def render(attributes: Tensor, layout: Tensor, *, side: int = 16) -> Tensor:
    """The pictures of given attributes, each thing of a given size at a given place.

    With other attributes and the same layout it is the same scene but for what was changed.

    Args:
        attributes: As in :class:`Scenes`, of shape ``(N, 5)``.
        layout: Numbers from 0 to 1, of shape ``(N, 2, 3)``: of each thing its size, and its place to the right and
            down; uniform in what :func:`draw` draws.
        side: Of the pictures, in pixels.

    Shape:
        ``(N, 3, side, side)``, numbers from 0 to 1.

    Raises:
        ValueError: shapes do not fit, an attribute is none, ``layout`` leaves [0, 1], or ``side`` is less than 16.

    Example:
        >>> render(torch.tensor([[0, 1, 0, 2, 0]]), torch.full((1, 2, 3), 0.5)).shape
        torch.Size([1, 3, 16, 16])
    """
    if integer(side, "side") < 16:
        raise ValueError(f"`side` must be at least 16, got {side}")
    _check_attributes(attributes)
    if layout.shape != (len(attributes), 2, 3):
        raise ValueError(f"`layout` must have shape {(len(attributes), 2, 3)}, got {tuple(layout.shape)}")
    if not bool(((layout >= 0) & (layout <= 1)).all()):
        raise ValueError(f"`layout` must lie between 0 and 1, got {layout[~((layout >= 0) & (layout <= 1))][0].item()}")
    return _rendered(attributes, layout, side)


def describe(attributes: Tensor) -> list[str]:
    """The captions of scenes with given attributes, of shape ``(N, 5)``, in words.

    Raises:
        ValueError: the shape is another, or an attribute is none.

    Example:
        >>> describe(torch.tensor([[0, 1, 0, 2, 0]]))
        ['a red square left of a blue circle']
    """
    _check_attributes(attributes)
    return [_sentence(row) for row in attributes.tolist()]


def swapped(attributes: Tensor) -> Tensor:
    """The same scenes told from the other thing: relations come in pairs of opposites.

    Shape:
        ``(N, 5)`` to ``(N, 5)``.

    Raises:
        ValueError: the shape is another, or an attribute is none.

    Example:
        >>> describe(swapped(torch.tensor([[0, 1, 0, 2, 0]])))
        ['a blue circle right of a red square']
    """
    _check_attributes(attributes)
    relation = attributes[:, 2:3]
    return torch.cat([attributes[:, 3:], relation + 1 - 2 * (relation % 2), attributes[:, :2]], -1)


def agreement(found: Tensor, asked: Tensor) -> Tensor:
    """What is right of scenes: both colours, both shapes, the relation; told from whichever thing more is right.

    Args:
        found: The attributes of scenes, as a classifier reads them, ``(N, 5)``.
        asked: Those that were asked for, ``(N, 5)``.

    Shape:
        ``(N, 3)``, booleans.

    Raises:
        ValueError: the shapes are others, or an attribute is none.

    Example:
        >>> asked = torch.tensor([[0, 1, 0, 2, 0]])  # a red square left of a blue circle
        >>> agreement(torch.tensor([[2, 0, 1, 0, 2]]), asked)  # a blue circle right of a red triangle
        tensor([[ True, False,  True]])
    """
    _check_attributes(asked)
    if found.shape != asked.shape:
        raise ValueError(f"`found` must have the shape {tuple(asked.shape)} of `asked`, got {tuple(found.shape)}")
    ways = torch.stack([found == asked, swapped(found) == asked])
    score = ways.double() @ torch.tensor([1, 1, 0.5, 1, 1], dtype=torch.double)  # the relation decides a draw
    right = torch.where((score[0] >= score[1]).unsqueeze(-1), ways[0], ways[1])
    return torch.stack([right[:, [0, 3]].all(-1), right[:, [1, 4]].all(-1), right[:, 2]], -1)


def encode(captions: Sequence[str]) -> Tensor:
    """Captions as tokens.

    Shape:
        ``(len(captions), 8)``.

    Raises:
        ValueError: a word is not in the vocabulary, or a caption has too many.

    Example:
        >>> encode(["a red circle above a blue square"])
        tensor([[ 1,  2, 10, 19,  1,  4, 11,  0]])
    """
    tokens = torch.zeros(len(captions), CAPTION_LENGTH, dtype=torch.long)
    for row, caption in zip(tokens, captions, strict=True):
        words = caption.split()
        unknown = sorted(set(words) - set(WORDS))
        if unknown:
            raise ValueError(f"`captions` must have words among {WORDS[1:]}, got {unknown}")
        if len(words) > CAPTION_LENGTH:
            raise ValueError(f"`captions` must have at most {CAPTION_LENGTH} words, got {caption!r}")
        row[: len(words)] = torch.tensor([WORDS.index(word) for word in words], dtype=torch.long)
    return tokens


def decode(tokens: Tensor) -> list[str]:
    """The captions that tokens of shape ``(N, length)`` stand for.

    Raises:
        ValueError: a token is out of range.
    """
    if ((tokens < 0) | (tokens >= len(WORDS))).any():
        raise ValueError(f"`tokens` must lie between 0 and {len(WORDS) - 1}, got {tokens}")
    return [" ".join(WORDS[token] for token in row if token) for row in tokens.tolist()]


def _check_attributes(attributes: Tensor) -> None:
    if attributes.dim() != 2 or attributes.shape[1] != 5:
        raise ValueError(f"`attributes` must have shape (N, 5), got {tuple(attributes.shape)}")
    if attributes.is_floating_point():
        raise TypeError(f"`attributes` must hold integers, got {attributes.dtype}")
    known = len(COLOURS), len(SHAPES), len(RELATIONS), len(COLOURS), len(SHAPES)
    wrong = (attributes < 0) | (attributes >= torch.tensor(known))
    if wrong.any():
        row = attributes[wrong.any(1)][0].tolist()
        raise ValueError(f"`attributes` must be at least 0 and less than {known}, got {row}")


def _coloured_shapes(names: Sequence[str], argument: str) -> set[tuple[int, int]]:
    numbers = {f"{colour} {shape}": (i, j) for i, colour in enumerate(COLOURS) for j, shape in enumerate(SHAPES)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise ValueError(f"`{argument}` must name coloured shapes such as 'red square', got {unknown}")
    return {numbers[name] for name in names}


def _require_known(count: int, known: Collection[str], argument: str) -> None:
    if not 1 <= integer(count, argument) <= len(known):
        raise ValueError(f"`{argument}` must be at most {len(known)}, got {count}")


def _possible(things: list[tuple[int, int]], only: set[tuple[int, int]], without: set[tuple[int, int]]) -> Tensor:
    """The attributes of all scenes of these things that may be drawn, ``(M, 5)``."""
    things = [thing for thing in things if thing not in without]
    rows = [
        (*first, relation, *second)
        for first, relation, second in product(things, range(len(RELATIONS)), things)
        if first != second and (not only or first in only or second in only)
    ]
    if not rows:
        raise ValueError("`only` and `without` must leave a scene, got none")
    return torch.tensor(rows)


def _sentence(attributes: list[int]) -> str:
    colours, relations = list(COLOURS), list(RELATIONS)
    colour, shape, relation, other_colour, other_shape = attributes
    return f"a {colours[colour]} {SHAPES[shape]} {relations[relation]} a {colours[other_colour]} {SHAPES[other_shape]}"


def _rendered(attributes: Tensor, uniform: Tensor, side: int) -> Tensor:
    """Pixels of scenes, from uniform numbers ``(N, 2, 3)`` for the size of each shape and its place on two axes.

    Along the relation shapes stay 0.035 sides from the edge and 0.07 sides apart: half a pixel and one at 16 pixels,
    which is what smooth edges take.
    """
    direction = torch.tensor(list(RELATIONS.values()), dtype=torch.float32)[attributes[:, 2]]
    towards = torch.stack((direction, -direction), 1)  # (N, 2, 2)
    radius = side * (0.16 + 0.04 * uniform[..., :1])
    along = 0.25 + 0.03 * (uniform[..., 1:] - 0.5)  # from the middle, in the direction of the relation
    across = 0.4 * (uniform[..., 1:] - 0.5)
    centre = side * (0.5 + torch.where(towards == 0, across, towards * along))
    palette = torch.tensor(list(COLOURS.values()))
    pixels = torch.full((len(attributes), 3, side, side), BACKGROUND)
    for place, column in enumerate((0, 3)):
        cover = _cover(attributes[:, column + 1], centre[:, place], radius[:, place], side).unsqueeze(1)
        pixels = pixels + cover * (palette[attributes[:, column]][..., None, None] - pixels)
    return pixels


def _cover(shape: Tensor, centre: Tensor, radius: Tensor, side: int) -> Tensor:
    """How much of each pixel a shape covers, ``(N, side, side)``: one inside, falling to zero over one pixel."""
    grid = torch.arange(side) + 0.5
    right = grid.view(1, 1, -1) - centre[:, 0, None, None]
    down = grid.view(1, -1, 1) - centre[:, 1, None, None]
    radius = radius.unsqueeze(-1)
    circle = (right.square() + down.square()).sqrt() - radius
    square = torch.maximum(right.abs(), down.abs()) - 0.9 * radius
    # Two edges at 60 degrees from a tip at one radius above the middle, and a base 0.7 below.
    slanted = (3**0.5 * right.abs() - down - radius) / 2
    triangle = torch.maximum(slanted, down - 0.7 * radius)
    ring = (circle + 0.25 * radius).abs() - 0.25 * radius  # half a radius wide
    arm = torch.minimum(right.abs(), down.abs()) - 0.3 * radius
    cross = torch.maximum(arm, torch.maximum(right.abs(), down.abs()) - radius)
    diamond = (right.abs() + down.abs()) / math.sqrt(2) - 0.75 * radius
    distance = torch.stack((circle, square, triangle, ring, cross, diamond), 1)  # (N, 6, side, side)
    chosen = distance[torch.arange(len(shape)), shape]
    return (0.5 - chosen).clamp(0, 1)
