"""Experts that circle: the law of their walks is the one that is stated, and styles are read off exactly."""

import math

import pytest
import torch

from pyrogen.data import circling
from pyrogen.data.circling import NOISE, RADII, SEEN, SPEED


@pytest.fixture(scope="module")
def walks():
    return circling.draw(3000, seed=0, length=40)


def test_walks_have_one_speed_and_styles_equal_shares(walks):
    assert walks.points.shape == (3000, 40, 2)
    assert walks.style.shape == (3000,)
    path = torch.cat([torch.zeros(3000, 1, 2), walks.points], 1)
    torch.testing.assert_close(path.diff(dim=1).norm(dim=-1), torch.full((3000, 40), SPEED))
    shares = walks.style.bincount(minlength=len(RADII)) / 3000
    assert (shares - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 3000)


def test_without_errors_every_point_is_on_the_circle_at_a_constant_turn():
    walks = circling.draw(60, seed=0, noise=0.0)
    radius = torch.tensor(RADII)[walks.style]
    centre = torch.stack([torch.zeros(60), radius], -1)
    distance = (walks.points - centre.unsqueeze(1)).norm(dim=-1)
    torch.testing.assert_close(distance, radius.abs().unsqueeze(1).expand(60, 32), rtol=1e-5, atol=1e-5)
    turn = 2 * torch.asin(SPEED / (2 * radius))
    turns = circling.turns(walks.points)
    torch.testing.assert_close(turns[:, 1:], turn.unsqueeze(1).expand(60, 31), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turns[:, 0], turn / 2, rtol=1e-4, atol=1e-5)  # from the tangent to the first chord


@pytest.mark.parametrize("turn", [0.3, -0.1])
def test_a_policy_of_constant_turn_draws_a_circle(turn):
    """The chords of a circle that are as long as a step turn by an angle of sine v/2r, twice."""
    radius = SPEED / (2 * math.sin(turn / 2))
    points = circling.rollout(lambda seen, step: torch.full((1,), turn), circling.approach(1), 50)[0]
    centre = radius * torch.tensor([-math.sin(turn / 2), math.cos(turn / 2)])  # left of the tangent, at half a turn
    torch.testing.assert_close((points - centre).norm(dim=-1), torch.full((50,), abs(radius)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(circling.turns(points[None])[0], torch.full((50,), turn), rtol=1e-3, atol=1e-5)


def test_errors_of_experts_are_normal_and_independent(walks):
    own = circling.errors(walks.points)[torch.arange(3000), walks.style]
    count = own.numel()
    assert own.mean().abs() < 4 * NOISE / math.sqrt(count)
    assert (own.square().mean() / NOISE**2 - 1).abs() < 4 * math.sqrt(2 / count)
    assert ((own / NOISE).pow(4).mean() - 3).abs() < 4 * math.sqrt(96 / count)
    assert ((own[:, 1:] * own[:, :-1]).mean() / NOISE**2).abs() < 4 / math.sqrt(count)


def test_walks_stay_at_the_circle(walks):
    """A step that errs by an angle e misses its aim by about v e, of which cos(delta / 2) is away from the circle."""
    radius = torch.tensor(RADII)[walks.style]
    centre = torch.stack([torch.zeros(3000), radius], -1)
    off = (walks.points - centre.unsqueeze(1)).norm(dim=-1) - radius.abs().unsqueeze(1)
    for style, value in enumerate(RADII):
        expected = SPEED * NOISE * math.cos(math.asin(SPEED / (2 * abs(value))))
        assert off[walks.style == style][:, 20:].std() == pytest.approx(expected, rel=0.1)  # to first order


def test_styles_are_read_off(walks):
    assert (circling.style_of(walks.points) == walks.style).float().mean() > 0.999
    mirrored = circling.errors(walks.points * torch.tensor([1.0, -1.0]))  # no circle is the mirror image of another
    assert (mirrored.square().mean(-1).sqrt().amin(-1) > 2 * NOISE).all()


def test_what_was_seen_is_what_a_rollout_shows():
    found = []

    def turning(seen, step):
        found.append(seen)
        return torch.full((2,), 0.1 * step)

    points = circling.rollout(turning, circling.approach(2), 7)
    assert torch.equal(circling.seen(points), torch.stack(found, 1))
    assert circling.seen(points).shape == (2, 7, SEEN, 2)
    torch.testing.assert_close(circling.turns(points)[0], 0.1 * torch.arange(7.0), rtol=1e-4, atol=1e-5)


def test_a_view_is_a_place_and_directions():
    assert circling.view(circling.approach(1))[0].tolist() == [0.0, 0.0, *[1.0, 0.0] * (SEEN - 1)]


def test_a_rollout_has_a_gradient():
    """The first turn moves the end by its distance from the origin, at a right angle."""
    turn = torch.zeros(1, requires_grad=True)
    points = circling.rollout(lambda seen, step: turn if step == 0 else 0 * turn, circling.approach(1), 6)
    (slope,) = torch.autograd.grad(points[0, -1, 1], turn)
    assert slope.item() == pytest.approx(6 * SPEED)


def test_walks_that_circle_follow_from_their_seed():
    assert torch.equal(circling.draw(5, seed=1).points, circling.draw(5, seed=1).points)
    with pytest.raises(ValueError, match="`length` must be at least 1, got 0"):
        circling.draw(1, seed=0, length=0)
    with pytest.raises(ValueError, match="`noise` must not be negative"):
        circling.draw(1, seed=0, noise=-0.1)


def test_walks_may_be_arrays(walks):
    assert torch.equal(circling.style_of(walks.points.numpy()), circling.style_of(walks.points))


def test_what_are_no_walks_is_refused(walks):
    straight, start = lambda seen, step: torch.zeros(len(seen)), circling.approach(3)
    with pytest.raises(ValueError, match=r"`points` must be walks \(N, length, 2\), got \(40, 2\)"):
        circling.errors(walks.points[0])
    with pytest.raises(ValueError, match=r"`points` must be walks \(N, length, 2\), got \(2, 8, 3\)"):
        circling.turns(torch.zeros(2, 8, 3))
    with pytest.raises(ValueError, match=r"`start` must have shape \(N, 5, 2\), got \(3, 1, 2\)"):
        circling.rollout(straight, start[:, :1], 4)
    with pytest.raises(ValueError, match="`length` must be at least 1, got 0"):
        circling.rollout(straight, start, 0)
    with pytest.raises(ValueError, match=r"`turning` must give angles \(3,\), got \(3, 1\)"):
        circling.rollout(lambda seen, step: torch.zeros(3, 1), start, 4)


def test_moves_are_views_and_the_directions_that_followed(walks):
    moves = circling.moves(walks.points)
    assert torch.equal(moves[..., :-2], circling.view(circling.seen(walks.points)))
    before = circling.seen(walks.points)[..., -1, :]
    torch.testing.assert_close(before + SPEED * moves[..., -2:], walks.points)
    assert torch.allclose(moves[..., -2:].norm(dim=-1), torch.ones(()), atol=1e-4)


def test_walks_are_judged_by_their_last_steps():
    """Who goes straight ahead leaves its course, and who changes circles its style."""
    still = circling.draw(40, seed=3, length=60, noise=0.0)
    found = circling.judged(still.points, first=20, last=10)
    assert (found.error < 1e-3).all()
    assert found.on_course.all()
    assert found.same_style.all()
    ahead = circling.rollout(lambda seen, step: torch.zeros(1), circling.approach(1), 60)
    found = circling.judged(ahead, first=20, last=10)
    expected = circling.errors(ahead)[0, :, -10:].square().mean(-1).amin().sqrt()
    assert found.error.item() == pytest.approx(expected.item())
    assert not found.on_course.item()
    turned = torch.tensor([circling.RADII[0]] * 25 + [circling.RADII[2]] * 25)  # one lap has 25 steps

    def turning(seen, step):
        ahead = circling.aim(seen[:, -1], turned[step])
        come = seen[:, -1] - seen[:, -2]
        return ahead - torch.atan2(come[:, 1], come[:, 0])

    both = circling.rollout(turning, circling.approach(1), 50)
    assert not circling.judged(both, first=20, last=10).same_style.item()
    assert circling.judged(both, first=50, last=10).error.item() < 1e-3
