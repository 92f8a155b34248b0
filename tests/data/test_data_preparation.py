"""Splits, levels and damage where they are easily got wrong: odd fractions, shapes, types and strides."""

import pytest
import torch

from pyrogen.data import add_noise, dequantize, occlude, rotate, shuffle_pixels, split


@pytest.mark.parametrize("sizes", [(0.8, 0.1, 0.1), (0.5, 0.5), (1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1)])
@pytest.mark.parametrize("total", [1, 2, 3, 10, 1797])
def test_fractions_of_one_take_every_row_once(sizes, total):
    parts = split(torch.arange(total), sizes=sizes, seed=0)
    assert sorted(torch.cat([part for (part,) in parts]).tolist()) == list(range(total))
    assert all(abs(len(part) - size * total) <= 1 for (part,), size in zip(parts, sizes, strict=True))


@pytest.mark.parametrize("sizes", [(), (11,), (0.6, 0.6), (-1,)])
def test_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="`sizes` must add up to at most 10 rows"):
        split(torch.arange(10), sizes=sizes, seed=0)


@pytest.mark.parametrize("values", [torch.tensor([4]), torch.tensor([-1]), torch.rand(3), torch.zeros(0)])
def test_values_that_are_no_levels(values):
    with pytest.raises(ValueError, match="`values` must be integers from 0 to 3"):
        dequantize(values, 4, seed=0)


def test_a_square_of_one_grey_value_hides_that_many_pixels():
    images = torch.full((20, 3, 8, 8), 0.25)
    occluded = occlude(images, 3, seed=0, value=0.75)
    hidden = occluded == 0.75
    assert (hidden.sum((2, 3)) == 9).all()
    assert torch.equal(hidden[:, 0], hidden[:, 2])
    assert torch.equal(occluded[~hidden], images[~hidden])


@pytest.mark.parametrize("shape", [(20, 8, 8), (8, 8), (2, 2, 1, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="`images` must have shape"):
        occlude(torch.rand(shape), 2, seed=0)


@pytest.mark.parametrize("damage", [lambda x: add_noise(x, 0.1, seed=0), lambda x: occlude(x, 2, seed=0)])
def test_integers_are_refused(damage):
    with pytest.raises(ValueError, match="`dequantize` them first"):
        damage(torch.zeros(2, 1, 4, 4, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_its_scale_and_stays_inside(dtype):
    noisy = add_noise(torch.full((100, 1, 20, 20), 0.5, dtype=dtype), 0.1, seed=0)
    assert noisy.dtype == dtype
    assert abs(noisy.std() - 0.1) < 5 * 0.1 / (2 * 40_000) ** 0.5
    far = add_noise(torch.full((1, 100), 0.99, dtype=dtype), 5.0, seed=0)
    assert far.min() > 0
    assert far.max() < 1


def test_shuffling_and_turning_keep_the_pixels():
    images = torch.rand(4, 2, 3, 5).transpose(-1, -2)
    shuffled = shuffle_pixels(images, seed=0)
    assert shuffled.shape == images.shape
    assert torch.equal(shuffled.flatten(-2).sort().values, images.flatten(-2).sort().values)
    order = (shuffled[0, 0].flatten()[:, None] == images[0, 0].flatten()).long().argmax(1)
    assert torch.equal(shuffled[3, 1].flatten(), images[3, 1].flatten()[order])
    assert torch.equal(rotate(rotate(rotate(rotate(images)))), images)
