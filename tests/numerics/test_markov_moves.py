"""Moves of many chains against closed forms: the integrator, invariance, bias, and what is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyrogen.numerics.markov.adaptation import TrajectoryLength
from pyrogen.numerics.markov.mass import DiagonalMass, LowRankMass, UnitMass, diagonal_mass, low_rank_mass
from pyrogen.numerics.markov.moves import hmc, langevin, leapfrog, log_joint, mala
from pyrogen.numerics.markov.state import ChainState, evaluate, start

CHAINS = 4000


def banana(x: Tensor) -> Tensor:
    """A normal number, and one around its square; the target of ``exact_banana``."""
    return -x[:, 0].square() / 2 - (x[:, 1] - x[:, 0].square() / 2).square() / (2 * 0.5**2)


def exact_banana(chains: int) -> Tensor:
    first = torch.randn(chains, dtype=torch.double)
    return torch.stack([first, first.square() / 2 + 0.5 * torch.randn(chains, dtype=torch.double)], 1)


def normal(x: Tensor) -> Tensor:
    return -x.square().flatten(1).sum(1) / 2


def bounded(x: Tensor) -> Tensor:
    """An exponential number, whose density is zero below zero and whose gradient there is NaN."""
    return -x[:, 0] + 0 * x[:, 0].sqrt()


def some_masses() -> dict[str, object]:
    torch.manual_seed(3)
    directions = torch.linalg.qr(torch.randn(2, 1, dtype=torch.double)).Q
    scale = torch.tensor([0.8, 1.7], dtype=torch.double)
    return {
        "unit": UnitMass(),
        "diagonal": DiagonalMass(scale),
        "low_rank": LowRankMass(scale, directions, torch.tensor([2.0], dtype=torch.double)),
    }


MASSES = some_masses()


@pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES)
def test_the_integrator_can_be_reversed(mass):
    torch.manual_seed(0)
    state = start(banana, exact_banana(50))
    velocity = torch.randn_like(state.x)
    end, there = leapfrog(banana, state, velocity, step_size=0.1, steps=20, mass=mass)
    assert (end.x - state.x).abs().max() > 0.5
    back, here = leapfrog(banana, end, -there, step_size=0.1, steps=20, mass=mass)
    torch.testing.assert_close(back.x, state.x, atol=1e-9, rtol=0)
    torch.testing.assert_close(-here, velocity, atol=1e-9, rtol=0)


@pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES)
def test_the_integrator_preserves_volume(mass):
    torch.manual_seed(0)
    where = torch.cat([exact_banana(1), torch.randn(1, 2, dtype=torch.double)], 1)[0]

    def moved(phase: Tensor) -> Tensor:
        x, velocity = phase[None, :2], phase[None, 2:]
        end, there = leapfrog(banana, evaluate(banana, x), velocity, step_size=0.2, steps=5, mass=mass)
        return torch.cat([end.x, there], 1)[0]

    # Central differences: a move is no function that can be differentiated.
    step = 1e-5 * torch.eye(4, dtype=torch.double)
    jacobian = torch.stack([(moved(where + e) - moved(where - e)) / 2e-5 for e in step], 1)
    assert abs(torch.linalg.det(jacobian).abs().item() - 1) < 1e-5
    assert (jacobian - torch.eye(4, dtype=torch.double)).abs().max() > 0.5


def test_energy_errors_fall_with_the_square_of_the_step():
    torch.manual_seed(0)
    state = start(banana, exact_banana(200))
    velocity = torch.randn_like(state.x)
    errors = []
    for step in (0.02, 0.01):
        end, there = leapfrog(banana, state, velocity, step_size=step, steps=round(1 / step))
        gained = log_joint(end, there) - log_joint(state, velocity)
        errors.append(gained.abs().mean().item())
    assert 3.7 < errors[0] / errors[1] < 4.3


MOVES = {
    "hmc": lambda f, state, mass: hmc(f, state, step_size=0.35, steps=4, mass=mass),
    "mala": lambda f, state, mass: mala(f, state, step_size=0.08, mass=mass),
}


@pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES)
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_exact_draws_stay_exact(move, mass):
    """Chains that start at exact draws are exact draws after any number of moves, of whatever acceptance."""
    torch.manual_seed(1)
    state = start(banana, exact_banana(CHAINS))
    acceptance = []
    for _ in range(30):
        made = move(banana, state, mass)
        state = made.state
        acceptance.append(made.acceptance.mean().item())
        torch.testing.assert_close(state.log_density, banana(state.x))
    assert 0.3 < sum(acceptance) / 30 < 0.98
    first, second = state.x.unbind(1)
    scores = torch.stack([first, (second - first.square() / 2) / 0.5], 1)  # independent standard normal numbers
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = (scores**moment).mean(0) - expected
        assert error.abs().max() < 4 * math.sqrt(variance / CHAINS), moment
    assert (scores[:, 0] * scores[:, 1]).mean().abs() < 4 / math.sqrt(CHAINS)


def test_langevin_has_the_variance_of_its_step():
    torch.manual_seed(0)
    h = 0.4
    state = start(normal, torch.randn(CHAINS, 3, 2) * (1 - h / 2) ** -0.5)
    for _ in range(20):
        state = langevin(normal, state, step_size=h).state
    n = state.x.numel()
    variance = state.x.square().mean().item()
    assert abs(variance * (1 - h / 2) - 1) < 4 * math.sqrt(2 / n)


def test_each_chain_has_its_own_step_and_its_own_target():
    torch.manual_seed(0)
    widths = torch.logspace(-1, 1, 5).repeat_interleave(CHAINS // 5)

    def targets(x: Tensor) -> Tensor:
        return normal(x / widths.unsqueeze(1))

    state = start(targets, torch.zeros(CHAINS, 2))
    for _ in range(60):
        made = hmc(targets, state, step_size=widths / 2, steps=3)
        state = made.state
    found = state.x.unflatten(0, (5, -1)).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(found, widths[:: CHAINS // 5], rtol=4 / math.sqrt(2 * 2 * CHAINS / 5), atol=0)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_what_is_not_finite_is_rejected_and_counted(move):
    torch.manual_seed(0)
    exact = -torch.rand(CHAINS, 1, dtype=torch.double).log()
    state = start(bounded, exact)
    lost = 0
    for _ in range(20):
        made = move(bounded, state, UnitMass())
        assert made.state.x.isfinite().all()
        assert (made.state.x > 0).all()
        assert not made.accepted[made.diverged].any()
        assert not made.acceptance[made.diverged].any()
        state, lost = made.state, lost + int(made.diverged.sum())
    assert lost > CHAINS / 10
    # Trajectories that cross the edge and come back are accepted by their energy, and the law stays exact.
    x = state.x
    assert abs(x.mean().item() - 1) < 4 / math.sqrt(CHAINS)
    assert abs(x.square().mean().item() - 2) < 4 * math.sqrt(20 / CHAINS)


def test_a_langevin_chain_stays_where_the_next_density_is_not_finite():
    torch.manual_seed(0)
    state = start(bounded, torch.full((100, 1), 0.1))
    made = langevin(bounded, state, step_size=0.5)
    assert 10 < int(made.diverged.sum()) < 90
    assert torch.equal(made.state.x[made.diverged], state.x[made.diverged])
    assert made.state.x.min() > 0


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x.sum(1) * torch.inf,
        lambda x: -x.sum(1) * torch.inf,
        lambda x: x.sum(1) * torch.nan,
        lambda x: (x - x.detach()).abs().sqrt().sum(1),  # finite, with a gradient that is not
    ],
    ids=["infinite", "minus infinity", "NaN", "gradient"],
)
def test_the_state_of_a_row_that_is_not_finite_is_of_density_zero_and_leaves_others_alone(bad):
    x = torch.rand(4, 2) + 1
    rows = torch.tensor([False, True, False, False])
    state = evaluate(lambda x: torch.cat([-x[:1].square().sum(1), bad(x[1:2]), -x[2:].square().sum(1)]), x)
    assert torch.equal(state.log_density, torch.where(rows, -torch.inf, -x.square().sum(1)))
    assert torch.equal(state.gradient, torch.where(rows.unsqueeze(1), 0.0, -2 * x))


def test_a_start_that_is_not_finite_is_an_error_with_its_rows():
    with pytest.raises(ValueError, match=r"`x` must be points .* 2 rows of 4 .* \[1, 3\]"):
        start(bounded, torch.tensor([[1.0], [-1.0], [2.0], [-3.0]]))


def test_a_density_must_be_one_number_a_row():
    with pytest.raises(ValueError, match=r"`log_density` must give one number a row, of shape \(4,\), got \(4, 1\)"):
        evaluate(lambda x: -x.square(), torch.ones(4, 1))
    with pytest.raises(ValueError, match="must depend on `x` differentiably"):
        evaluate(lambda x: torch.zeros(len(x)), torch.ones(4, 1))


def test_parameters_get_no_gradient():
    network = torch.nn.Linear(2, 1)
    state = evaluate(lambda x: network(x).squeeze(1), torch.ones(4, 2))
    assert network.weight.grad is None
    assert not state.gradient.requires_grad
    assert not state.x.requires_grad
    torch.testing.assert_close(state.gradient, network.weight.detach().expand(4, 2))


def test_the_generator_decides_the_noise():
    state = start(normal, torch.zeros(5, 2))
    first, again, other = (
        hmc(normal, state, step_size=0.5, steps=2, generator=torch.Generator().manual_seed(seed)).state.x
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    start_state = torch.get_rng_state()
    hmc(normal, state, step_size=0.5, steps=2, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), start_state)


def test_states_of_any_event_shape():
    state = start(normal, torch.randn(6, 1, 4, 4))
    made = hmc(normal, state, step_size=0.2, steps=3, mass=diagonal_mass(torch.randn(10, 10, 1, 4, 4)))
    assert isinstance(made.state, ChainState)
    assert made.state.x.shape == (6, 1, 4, 4)
    assert made.energy.shape == (6,)


def test_a_low_rank_mass_makes_correlated_draws_round():
    torch.manual_seed(0)
    factor = torch.linalg.qr(torch.randn(6, 6)).Q * torch.tensor([10.0, 3.0, 1.0, 1.0, 1.0, 0.03])
    draws = torch.randn(20000, 6) @ factor.T
    mass = low_rank_mass(draws.unflatten(0, (10, -1)))
    round_draws = mass.inverse(draws)
    spread = torch.linalg.eigvalsh(round_draws.T.cov()).sqrt()
    assert spread.max() / spread.min() < 2
    torch.testing.assert_close(mass.forward(mass.inverse(draws)), draws, rtol=1e-3, atol=1e-3)
    vectors = torch.randn(2, 50, 6)
    forward = (mass.forward(vectors[0]) * vectors[1]).sum(1)
    torch.testing.assert_close(forward, (vectors[0] * mass.adjoint(vectors[1])).sum(1), rtol=1e-3, atol=1e-3)


def test_a_low_rank_mass_takes_no_direction_in_which_no_draw_lies():
    """A coordinate that never moved, and a copy of another."""
    torch.manual_seed(0)
    moving = torch.randn(4, 500, 1)
    for draws in (
        torch.cat([torch.ones(4, 500, 1), moving], 2),
        torch.cat([moving, moving, torch.randn(4, 500, 1)], 2),
    ):
        mass = low_rank_mass(draws)
        assert (mass.stretch > 0.1).all()
        points = torch.randn(20, draws.shape[2])
        torch.testing.assert_close(mass.forward(mass.inverse(points)), points, rtol=1e-4, atol=1e-4)


def test_a_low_rank_mass_of_uncorrelated_draws_is_diagonal():
    torch.manual_seed(0)
    scale = torch.logspace(-2, 2, 20)
    mass = low_rank_mass(torch.randn(10, 10, 20) * scale)
    assert mass.directions.shape == (20, 0)
    torch.testing.assert_close(mass.scale, scale, rtol=0.4, atol=0)


def test_chains_of_single_numbers_move_as_those_of_vectors_of_one():
    """Events of shape () and (1,), from the same noise; a point of no finite density stays where it is."""
    found = {}
    for shape in ((), (1,)):
        event_dim = len(shape)

        def log_density(x, event_dim=event_dim):
            return (-x.square() / 2).reshape(len(x), -1).sum(1) if event_dim else -x.square() / 2

        state = evaluate(log_density, torch.linspace(-2, 2, 5).reshape(5, *shape))
        generator = torch.Generator().manual_seed(0)
        move = hmc(log_density, state, step_size=0.5, steps=3, generator=generator)
        TrajectoryLength(1.0).update(state, move, mass=UnitMass())
        found[event_dim] = torch.stack([move.state.x.flatten(), move.acceptance, move.energy])
    torch.testing.assert_close(found[0], found[1])
    nowhere = evaluate(lambda x: torch.where(x > 0, x.log(), torch.nan), torch.tensor([-1.0, 1.0]))
    assert nowhere.log_density.tolist() == [-torch.inf, 0.0]


def test_a_low_rank_mass_of_fewer_draws_than_coordinates():
    torch.manual_seed(0)
    direction = torch.randn(200, dtype=torch.double)
    draws = torch.randn(8, 10, 200, dtype=torch.double) + 5 * torch.randn(8, 10, 1, dtype=torch.double) * direction
    mass = low_rank_mass(draws)
    rows = draws.flatten(0, 1)
    standard = (rows - rows.mean(0)) / mass.scale
    variance, directions = torch.linalg.eigh(standard.T @ standard / len(rows))
    assert mass.stretch.shape == (1,)
    torch.testing.assert_close(mass.stretch, variance[-1:].sqrt())
    torch.testing.assert_close((mass.directions[:, 0] @ directions[:, -1]).abs(), torch.ones((), dtype=torch.double))
    plain = low_rank_mass(torch.randn(64, 1, 500).repeat(1, 5, 1))  # chains that stay give the same row again
    assert plain.stretch.isfinite().all()
    assert plain.directions.isfinite().all()
