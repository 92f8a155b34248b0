"""Toy densities: moments and supports that follow from their definitions, within five standard errors."""

import math

import pytest
import torch

from pyrogen.data import checkerboard, funnel, ring_of_gaussians, two_moons

SIZE = 20_000
TOYS = {"two_moons": two_moons, "ring_of_gaussians": ring_of_gaussians, "checkerboard": checkerboard, "funnel": funnel}


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_contract(toy):
    state = torch.get_rng_state()
    first = toy(100, seed=1)
    assert first.shape == (100, 2)
    assert first.isfinite().all()
    assert torch.equal(first, toy(100, seed=1))
    assert not torch.equal(first, toy(100, seed=2))
    with pytest.raises(ValueError, match="`size` must be at least 1, got 0"):
        toy(0, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "global noise must not move"


def assert_mean(values, expected):
    """The mean of independent values is what it should be, within five standard errors."""
    values = values.double()
    error = 5 * values.std() / math.sqrt(len(values))
    assert (values.mean() - expected).abs() < error, (values.mean(), expected, error)


def test_two_moons():
    """A half circle has mean height 2 / pi; the lower one is the upper, turned and moved by (1, 0.5)."""
    noise = 0.05
    x = two_moons(SIZE, seed=0, noise=noise)
    assert_mean(x[:, 0], 0.5)
    assert_mean(x[:, 1], 0.25)
    # Second moments of a point on the upper half: E cos^2 = E sin^2 = 1/2.
    assert_mean(x[:, 0].square(), 0.5 * (0.5 + 1.5) + noise**2)
    assert_mean(x[:, 1].square(), 0.5 * (0.5 + 0.5 - 2 / math.pi + 0.25) + noise**2)
    clean = two_moons(SIZE, seed=0, noise=0.0)
    upper = (clean.norm(dim=-1) - 1).abs() < 1e-5
    lower = ((clean - torch.tensor([1.0, 0.5])).norm(dim=-1) - 1).abs() < 1e-5
    assert (upper | lower).all()
    assert_mean(upper.float(), 0.5)


def test_ring_of_gaussians():
    modes, radius, noise = 5, 3.0, 0.1
    x = ring_of_gaussians(SIZE, seed=0, modes=modes, radius=radius, noise=noise)
    assert_mean(x[:, 0], 0.0)
    assert_mean(x.square().sum(-1), radius**2 + 2 * noise**2)
    angle = 2 * math.pi / modes * torch.arange(modes)
    centres = radius * torch.stack((angle.cos(), angle.sin()), -1)
    distance, nearest = torch.cdist(x, centres).min(-1)
    assert_mean(distance.square(), 2 * noise**2)
    for mode in range(modes):
        assert_mean((nearest == mode).float(), 1 / modes)


@pytest.mark.parametrize("cells", [2, 4, 6])
def test_checkerboard(cells):
    x = checkerboard(SIZE, seed=0, cells=cells)
    assert (x.abs() <= 2).all()
    column, row = ((x + 2) / 4 * cells).floor().clamp(max=cells - 1).long().T
    dark = (row + column) % 2 == 0
    assert dark.float().mean() > 0.999  # rounding at an edge
    counts = torch.zeros(cells, cells).index_put_((row[dark], column[dark]), torch.ones(()), accumulate=True)
    share = 2 / cells**2
    assert (counts > 0).sum() == cells**2 // 2
    assert ((counts[counts > 0] / SIZE - share).abs() < 5 * math.sqrt(share / SIZE)).all()
    # Uniform within a cell: place and its square.
    place = ((x[:, 0] + 2) / 4 * cells) % 1
    assert_mean(place, 1 / 2)
    assert_mean(place.square(), 1 / 3)


def test_funnel():
    x = funnel(SIZE, seed=0, dimensions=4)
    assert x.shape == (SIZE, 4)
    assert_mean(x[:, 0], 0.0)
    assert_mean(x[:, 0].square(), 9.0)
    standard = x[:, 1:] / (x[:, :1] / 2).exp()
    assert_mean(standard.flatten(), 0.0)
    assert_mean(standard.flatten().square(), 1.0)
    assert_mean(standard[:, 0] * standard[:, 1], 0.0)
    assert_mean(standard[:, 0] * x[:, 0], 0.0)


@pytest.mark.parametrize("cells", [0, 3])
def test_odd_boards_are_refused(cells):
    with pytest.raises(ValueError, match="`cells` must be"):
        checkerboard(10, seed=0, cells=cells)
