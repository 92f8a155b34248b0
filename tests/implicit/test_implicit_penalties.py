"""Penalties of critics: closed forms, and the Dirac-GAN, whose game is known."""

import cmath
import math
from functools import partial

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.implicit import (
    R1,
    R2,
    Game,
    Generator,
    GradientPenalty,
    Hinge,
    NonSaturating,
    Relativistic,
    Scored,
    Wasserstein,
)

AT_ZERO = torch.zeros(64, 1)


class Point(nn.Module):
    """A generator that is one point, whatever the noise."""

    def __init__(self, start, size=1):
        super().__init__()
        self.at = nn.Parameter(torch.full((size,), start))

    def forward(self, z):
        return self.at.expand(len(z), -1)


class Linear(nn.Module):
    """A critic that is a product."""

    def __init__(self, *slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x):
        return x @ self.slope


def dirac(loss, penalties, theta=0.0, psi=0.0):
    return Game(Generator(Point(theta), (1,), noise=(1,)), Linear(psi), loss=loss, penalties=penalties)


def eigenvalues(game):
    """Those of the linearized game: of the derivative of the players' gradients, both with the same learning rate."""
    players = [game.generator.network.at, game.critic.slope]
    losses = [game.generator_loss(AT_ZERO), game.critic_loss(AT_ZERO)]
    field = [-torch.autograd.grad(loss, own, create_graph=True)[0] for loss, own in zip(losses, players, strict=True)]
    rows = [
        [torch.autograd.grad(slope, other, retain_graph=True, allow_unused=True)[0] for other in players]
        for slope in field
    ]
    # The generator is detached in the critic's loss, whose derivative by it is found by hand: it is f'(0).
    derivative = torch.tensor([[0.0 if entry is None else entry.item() for entry in row] for row in rows])
    derivative[1, 0] = -derivative[0, 1]
    return sorted(torch.linalg.eigvals(derivative.double()).tolist(), key=lambda value: (value.real, value.imag))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("loss", [NonSaturating(), Relativistic()])
def test_the_linearized_dirac_game_has_the_eigenvalues_of_theory(loss, gamma):
    root = cmath.sqrt(gamma**2 / 4 - 1 / 4)
    theory = sorted((-gamma / 2 - root, -gamma / 2 + root), key=lambda value: (value.real, value.imag))
    for found, expected in zip(eigenvalues(dirac(loss, [R1(gamma)])), theory, strict=True):
        assert abs(found - expected) < 1e-6


STEPS, RATE = 300, 0.1
TIME = STEPS * RATE


def play_dirac(loss, penalties):
    """How far from the solution the two players are after each step."""
    game = dirac(loss, penalties, theta=1.0, psi=0.0)
    distances = []
    pg.fit(
        game,
        AT_ZERO,
        steps=STEPS,
        batch_size=64,
        optimizer=partial(torch.optim.SGD, lr=RATE),
        callbacks=[lambda _: distances.append(math.hypot(game.generator.network.at.item(), game.critic.slope.item()))],
    )
    return distances


def test_the_dirac_game_converges_with_r1_and_not_without():
    """Without a penalty a zero-sum game circles forever, at the distance where it began."""
    assert play_dirac(Wasserstein(), [R1(1.0)])[-1] < 1e-5
    around = play_dirac(Wasserstein(), [])
    assert min(around) > 0.94
    assert max(around) < 1.06


@pytest.mark.parametrize("loss", [NonSaturating(), Relativistic()])
def test_two_losses_lead_inwards_with_r1_at_a_linear_rate_and_without_as_slowly_as_theory_has_it(loss):
    """Without: of r^2 the derivative is -theta^2 psi^2, on average -r^4 / 8, so that 1 / r^2 = 1 + t / 8."""
    assert play_dirac(loss, [R1(1.0)])[-1] < 1e-4
    assert play_dirac(loss, [])[-1] == pytest.approx((1 + TIME / 8) ** -0.5, rel=0.04)


def test_the_gradient_penalty_keeps_the_dirac_game_moving():
    assert min(play_dirac(Wasserstein(), [GradientPenalty(1.0)])[-50:]) > 0.1


def test_the_default_converges_at_the_rate_of_theory():
    """With R1 and R2 of weight 1 the slower eigenvalue is -1 + sqrt(1 - 1/4)."""
    distances = play_dirac(None, None)
    rate = math.log(distances[-1] / distances[-101]) / (100 * RATE)
    assert rate == pytest.approx(math.sqrt(3 / 4) - 1, rel=0.03)


@pytest.mark.parametrize("rows", [1, 7])
def test_penalties_of_a_linear_critic(rows):
    slope = torch.tensor([3.0, -4.0])
    x, y = (torch.randn(rows, 2).requires_grad_() for _ in range(2))
    critic = lambda x: x @ slope  # noqa: E731
    real, fake = Scored(x, critic(x)), Scored(y, critic(y))
    assert R1(2.0)(critic, real, fake).item() == pytest.approx(25)
    assert R2(2.0)(critic, real, fake).item() == pytest.approx(25)
    assert GradientPenalty(2.0)(critic, real, fake).item() == pytest.approx(2 * (5 - 1) ** 2)
    assert GradientPenalty(2.0, target=5.0)(critic, real, fake).item() == pytest.approx(0, abs=1e-6)
    assert R1(2.0)(critic, Scored(x, critic(x), torch.tensor([2.0, 0.0])), fake).item() == pytest.approx(36)


def test_penalties_of_events_that_are_numbers():
    slope, x = torch.tensor(-3.0), torch.randn(7).requires_grad_()
    scored = Scored(x, slope * x, torch.tensor(2.0))
    assert R1(2.0)(None, scored, scored).item() == pytest.approx(36)
    assert GradientPenalty(2.0)(lambda x: slope * x, scored, scored).item() == pytest.approx(2 * (6 - 1) ** 2)


@pytest.mark.parametrize("loss", [None, Wasserstein()])
def test_numbers_are_events_of_a_game(loss):
    game = Game(pg.implicit.mlp((), noise=(1,)), pg.implicit.mlp_critic((), pack=2, hidden=(8,)), loss=loss)
    pg.fit(game, 5 + torch.randn(40), steps=2, batch_size=20, validation=0.5, seed=0)
    assert game.generator().sample((3,)).shape == (3,)


def test_penalties_are_of_the_data_and_of_the_draws():
    square = lambda x: x.square().sum(-1)  # noqa: E731
    x, y = (torch.full((3, 2), value, requires_grad=True) for value in (1.0, 2.0))
    real, fake = Scored(x, square(x)), Scored(y, square(y))
    assert R1(2.0)(square, real, fake).item() == pytest.approx(8)  # |2 x|^2
    assert R2(2.0)(square, real, fake).item() == pytest.approx(32)


def test_penalties_do_not_depend_on_the_units_of_the_data():
    found = []
    for unit in (1.0, 1000.0):
        torch.manual_seed(0)
        x = unit * torch.randn(50, 2)
        game = Game(Generator(Point(0.0, 2), (2,), noise=(1,)), Linear(1.0 / unit, 2.0 / unit))
        for _ in range(2):  # those of the generator, then those of what it is compared with
            for statistic, rows in list(game.read_data(x)):
                _learned(statistic, rows)
        found.append(game.critic_loss(x).item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def _learned(statistic, rows):
    moments = statistic.moments()
    moments.add(rows)
    statistic.learn(moments)


@pytest.mark.parametrize("weight", [0.5, 10.0])
def test_a_wasserstein_critic_with_a_gradient_penalty_has_the_slope_of_theory(weight):
    """Of -a m + weight (a - 1)^2 at the distance m the least is at a = 1 + m / (2 weight)."""
    x = torch.full((64, 1), 3.0)
    game = dirac(Wasserstein(), [GradientPenalty(weight)], theta=-1.0, psi=0.1)
    pg.fit(game.turns()[0], x, steps=200, batch_size=64, optimizer=partial(torch.optim.SGD, lr=0.2 / weight))
    distance = 3.0 - game.generator().sample((1,)).item()
    slope = game.critic.slope.item()
    assert slope == pytest.approx(1 + distance / (2 * weight), rel=1e-3)
    assert game.bound(x).value == pytest.approx(slope * distance, rel=1e-4)


@pytest.mark.parametrize("one_sided", [False, True])
def test_only_under_a_one_sided_penalty_a_critic_turns_around(one_sided):
    """At the distance m = -1 the other one has a minimum at the slope 1 - 1 / 2 weight, of the wrong sign."""
    x = torch.full((64, 1), -1.0)
    game = dirac(Wasserstein(), [GradientPenalty(10.0, one_sided=one_sided)], theta=1.0, psi=1.0)
    pg.fit(game.turns()[0], x, steps=300, batch_size=64, optimizer=partial(torch.optim.SGD, lr=0.02))
    distance = -1.0 - game.generator().sample((1,)).item()
    expected = -1 + distance / 20 if one_sided else 1 + distance / 20
    assert game.critic.slope.item() == pytest.approx(expected, rel=1e-3)


def test_a_lazy_penalty_counts_as_much_in_fewer_steps():
    torch.manual_seed(0)
    x = torch.randn(8, 1)
    plain, lazy, none = (dirac(None, each, psi=2.0) for each in ([R1(1.0)], [R1(1.0, every=4)], []))
    free, whole = none.critic_loss(x).item(), plain.critic_loss(x).item()
    found = [lazy.train().critic_loss(x).item() - free for _ in range(8)]
    assert found == pytest.approx([4 * (whole - free), 0, 0, 0] * 2, abs=1e-6)
    assert int(lazy.taken) == 8
    lazy.eval().critic_loss(x)
    assert int(lazy.taken) == 8


def test_a_run_of_lazy_penalties_resumes_where_it_was(tmp_path):
    def play(steps, **arguments):
        torch.manual_seed(0)
        game = dirac(Hinge(), [R1(1.0, every=3)], theta=1.0, psi=2.0)
        return pg.fit(game, torch.randn(50, 1), steps=steps, batch_size=10, seed=0, **arguments).history.losses

    expected = play(10)
    for steps in (4, 10):
        found = play(steps, checkpoint=tmp_path / "run")
    assert found == expected


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: R1(-1.0), ValueError, "`weight` must not be negative"),
        (lambda: R2("1"), TypeError, "`weight` must be a number"),
        (lambda: R1(every=0), ValueError, "`every` must be at least 1"),
        (lambda: GradientPenalty(target=0.0), ValueError, "`target` must be positive"),
        (lambda: GradientPenalty(one_sided="yes"), TypeError, "`one_sided` must be True or False"),
    ],
)
def test_bad_penalties_are_refused(build, kind, message):
    with pytest.raises(kind, match=message):
        build()
