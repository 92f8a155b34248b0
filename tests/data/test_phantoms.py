"""Made heads: areas, ranges, seeds."""

import math

import pytest
import torch

from pyrogen.data import phantoms


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("turn", [0.0, 0.7])
@pytest.mark.parametrize("radii", [(0.5, 0.3), (0.15, 0.4), (0.12, 0.12)])
def test_ellipses_cover_their_areas(side, turn, radii):
    drawn = phantoms.ellipses(torch.tensor([[0.1, -0.2]]), torch.tensor([radii]), torch.tensor([turn]), side=side)
    assert drawn.shape == (1, 1, side, side)
    area = math.pi * radii[0] * radii[1]
    tolerance = 0.25 * (2 / side) ** 2 * math.pi / 2 / min(radii)  # pixels are covered to first order of the curvature
    assert drawn.sum().item() * (2 / side) ** 2 == pytest.approx(area, abs=max(tolerance, 0.01 * area))


def test_ellipses_lie_where_they_are_put_and_turned():
    side = 64
    drawn = phantoms.ellipses(torch.tensor([[0.2, -0.3]]), torch.tensor([[0.4, 0.1]]), torch.tensor([0.5]), side=side)
    place = (torch.arange(side) + 0.5) * 2 / side - 1
    share = drawn[0, 0] / drawn.sum()
    across, down = (share.sum(0) * place).sum(), (share.sum(1) * place).sum()
    assert (across.item(), down.item()) == pytest.approx((0.2, -0.3), abs=1e-3)
    x, y = place - across, place.unsqueeze(1) - down
    tilt = 0.5 * torch.atan2(2 * (share * x * y).sum(), (share * (x.square() - y.square())).sum())
    assert tilt.item() == pytest.approx(0.5, abs=0.01)


def test_heads_have_air_outside_bone_around_and_tissue_within():
    heads = phantoms.heads(50, seed=0, side=64)
    assert heads.shape == (50, 1, 64, 64)
    assert not heads[..., 0, :].any()
    assert not heads[..., :, 0].any()
    assert heads.min() >= 0
    assert heads.max() <= 2.2
    assert (heads.flatten(1).max(1).values > 1.7).all()
    assert 0.5 < heads[..., 28:36, 28:36].mean() < 1.1


def test_lesions_are_small_discs_inside_the_head():
    lesions = phantoms.lesions(200, seed=0, side=64, contrast=0.5)
    area = lesions.sum((1, 2, 3)) / 0.5 * (2 / 64) ** 2
    assert (area > 0.95 * math.pi * 0.1**2).all()
    assert (area < 1.05 * math.pi * 0.16**2).all()
    assert lesions.max() == 0.5
    outside = phantoms.heads(200, seed=1, side=64) == 0
    assert not ((lesions > 0) & outside).any()


def test_seeds_decide():
    assert torch.equal(phantoms.heads(3, seed=1), phantoms.heads(3, seed=1))
    assert not torch.equal(phantoms.heads(3, seed=1), phantoms.heads(3, seed=2))
    assert torch.equal(phantoms.lesions(3, seed=1), phantoms.lesions(3, seed=1))


@pytest.mark.parametrize("arguments", [{"side": 0}, {"contrast": 0.0}])
def test_lesions_refuse(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}`"):
        phantoms.lesions(2, seed=0, **arguments)
