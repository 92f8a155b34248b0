"""Sampling by many chains whose settings are learned: targets of known moments, and runs that go on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyrogen.numerics.markov.adaptation import DualAveraging, halton, reasonable_step_size
from pyrogen.numerics.markov.convergence import bulk_effective_sample_size, effective_sample_size, r_hat
from pyrogen.numerics.markov.mass import diagonal_mass
from pyrogen.numerics.markov.moves import hmc
from pyrogen.numerics.markov.sampling import AdaptiveHMC, Sampling, UnadjustedLangevin, windows
from pyrogen.numerics.markov.state import start


def normal(x: Tensor) -> Tensor:
    return -x.square().sum(1) / 2


def correlated(dimensions: int, condition: float):
    """A normal target in random directions, and its covariance."""
    torch.manual_seed(0)
    scale = torch.logspace(0, -math.log10(condition) / 2, dimensions, dtype=torch.double)
    directions = torch.linalg.qr(torch.randn(dimensions, dimensions, dtype=torch.double)).Q
    precision = (directions / scale**2) @ directions.T
    return (lambda x: -(x @ precision * x).sum(1) / 2), (directions * scale**2) @ directions.T


def sample(target, kernel, *, dimensions, chains=64, warmup=200, draws=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(chains, dimensions, dtype=torch.double, generator=generator) - 2
    sampling = Sampling(target, x, kernel, warmup=warmup, generator=generator)
    moves = list(sampling.moves(draws))
    return torch.stack([move.state.x for move in moves], 1), sampling, moves


KERNELS = {
    "chees": AdaptiveHMC(),
    "diagonal": AdaptiveHMC(mass=diagonal_mass),
    "fixed": AdaptiveHMC(steps=4),
    "mala": AdaptiveHMC(steps=1),
}


def check_moments(draws: Tensor, covariance: Tensor) -> None:
    """Means and variances within four and a half standard errors, of as many draws as the chains are worth."""
    variance = covariance.diagonal()
    x = draws / variance.sqrt()
    mean_error = x.mean((0, 1)) * effective_sample_size(x).sqrt()
    square_error = (x.square().mean((0, 1)) - 1) * (effective_sample_size(x.square()) / 2).sqrt()
    assert mean_error.abs().max() < 4.5
    assert square_error.abs().max() < 4.5
    assert r_hat(draws).max() < 1.05


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_moments_of_a_correlated_normal(kernel):
    target, covariance = correlated(5, 30.0)
    draws, _, _ = sample(target, kernel, dimensions=5, draws=400)
    check_moments(draws, covariance)


@pytest.mark.slow
def test_moments_of_a_normal_of_condition_number_ten_thousand():
    target, covariance = correlated(100, 1e4)
    draws, sampling, _ = sample(target, AdaptiveHMC(), dimensions=100, warmup=300, draws=300)
    check_moments(draws, covariance)
    assert effective_sample_size(draws).min() > 0.2 * draws[..., 0].numel()
    assert sampling.kernel.mass.directions.shape[1] > 50


def test_unadjusted_langevin_has_the_variance_of_its_step():
    def target(x: Tensor) -> Tensor:
        return normal(x / torch.tensor([0.1, 3.0], dtype=torch.double))

    draws, sampling, _ = sample(target, UnadjustedLangevin(step_size=0.4), dimensions=2, draws=800)
    x = draws / sampling.kernel.mass.scale
    error = (x.square().mean((0, 1)) * (1 - 0.4 / 2) - 1) * (effective_sample_size(x.square()) / 2).sqrt()
    # The scales that the mass learned are off by a few per cent themselves, which changes both sides by about as much.
    assert error.abs().max() < 10


def test_learned_settings_serve_the_target():
    """Of a standard normal in 64 dimensions: at least one independent draw in eight gradients."""
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return normal(x)

    sampling = Sampling(counted, torch.zeros(64, 64), AdaptiveHMC(), warmup=200, generator=torch.Generator())
    moves = sampling.moves(200)
    calls = 0
    draws = torch.stack([move.state.x for move in moves], 1)
    assert bulk_effective_sample_size(draws).min() / 64 / calls > 1 / 8
    assert bulk_effective_sample_size(draws.square()).min() / 64 / calls > 1 / 8


def vague_regression(x: Tensor) -> Tensor:
    """Intercept, slope, and the logarithm of the noise, under priors that say almost nothing."""
    inputs = torch.linspace(0, 10, 50)
    error = (1 + 2 * inputs + inputs.sin()) - x[:, :1] - x[:, 1:2] * inputs
    prior = -(x[:, :2] / 100).square().sum(1) / 2 - (1 + (x[:, 2] / 5).exp()).log()
    return prior - 50 * x[:, 2] - error.square().sum(1) * (-2 * x[:, 2]).exp() / 2


def steep(x: Tensor) -> Tensor:
    """Mean and logarithm of the scale of 200,000 data about 100, as a function of their moments."""
    return -2e5 * (x[:, 1] + (4 + (x[:, 0] - 100).square()) * (-2 * x[:, 1]).exp() / 2)


@pytest.mark.parametrize(
    ("target", "spread", "gradients"),
    [
        pytest.param(vague_regression, (100.0, 100.0, 3.0), 25_000, marks=pytest.mark.slow),
        (steep, (10.0, 2.0), 20_000),
    ],
)
def test_warming_up_from_afar_is_not_dear(target, spread, gradients):
    """Trajectories of thousands of steps, with a mass learned from chains on their way, would be."""
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > gradients:
            raise AssertionError(f"more than {gradients} gradients")
        return target(x)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, len(spread), generator=generator, dtype=torch.double) * torch.tensor(spread)
    sampling = Sampling(counted, x, AdaptiveHMC(), warmup=300, generator=generator)
    draws = torch.stack([move.state.x for move in sampling.moves(100)], 1)
    assert r_hat(draws).max() < 1.02
    assert effective_sample_size(draws).min() > 2000


def test_step_sizes_reach_the_wanted_acceptance():
    torch.manual_seed(0)
    state = start(normal, torch.randn(64, 20))
    step = DualAveraging(reasonable_step_size(normal, state), target=0.65)
    for _ in range(300):
        move = hmc(normal, state, step_size=step.step_size, steps=2)
        state = move.state
        step.update(move)
    found = []
    for _ in range(100):
        move = hmc(normal, state, step_size=step.average, steps=2)
        state = move.state
        found.append(1 / (1 / move.acceptance.clamp(min=0.01)).mean())
    assert abs(torch.stack(found).mean() - 0.65) < 0.08


def test_halton_numbers():
    assert [halton(number) for number in range(7)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


def test_windows_grow():
    assert windows(300) == [30, 45, 67, 100, 150, 240]
    assert windows(0) == windows(5) == []
    assert windows(1000)[-1] == 800


@pytest.mark.parametrize("kernel", [AdaptiveHMC(), AdaptiveHMC(steps=1), UnadjustedLangevin()])
@pytest.mark.parametrize("stop", [3, 47, 105])
def test_a_run_that_goes_on_from_its_state_is_the_run_that_never_stopped(kernel, stop):
    target, _ = correlated(3, 10.0)
    x = torch.zeros(8, 3, dtype=torch.double)

    def begun(seed: int) -> Sampling:
        return Sampling(target, x, kernel, warmup=100, generator=torch.Generator().manual_seed(seed))

    whole, first, second = begun(1), begun(1), begun(2)
    ends = [whole.move().state.x for _ in range(120)]
    for _ in range(stop):
        first.move()
    second.load_state_dict(first.state_dict())
    for number in range(stop, 120):
        assert torch.equal(second.move().state.x, ends[number]), number


def test_a_kernel_is_a_template():
    kernel = AdaptiveHMC()
    first, again = (sample(normal, kernel, dimensions=2, chains=8, warmup=60, draws=5)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert kernel.step is None


def test_kernels_check_their_arguments():
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        AdaptiveHMC(steps=0)
    with pytest.raises(ValueError, match="`target_acceptance` must be between 0 and 1, got 1.5"):
        AdaptiveHMC(target_acceptance=1.5)
    with pytest.raises(ValueError, match="`step_size` must be positive, got 0"):
        UnadjustedLangevin(step_size=0)
    with pytest.raises(ValueError, match="`x` must be points"):
        Sampling(lambda x: x.sum(1).log(), -torch.ones(3, 2), AdaptiveHMC(), warmup=10)
