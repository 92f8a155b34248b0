"""Slopes of the land are those of the elevations that matplotlib ships."""

import math

import pytest
import torch

from pyrogen.data import slopes


def test_slopes_of_a_mountain_range():
    train, test = slopes(stride=4)
    for part in (train, test):
        assert part.rows.shape == (len(part.aspect), 3)
        assert (part.aspect.abs() <= math.pi).all()
        assert ((part.steepness > 0) & (part.steepness < math.pi / 4)).all()
        assert ((part.elevation > 200) & (part.elevation < 1100)).all()
    assert len(train.aspect) > 2 * len(test.aspect)


def test_steep_slopes_face_east_or_west():
    train, _ = slopes()
    twice = 2 * train.aspect[train.steepness > 0.35]  # the same on both sides of a ridge
    across, up = twice.cos().mean(), twice.sin().mean()
    assert abs(math.degrees(torch.atan2(up, across)) / 2) < 20
    assert torch.hypot(across, up) > 0.1


def test_a_stride_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`stride` must be at least 1"):
        slopes(stride=0)
