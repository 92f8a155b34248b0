"""The maze: walks are possible, routes have the proportions that are stated, and the closed room is closed."""

import math

import pytest
import torch

from pyrogen.data import maze


@pytest.fixture(scope="module")
def walks():
    return maze.draw(6000, seed=0)


def test_experts_walk_freely_at_constant_speeds(walks):
    assert walks.points.shape == (6000, 32, 2)
    assert maze.collision_free(walks.points).all()
    steps = walks.points.diff(dim=1).norm(dim=-1)
    assert ((steps.amax(1) - steps.amin(1)) < 0.02 * steps.mean(1)).all()  # chords of an arc are a little shorter
    assert torch.equal(maze.leaves_left(walks.points)[~walks.room], walks.left[~walks.room])


def test_walks_keep_their_distance_and_touch_it_only_on_the_way_round(walks):
    nearest = walks.points[~walks.room].norm(dim=-1).amin(1)
    assert nearest.min() > maze.PILLAR + 0.09
    bent = walks.points[~walks.room].diff(dim=1).diff(dim=1).norm(dim=-1).amax(1) > 1e-3
    assert ((nearest < maze.PILLAR + 0.21) | ~bent).all()


def test_a_string_has_the_length_of_its_tangents_and_its_arc():
    """From (-r, -1) to (r, -1) over the top of a circle of radius r: two sides of length one, and half the circle."""
    radius = torch.tensor([0.5])
    start, goal = torch.tensor([[-0.5, -1.0]]), torch.tensor([[0.5, -1.0]])
    over, under = (maze._parts(start, goal, radius, turn).sum(0).item() for turn in (-1.0, 1.0))
    assert over == pytest.approx(2 + math.pi / 2, rel=1e-5)
    assert under == pytest.approx(1.0)
    expected = 1 / (1 + math.exp((under - over) / maze.TEMPERATURE))
    assert maze._share_left(start, goal, radius).item() == pytest.approx(expected, rel=1e-4)


def test_both_routes_have_the_stated_probabilities(walks):
    hall = ~walks.room
    stated = maze.probability_left(walks.points[hall][:, 0], walks.points[hall][:, -1])
    left = walks.left[hall].float()
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (stated >= low) & (stated < low + 0.2)
        error = (left[inside] - stated[inside]).mean().abs()
        assert error < 4 * 0.5 / inside.sum().sqrt()


def test_mirrored_ends_exchange_the_routes():
    start, goal = (maze.places(50, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    mirror = torch.tensor([1.0, -1.0])
    here, there = maze.probability_left(start, goal), maze.probability_left(start * mirror, goal * mirror)
    assert torch.allclose(here + there, torch.ones(50), atol=1e-5)
    assert torch.allclose(maze.probability_left(goal, start), 1 - here, atol=1e-5)


def test_collisions_are_found_between_points_too():
    across = torch.tensor([[-0.9, 0.0], [0.9, 0.0]])  # both ends are free, the way is not
    past = torch.tensor([[-0.9, 0.5], [0.9, 0.5]])
    into_room = torch.tensor([[0.9, 0.5], [1.5, 0.5]])
    outside = torch.tensor([[0.9, 0.5], [0.9, 1.1]])
    within_room = torch.tensor([[1.3, 0.5], [1.5, -0.5]])
    found = maze.collision_free(torch.stack([across, past, into_room, outside, within_room]))
    assert found.tolist() == [False, True, False, False, True]
    depth = maze.depth(torch.stack([across, past, outside]))
    assert torch.allclose(depth, torch.tensor([maze.PILLAR, 0.0, 0.1]), atol=1e-6)
    assert torch.allclose(
        maze.depth(past, margin=0.2), torch.tensor(0.1), atol=1e-6
    )  # the walls at its ends are nearest


def test_walks_follow_from_their_seed():
    assert torch.equal(maze.draw(5, seed=1).points, maze.draw(5, seed=1).points)
    with pytest.raises(ValueError, match="`length` must be at least 2"):
        maze.draw(1, seed=0, length=1)
