"""Scenes: what is rendered is what the caption says, measured from the pixels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrogen.data import scenes

COLOURS = torch.tensor(list(scenes.COLOURS.values()))
RED, BLUE = list(scenes.COLOURS).index("red"), list(scenes.COLOURS).index("blue")


def covers(drawn, row, column):
    """How much of each pixel is of the colour of one of two shapes of different colours: mixtures with grey solved."""
    ends = COLOURS[drawn.attributes[row, [0, 3]]] - 0.5  # (2, 3)
    mixed = drawn.pixels[row].flatten(1) - 0.5
    return torch.linalg.lstsq(ends.T, mixed).solution[column].reshape(drawn.pixels.shape[-2:])


def of_different_colours(drawn):
    return [row for row in range(len(drawn.pixels)) if drawn.attributes[row, 0] != drawn.attributes[row, 3]]


@pytest.mark.parametrize("side", [16, 24])
def test_contract(side):
    state = torch.get_rng_state()
    first, again, other = (
        scenes.draw(50, seed=1, side=side),
        scenes.draw(50, seed=1, side=side),
        scenes.draw(50, seed=2),
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first.pixels.shape == (50, 3, side, side)
    assert first.pixels.min() >= 0
    assert first.pixels.max() <= 1
    assert first.captions.shape == (50, 8)
    assert first.captions.dtype == first.attributes.dtype == torch.long
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first.captions, other.captions)
    assert scenes.draw(0, seed=1).pixels.shape == (0, 3, 16, 16)


def test_captions_say_what_the_attributes_are():
    drawn = scenes.draw(200, seed=0)
    for caption, row in zip(scenes.decode(drawn.captions), drawn.attributes.tolist(), strict=True):
        colours, relations = list(scenes.COLOURS), list(scenes.RELATIONS)
        first = f"a {colours[row[0]]} {scenes.SHAPES[row[1]]}"
        second = f"a {colours[row[3]]} {scenes.SHAPES[row[4]]}"
        assert caption == f"{first} {relations[row[2]]} {second}"


@given(st.lists(st.sampled_from(scenes.WORDS[1:]), max_size=8))
def test_every_caption_comes_back(words):
    assert scenes.decode(scenes.encode([" ".join(words)])) == [" ".join(words)]


def test_shapes_are_where_the_caption_says():
    drawn = scenes.draw(300, seed=3)
    places = torch.arange(16) + 0.5
    for row in of_different_colours(drawn):
        centres = []
        for column in (0, 1):
            cover = covers(drawn, row, column)
            centres.append(torch.stack([(cover.sum(0) * places).sum(), (cover.sum(1) * places).sum()]) / cover.sum())
        apart = centres[0] - centres[1]
        relation = list(scenes.RELATIONS)[drawn.attributes[row, 2]]
        along = {"left of": -apart[0], "right of": apart[0], "above": -apart[1], "below": apart[1]}[relation]
        # Middles are 0.47 to 0.53 sides apart; a triangle's centroid lies up to 0.15 radii below or above its middle.
        assert 0.43 * 16 < along < 0.57 * 16


def test_areas_are_those_of_the_shapes():
    # Shares of the radius squared; the triangle's height is 1.7 radii, and its base 2 / sqrt(3) of that.
    areas = {"circle": math.pi, "square": 1.8**2, "triangle": 1.7**2 / math.sqrt(3)}
    # Half a radius wide; arms 0.6 radii wide that cross in a square; half-diagonals 0.75 sqrt(2).
    areas |= {"ring": 0.75 * math.pi, "cross": 2 * 2 * 0.6 - 0.6**2, "diamond": 2 * 0.75**2 * 2}
    drawn = scenes.draw(3000, seed=4, side=48, shapes=6)
    found = {shape: [] for shape in scenes.SHAPES}
    for row in of_different_colours(drawn):
        for column in (0, 1):
            found[scenes.SHAPES[drawn.attributes[row, 3 * column + 1]]].append(covers(drawn, row, column).sum())
    # E[radius^2] of radii uniform from 0.16 to 0.20 sides.
    radius_squared = (0.2**3 - 0.16**3) / 3 / 0.04 * 48**2
    for shape, area in areas.items():
        sizes = torch.stack(found[shape])
        standard_error = sizes.std() / len(sizes) ** 0.5
        # Sharp corners lose a little to the smooth edge: less than half a square pixel each; a cross has eight.
        assert abs(sizes.mean() - area * radius_squared) < 5 * standard_error + (3 if shape == "cross" else 1.5)


def test_edges_are_smooth_and_shapes_apart():
    drawn = scenes.draw(300, seed=5)
    for row in of_different_colours(drawn):
        one, two = covers(drawn, row, 0), covers(drawn, row, 1)
        assert ((one > 1e-4) & (two > 1e-4)).sum() == 0
        assert ((one > 0.01) & (one < 0.99)).any()
        # Whole pixels, and nothing else than grey and the two colours.
        assert one.max() > 0.999
    border = torch.cat([drawn.pixels[..., 0, :], drawn.pixels[..., -1, :]], -1)
    assert (border - 0.5).abs().max() < 0.5


def test_held_out_combinations():
    for argument, expected in ("without", False), ("only", True):
        drawn = scenes.draw(1000, seed=6, **{argument: ("red square", "blue triangle")})
        there = torch.zeros(1000, dtype=torch.bool)
        for column in (0, 3):
            colour, shape = drawn.attributes[:, column], drawn.attributes[:, column + 1]
            there |= ((colour == RED) & (shape == 1)) | ((colour == BLUE) & (shape == 2))
        assert (there == expected).all()


def test_captions_are_equally_likely():
    # 12 coloured shapes, 4 relations, 11 others: 528 captions. Pearson's statistic has mean 527, deviation 32.5.
    captions = scenes.draw(52_800, seed=7).captions
    _, counts = captions.unique(dim=0, return_counts=True)
    assert len(counts) == 528
    assert abs(((counts - 100.0) ** 2 / 100).sum() - 527) < 5 * 32.5


def test_there_may_be_more_colours_and_shapes():
    drawn = scenes.draw(2000, seed=8, colours=8, shapes=6)
    assert drawn.attributes[:, [0, 3]].unique().tolist() == list(range(8))
    assert drawn.attributes[:, [1, 4]].unique().tolist() == list(range(6))
    assert scenes.draw(200, seed=8).attributes[:, [0, 1, 3, 4]].max() == 3
    assert torch.equal(scenes.draw(20, seed=8, colours=4, shapes=3).pixels, scenes.draw(20, seed=8).pixels)


def test_a_scene_is_rendered_again_with_one_thing_changed():
    drawn = scenes.draw(50, seed=9, colours=8, shapes=6)
    layout = torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(0))
    changed = drawn.attributes.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 8
    here, there = scenes.render(drawn.attributes, layout), scenes.render(changed, layout)
    assert scenes.describe(drawn.attributes) == scenes.decode(drawn.captions)
    direction = torch.tensor(list(scenes.RELATIONS.values()))[drawn.attributes[:, 2]]
    moved = (here != there).any(1).float()
    places = torch.arange(16) + 0.5
    across = (moved.sum(1) * places).sum(-1) / moved.sum((1, 2)) - 8
    down = (moved.sum(2) * places).sum(-1) / moved.sum((1, 2)) - 8
    # The middle of what has changed lies on the side of the second thing.
    assert (-(direction[:, 0] * across + direction[:, 1] * down) > 2).all()


def test_a_scene_told_from_the_other_thing_is_the_same_picture():
    drawn = scenes.draw(50, seed=11, colours=8, shapes=6)
    layout = torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(0))
    other = scenes.swapped(drawn.attributes)
    pictures = scenes.render(drawn.attributes, layout), scenes.render(other, layout.flip(1))
    torch.testing.assert_close(*pictures)
    assert (other[:, :2] == drawn.attributes[:, 3:]).all()
    assert torch.equal(scenes.swapped(other), drawn.attributes)


def test_agreement_is_of_the_telling_of_which_more_is_right():
    asked = scenes.draw(50, seed=12, colours=8, shapes=6).attributes
    for found in (asked, scenes.swapped(asked)):
        assert scenes.agreement(found, asked).all()
    exchanged = torch.cat([asked[:, 3:], asked[:, 2:3], asked[:, :2]], 1)
    colour, shape = asked.clone(), asked.clone()
    colour[:, 0], shape[:, 4] = (asked[:, 0] + 1) % 8, (asked[:, 4] + 1) % 6
    for found, right in (exchanged, [True, True, False]), (colour, [False, True, True]), (shape, [True, False, True]):
        assert (scenes.agreement(found, asked) == torch.tensor(right)).all()
        assert (scenes.agreement(scenes.swapped(found), asked) == torch.tensor(right)).all()


def test_without_spread_every_caption_has_one_picture():
    drawn = scenes.draw(3000, seed=10, spread=0.0, colours=2, shapes=2)
    for caption in drawn.captions.unique(dim=0):
        pixels = drawn.pixels[(drawn.captions == caption).all(1)]
        assert (pixels == pixels[0]).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="`colours` must be at most 8, got 9"):
        scenes.draw(1, seed=0, colours=9)
    with pytest.raises(ValueError, match="`shapes` must be at least 1"):
        scenes.draw(1, seed=0, shapes=0)
    with pytest.raises(ValueError, match="`spread`"):
        scenes.draw(1, seed=0, spread=1.5)
    with pytest.raises(ValueError, match="`attributes` must have shape \\(N, 5\\)"):
        scenes.render(torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match="`found` must have the shape \\(1, 5\\) of `asked`, got \\(2, 5\\)"):
        scenes.agreement(torch.zeros(2, 5, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="`layout` must have shape \\(2, 2, 3\\)"):
        scenes.render(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`only` must name coloured shapes such as 'red square', got \\['red'\\]"):
        scenes.draw(1, seed=0, only=("red",))
    with pytest.raises(ValueError, match="`without` must name coloured shapes"):
        scenes.draw(1, seed=0, without=("pink square",))
    with pytest.raises(ValueError, match="must leave a scene"):
        scenes.draw(1, seed=0, only=("red square",), without=("red square",))
    with pytest.raises(ValueError, match="`side` must be at least 16, got 8"):
        scenes.draw(1, seed=0, side=8)
    with pytest.raises(ValueError, match="got \\['purple'\\]"):
        scenes.encode(["a purple circle"])
    with pytest.raises(ValueError, match="at most 8 words"):
        scenes.encode(["a red circle left of a blue square of"])
    with pytest.raises(ValueError, match="`tokens` must lie between 0 and"):
        scenes.decode(torch.tensor([[99]]))


@pytest.mark.parametrize("row", [[0, 1, 0, 2, -1], [8, 1, 0, 2, 0], [0, 1, 4, 2, 0], [0, 6, 0, 2, 0]])
def test_attributes_that_are_none_are_named(row):
    with pytest.raises(ValueError, match="`attributes` must be"):
        scenes.render(torch.tensor([row]), torch.full((1, 2, 3), 0.5))
    with pytest.raises(ValueError, match="`attributes` must be"):
        scenes.describe(torch.tensor([row]))


@pytest.mark.parametrize("number", [-0.1, 7.0, math.nan])
def test_a_layout_outside_of_the_picture_is_named(number):
    with pytest.raises(ValueError, match="`layout` must lie between 0 and 1"):
        scenes.render(torch.tensor([[0, 1, 0, 2, 0]]), torch.full((1, 2, 3), number))
