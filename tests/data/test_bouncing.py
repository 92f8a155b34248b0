"""Bouncing balls: their motion is the stated one, and their light is where they are."""

import math

import pytest
import torch

from pyrogen.data import bouncing


@pytest.fixture(scope="module")
def videos():
    return bouncing.draw(400, seed=0, frames=12)


def test_balls_stay_in_the_box_and_keep_their_speed(videos):
    assert videos.pixels.shape == (400, 12, 1, 16, 16)
    assert videos.centres.shape == videos.velocities.shape == (400, 12, 1, 2)
    assert videos.centres.min() >= 0.15 - 1e-6
    assert videos.centres.max() <= 0.85 + 1e-6
    speed = videos.velocities.norm(dim=-1)
    assert torch.allclose(speed, speed[:, :1].expand_as(speed), atol=1e-6)
    assert speed.min() >= 0.05
    assert speed.max() <= 0.15


def test_between_bounces_balls_move_by_their_velocity(videos):
    step = videos.centres.diff(dim=1)
    before, after = videos.velocities[:, :-1], videos.velocities[:, 1:]
    free = (before * after > 0).all(-1)
    assert torch.allclose(step[free], before[free], atol=1e-5)
    assert 0.6 < free.float().mean() < 0.95
    assert not (step[~free] - before[~free]).abs().amax(-1).max() < 1e-3


def test_a_wall_mirrors_the_way():
    position, forward = bouncing._fold(torch.tensor([-0.1, 0.3, 0.8, 1.5]), 0.7)
    assert torch.allclose(position, torch.tensor([0.1, 0.3, 0.6, 0.1]))
    assert forward.tolist() == [-1, 1, -1, 1]


def test_bounces_count_from_the_first_wall_on(videos):
    turned = (videos.velocities != videos.velocities[:, :1]).any(-1)
    assert (videos.bounced | ~turned).all()
    first = videos.bounced.int().argmax(1)
    assert (videos.bounced.any(1) | (first == 0)).all()


def test_light_covers_the_area_of_a_ball_around_its_centre(videos):
    area = videos.pixels.sum((-3, -2, -1)) / 16**2
    assert torch.allclose(area, torch.full_like(area, math.pi * 0.15**2), rtol=0.06)
    assert (bouncing.centre_of_light(videos.pixels) - videos.centres[:, :, 0]).abs().max() < 0.01


def test_balls_overlap_without_more_light():
    centres = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    assert torch.equal(bouncing.render(centres), bouncing.render(centres[:1]))
    apart = torch.tensor([[0.25, 0.25], [0.75, 0.75]])
    assert torch.allclose(bouncing.render(apart), sum(bouncing.render(centre[None]) for centre in apart))
    assert bouncing.draw(3, seed=0, balls=2, side=20).pixels.shape == (3, 8, 1, 20, 20)


def test_the_renderer_has_derivatives():
    centre = torch.tensor([[0.4, 0.6]], requires_grad=True)
    bouncing.centre_of_light(bouncing.render(centre)).sum().backward()
    assert torch.allclose(centre.grad, torch.ones(1, 2), atol=0.2)


def test_a_ball_must_fit():
    with pytest.raises(ValueError, match="`radius` must be below 0.5"):
        bouncing.draw(1, seed=0, radius=0.5)
