"""RePaint, DDRM and DAPS: where they are exact, and biases that follow from their equations."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian, quadrature
from pyro import poutine

from pyrogen import inverse
from pyrogen.diffusion import LinearVP
from pyrogen.inverse.chain import Chain
from pyrogen.numerics.grids import default_grid

CORRELATED = torch.tensor([[1.0, 0.6], [0.6, 1.5]])
DRAWS = 8000


def draws_of(prior, measurement, y, guidance, steps, draws=DRAWS, **options):
    """Draws of a posterior; ``measurement`` gives a distribution of ``y`` from one value of the site."""

    def model(y):
        pyro.sample("y", measurement(pyro.sample("x", prior())), obs=y)

    sampling = inverse.GuidedSampling(model, site="x", guidance=guidance, draws=draws, steps=steps, **options)
    return sampling.run(y).get_samples()["x"]


def linear(operator, noise):
    return lambda x: dist.Normal(operator @ x, noise).to_event(1)


def conditioned(covariance, operator, noise, y):
    """Mean and covariance of a Gaussian of mean zero given a measurement."""
    marginal = operator @ covariance @ operator.T + noise**2 * torch.eye(len(y))
    gain = torch.linalg.solve(marginal, operator @ covariance).T
    return gain @ y, covariance - gain @ operator @ covariance


def close(draws, mean, covariance, bias=0.0):
    """Mean and covariance within five standard errors and a relative bias."""
    scale = covariance.diagonal().sqrt()
    error = 5 / len(draws) ** 0.5
    torch.testing.assert_close(draws.mean(0) / scale, mean / scale, rtol=0, atol=error + bias)
    unit = scale.outer(scale)
    torch.testing.assert_close(draws.T.cov() / unit, covariance / unit, rtol=0, atol=math.sqrt(2) * error + bias)


@pytest.mark.parametrize("operator", [[[1.0, 0.0]], [[0.8, 0.6]]], ids=["mask", "direction"])
def test_repaint_finds_the_conditional_if_it_repeats_enough(operator):
    operator, y, noise = torch.tensor(operator), torch.tensor([2.0]), 1e-3
    prior = gaussian(torch.zeros(2), CORRELATED)
    mean, covariance = conditioned(CORRELATED, operator, noise, y)
    other = torch.tensor([-operator[0, 1], operator[0, 0]])  # the direction that is not measured
    often, once = (
        draws_of(prior, linear(operator, noise), y, inverse.RePaint(rounds), 25, draws, calibrate=True)
        for rounds, draws in ((80, 1000), (1, DRAWS))
    )
    scale, rest = (other @ covariance @ other).sqrt(), often @ other
    assert abs(rest.mean() - other @ mean) / scale < 5 / 1000**0.5 + 0.02
    assert abs(rest.var() / scale**2 - 1) < 5 * (2 / 1000) ** 0.5 + 0.05
    assert 0.2 < (once @ other).mean() / (other @ mean) < 0.7  # one round learns too little of the measurement
    measured = (once @ operator.T).squeeze(-1)  # as noisy as the last level, 0.01
    assert abs(measured.mean() - y) < 5 * 0.01 / DRAWS**0.5 + 1e-3
    assert abs(measured.std() / 0.01 - 1) < 5 * (0.5 / DRAWS) ** 0.5 + 1e-3


def test_undoing_a_step_makes_particles_as_noisy_as_before_it():
    torch.manual_seed(0)
    chain = Chain(LinearVP(), default_grid(LinearVP(), 4))
    for place, (level, other) in enumerate(zip(chain.levels[:-1], chain.levels[1:], strict=True)):
        x = other.alpha * 3.0 + other.sigma * torch.randn(DRAWS)
        again = chain.step(place).undo(x)
        assert abs(again.mean() - level.alpha * 3.0) < 5 * level.sigma / DRAWS**0.5
        assert abs(again.var() / level.sigma**2 - 1) < 5 * (2 / DRAWS) ** 0.5


def ddrm_moments(levels, prior_variance, datum, error, fresh, strength):
    """Mean and variance of DDRM's answer in one singular direction, for Gaussian data of mean zero.

    ``error`` is the noise of ``datum``, infinite where nothing is measured. Everything is linear and Gaussian.
    """
    noise = [level.sigma / level.alpha for level in levels]
    kept = (1 - fresh**2) ** 0.5
    mean, variance = 0.0, noise[0] ** 2
    for here, there in zip(noise[:-1], noise[1:], strict=True):
        shrink = prior_variance / (prior_variance + here**2)  # D = shrink * x
        if math.isinf(error):
            factor, constant, new = shrink + kept * there / here * (1 - shrink), 0.0, (fresh * there) ** 2
        elif there < error:
            weight = kept * there / error
            factor, constant, new = shrink * (1 - weight), weight * datum, (fresh * there) ** 2
        else:
            factor, constant, new = shrink * (1 - strength), strength * datum, there**2 - (strength * error) ** 2
        mean, variance = factor * mean + constant, factor**2 * variance + new
    shrink = prior_variance / (prior_variance + noise[-1] ** 2)
    return shrink * mean, shrink**2 * variance


@pytest.mark.parametrize(("fresh", "strength", "steps"), [(0.85, 1.0, 20), (0.3, 0.7, 60)])
def test_ddrm_is_what_its_equations_say_in_every_singular_direction(fresh, strength, steps):
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, size))[0] for size in (2, 3))
    # More precise than the last level, 0.01, and less than the data.
    singular, prior_variance, y = torch.tensor([110.0, 0.8]), 2.0, torch.tensor([90.0, -1.5])
    white = left * singular @ right[:2]
    mix = torch.tensor([[1.0, 0.0], [0.7, 0.4]])  # the noise is correlated, and white after its inverse

    def measurement(x):
        return dist.MultivariateNormal(mix @ white @ x, mix @ mix.T)

    prior = gaussian(torch.zeros(3), prior_variance * torch.eye(3))
    along = draws_of(prior, measurement, mix @ y, inverse.DDRM(fresh, strength), steps, 20000) @ right.T
    data, errors = left.T @ y / singular, [*(1 / singular).tolist(), math.inf]
    levels = Chain(LinearVP(), default_grid(LinearVP(), steps)).levels
    for coordinate, datum, error in zip(along.T, [*data.tolist(), 0.0], errors, strict=True):
        mean, variance = ddrm_moments(levels, prior_variance, datum, error, fresh, strength)
        assert abs(coordinate.mean() - mean) < 5 * (variance / 20000) ** 0.5 + 1e-4
        assert abs(coordinate.var() - variance) < 5 * variance * (2 / 20000) ** 0.5 + 1e-6


def test_ddrm_loses_variance_where_nothing_is_measured():
    """With many steps the variance is (1 + sqrt(1 - eta^2)) / 2 of the prior's: 0.76 for eta = 0.85."""
    levels = Chain(LinearVP(), default_grid(LinearVP(), 5000)).levels
    _, variance = ddrm_moments(levels, 2.0, 0.0, math.inf, 0.85, 1.0)
    assert abs(variance / 2.0 - (1 + (1 - 0.85**2) ** 0.5) / 2) < 0.01


@pytest.mark.parametrize("steps", [3, 30])
def test_daps_is_exact_for_the_gaussian_it_is_told_of_with_any_number_of_steps(steps):
    operator, y = torch.tensor([[1.0, 0.5]]), torch.tensor([2.0])
    prior = gaussian(torch.zeros(2), 2.0 * torch.eye(2))
    draws = draws_of(prior, linear(operator, 0.5), y, inverse.DAPS(1, variance=2.0), steps)
    close(draws, *conditioned(2.0 * torch.eye(2), operator, 0.5, y), bias=1e-3)


def test_daps_counts_the_spread_of_the_flow_twice():
    """The flow's end already varies as the data do: adding its own variance gives too much."""
    torch.manual_seed(0)
    steps, solver_steps, prior_variance, count = 10, 4, 2.0, 40000
    prior = gaussian(torch.zeros(2), prior_variance * torch.eye(2))
    operator = torch.tensor([[1.0, 0.0]])
    draws = draws_of(prior, linear(operator, 0.5), torch.ones(1), inverse.DAPS(solver_steps), steps, count)[:, 1]
    levels = Chain(LinearVP(), default_grid(LinearVP(), steps)).levels
    variance = (levels[0].sigma / levels[0].alpha) ** 2
    for place in range(steps):
        ahead = levels[place:]
        scales = [ahead[len(ahead) * i // solver_steps] for i in range(solver_steps)]
        noise = [level.sigma / level.alpha for level in dict.fromkeys(scales)] + [0.0]
        flow = math.prod(  # Euler's steps of dx / dn = (x - D) / n
            1 + (there - here) * here / (prior_variance + here**2)
            for here, there in zip(noise[:-1], noise[1:], strict=True)
        )
        datum = flow**2 * variance + noise[0] ** 2
        variance = datum + levels[place + 1].variance
    shrink = prior_variance / (prior_variance + levels[-1].variance)
    assert abs(draws.var() / (shrink**2 * variance) - 1) < 5 * (2 / count) ** 0.5
    assert variance > 1.4 * prior_variance


def test_daps_takes_other_likelihoods_by_their_laplace_approximation():
    torch.manual_seed(0)
    prior = gaussian(torch.zeros(1), torch.eye(1))
    y = torch.tensor(5.0)
    draws = draws_of(prior, lambda x: dist.Poisson(x.sum().exp()), y, inverse.DAPS(1, variance=1.0), 50)

    def log_joint(x):
        return dist.Normal(0.0, 1.0).log_prob(x.sum(-1)) + dist.Poisson(x.sum(-1).exp()).log_prob(y)

    _, mean, covariance = quadrature(log_joint, 1)
    close(draws, mean.float(), covariance.float(), bias=0.1)


@pytest.mark.parametrize("guidance", [inverse.RePaint(2), inverse.DDRM()], ids=["RePaint", "DDRM"])
@pytest.mark.parametrize(
    "measurement",
    [lambda x: dist.Poisson(x.sum().exp()), lambda x: dist.Normal(x.prod(), 0.5), lambda x: dist.StudentT(3.0, x[0])],
    ids=["Poisson", "product", "Student"],
)
def test_what_a_method_cannot_serve_is_refused(guidance, measurement):
    prior = gaussian(torch.zeros(2), torch.eye(2))
    with pytest.raises(NotImplementedError, match="linear measurements with Gaussian noise only"):
        draws_of(prior, measurement, torch.tensor(1.0), guidance, 5, draws=4)


METHODS = [inverse.MomentMatching(), inverse.DDRM(), inverse.RePaint(2), inverse.DAPS(1, variance=2.0)]


@pytest.mark.parametrize("guidance", METHODS, ids=lambda guidance: type(guidance).__name__)
def test_what_is_masked_measures_nothing(guidance):
    """Draws do not change with what a masked entry says, nor do they stay where the prior's mean is."""
    prior = gaussian(torch.zeros(2), 2.0 * torch.eye(2))
    shown = torch.tensor([True, False])

    def model(y):
        x = pyro.sample("x", prior())
        with pyro.plate("pixels", 2), poutine.mask(mask=shown):
            pyro.sample("y", dist.Normal(x, 0.1), obs=y)

    def drawn(hidden):
        torch.manual_seed(0)
        sampling = inverse.GuidedSampling(model, site="x", guidance=guidance, draws=4000, steps=40, calibrate=True)
        return sampling.run(torch.tensor([1.0, hidden])).get_samples()["x"]

    draws = drawn(3.0)
    torch.testing.assert_close(draws, drawn(math.nan))
    assert abs(draws[:, 0].mean() - 1.0) < 0.1
    assert draws[:, 1].var() > 0.6 * 2.0  # DDRM's is 0.73 of the prior's
    assert draws[:, 1].mean().abs() < 5 * (2.0 / 4000) ** 0.5 + 0.02


def test_calibrated_steps_keep_the_variance_that_ancestral_ones_lose():
    prior = gaussian(torch.zeros(2), torch.eye(2))
    spread = {}
    for calibrate in (False, True):
        torch.manual_seed(0)
        found = draws_of(
            prior,
            linear(torch.eye(2)[:1], 100.0),
            torch.zeros(1),
            inverse.MomentMatching(),
            20,
            calibrate=calibrate,
        )
        spread[calibrate] = found.var(0)
    error = 5 * (2 / DRAWS) ** 0.5
    assert (spread[False] < 0.8).all()
    assert ((spread[True] - 1).abs() < error + 0.02).all()


def test_the_chain_is_calibrated_whoever_chose_the_twist():
    """Without it draws under a measurement of nothing lose some of the prior's variance."""
    torch.manual_seed(0)
    prior = gaussian(torch.zeros(2), torch.eye(2))

    def model(y):
        pyro.sample("y", dist.Normal(pyro.sample("x", prior())[0], 100.0), obs=y)

    for twist in (None, inverse.Isotropic(1.0)):
        found = inverse.TwistedSMC(model, site="x", particles=4000, steps=10, twist=twist).run(torch.tensor(0.0))
        assert ((found.get_samples()["x"].var(0) - 1).abs() < 5 * (2 / 4000) ** 0.5 + 0.02).all()
