"""Drawn signs, and their pictures before backgrounds."""

import io
import sys
from math import pi, sin
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyrogen.data import signs


def test_boards_cover_their_areas():
    """A circle has the area pi, a regular polygon of n corners n / 2 sin(2 pi / n); the picture has 4."""
    opaque = signs.designs(128)[:, 3].mean((1, 2)).reshape(len(signs.BOARDS), len(signs.GLYPHS))
    for corners, *_ in [(board[0],) for board in signs.BOARDS.values()]:
        area = corners / 2 * sin(2 * pi / corners) if corners else pi
        rows = [row for row, board in enumerate(signs.BOARDS.values()) if board[0] == corners]
        assert torch.allclose(opaque[rows], torch.tensor(area / 4), atol=0.01)


def test_colours_are_those_of_the_board():
    made = dict(zip(signs.BOARDS, signs.designs(64).split(len(signs.GLYPHS)), strict=True))
    for name, (_, _, _, field, ink) in signs.BOARDS.items():
        plain, crossed = made[name][0, :, 32, 32], made[name][3, :, 32, 32]
        assert torch.allclose(plain, torch.tensor([*field, 1.0]), atol=0.02)
        assert torch.allclose(crossed, torch.tensor([*ink, 1.0]), atol=0.02)
    left, right = made["order"][5], made["order"][6]
    assert torch.allclose(left, right.flip(-1), atol=1e-4)
    assert torch.allclose(made["order"][4], right.rot90(1, (-2, -1)), atol=1e-4)


@pytest.mark.parametrize("made", [signs.badges, signs.collages])
def test_others_are_the_same_for_the_same_seed_and_premultiplied(made):
    things = made(5, seed=3, side=32)
    assert things.shape == (5, 4, 32, 32)
    assert torch.equal(things, made(5, seed=3, side=32))
    assert not torch.equal(things, made(5, seed=4, side=32))
    assert things.min() >= 0
    assert things.max() <= 1
    assert (things[:, :3] <= things[:, 3:] + 1e-6).all()
    assert made(0, seed=0).shape == (0, 4, 64, 64)


def test_half_of_the_shapes_of_a_collage_have_an_outline():
    things = signs.collages(400, seed=0, layers=1)
    middle = things[:, :3, 32, 32, None, None]
    differs = ((things[:, :3] - things[:, 3:] * middle).abs().amax(1) > 0.1).flatten(1).any(1)
    assert 0.4 < differs.float().mean() < 0.55


def test_a_collage_has_as_many_shapes_as_there_are_layers_at_most():
    few, many = (signs.collages(300, seed=0, layers=layers)[:, 3].mean() for layers in (1, 8))
    assert many > few


def test_a_picture_shows_the_board_before_its_background():
    torch.manual_seed(0)
    square, backgrounds = torch.zeros(200, 4, 16, 16), torch.rand(200, 3, 24, 24)
    square[:, 0], square[:, 3] = 1.0, 1.0
    pictures = signs.posed(square, backgrounds, seed=1, size=(0.5, 0.5), turn=0.0)
    assert pictures.shape == (200, 3, 24, 24)
    # Half the side is a quarter of the area, all of it within the picture.
    green = torch.zeros_like(backgrounds) + torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    shown = signs.posed(square, green, seed=1, size=(0.5, 0.5), turn=0.0)
    hidden = 1 - shown[:, 1]
    assert torch.allclose(hidden.sum((1, 2)), torch.tensor(144.0), rtol=0.01)
    # Red is its light there: 0.5 to 1.1 times 0.9 to 1.1, at most 1.
    light = shown[:, 0].amax((1, 2))
    dark = light < 0.99  # where nothing is cut off
    assert torch.allclose(shown[dark, 0], light[dark][:, None, None] * hidden[dark], atol=1e-3)
    assert light.min() > 0.44
    assert light.max() <= 1
    assert torch.equal(pictures, signs.posed(square, backgrounds, seed=1, size=(0.5, 0.5), turn=0.0))


def test_turns_are_about_the_middle():
    """A disc looks the same however it is turned."""
    disc = signs.designs(64)[16:17].expand(8, -1, -1, -1)
    backgrounds = torch.zeros(8, 3, 32, 32)
    still, turned = (signs.posed(disc, backgrounds, seed=0, turn=angle) for angle in (0.0, 1.0))
    assert (still - turned).abs().max() < 0.1


def test_errors_of_signs_name_the_argument():
    designs, backgrounds = signs.designs(16), torch.rand(56, 3, 16, 16)
    with pytest.raises(ValueError, match=r"`designs` must have shape \(N, 4, side, side\), got \(56, 3, 16, 16\)"):
        signs.posed(backgrounds, backgrounds, seed=0)
    with pytest.raises(ValueError, match="`designs` and `backgrounds` must be as many, got 56 and 5"):
        signs.posed(designs, backgrounds[:5], seed=0)
    with pytest.raises(TypeError, match="`backgrounds` must hold floating-point numbers"):
        signs.posed(designs, backgrounds.long(), seed=0)
    with pytest.raises(ValueError, match=r"`backgrounds` must have shape \(N, 3, side, side\), got \(56, 3, 16, 8\)"):
        signs.posed(designs, backgrounds[..., :8], seed=0)
    for name, pair in {"designs": (255 * designs, backgrounds), "backgrounds": (designs, backgrounds - 1)}.items():
        with pytest.raises(ValueError, match=f"`{name}` must be from 0 to 1, got"):
            signs.posed(*pair, seed=0)
    with pytest.raises(ValueError, match="`backgrounds` must be from 0 to 1, got nan"):
        signs.posed(designs, backgrounds * torch.nan, seed=0)
    assert signs.posed(designs[:0], backgrounds[:0], seed=0).shape == (0, 3, 16, 16)
    with pytest.raises(ValueError, match="`side`"):
        signs.designs(0)
    with pytest.raises(ValueError, match="`size` must be two shares of the side"):
        signs.posed(designs, backgrounds, seed=0, size=(0.9, 1.5))


def test_designs_of_files_are_centred_squares_without_those_that_are_no_signs(tmp_path, monkeypatch):
    """The renderer paints what stands in the file: left, top, width, height and the channels of a rectangle."""
    image = pytest.importorskip("PIL.Image")

    def svg2png(*, url, output_width, output_height):
        left, top, width, height, *colour = map(int, Path(url).read_text().split())
        painted = np.zeros((output_height, output_width, 4), dtype=np.uint8)
        painted[top : top + height, left : left + width] = colour
        file = io.BytesIO()
        image.fromarray(painted).save(file, format="png")
        return file.getvalue()

    monkeypatch.setitem(sys.modules, "cairosvg", SimpleNamespace(svg2png=svg2png))
    for folder, name in (("roadsigns", "b"), ("roadsigns", "a"), ("roadsigns", "stop"), ("other", "stop")):
        (tmp_path / folder).mkdir(exist_ok=True)
        text = "60 10 16 32 255 0 51 255" if name == "a" else "0 0 32 32 255 255 255 102"
        (tmp_path / folder / f"{name}.svg").write_text(text)
    found = signs.read([tmp_path / "roadsigns", tmp_path / "other"], side=8)
    assert found.shape == (3, 4, 8, 8)  # a and b, without roadsigns/stop, and the other stop
    red = torch.tensor([1.0, 0.0, 0.2, 1.0])[:, None, None]
    assert torch.allclose(found[0, :, :, 2:6], red.expand(4, 8, 4))
    assert not found[0, :, :, :2].any()
    assert not found[0, :, :, 6:].any()
    assert torch.allclose(found[1:], torch.tensor(0.4))  # colours are those times how opaque they are
    with pytest.raises(ValueError, match="`folders` must hold files of designs"):
        signs.read([tmp_path])
