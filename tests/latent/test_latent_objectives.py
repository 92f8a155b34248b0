"""Every objective against the linear-Gaussian model: values on Pyro's noise, gradients in expectation."""

import math

import pyro
import pytest
import torch
from linear_gaussian import SCALE, ScorePosterior, exact_elbo, exact_log_prob, flat_gradient, linear_vae
from numpy.polynomial.hermite_e import hermegauss
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrogen as pg
from pyrogen.latent import (
    VAE,
    BetaElbo,
    DoublyReparameterized,
    ImportanceWeighted,
    Renyi,
    StandardNormal,
    StickingTheLanding,
)

DEVIATIONS = 5.0


def mean_gradient(objective, parameters, x, repeats):
    """The mean of many gradients and its standard error, one for each number."""
    gradients = torch.stack([flat_gradient(objective(x), parameters) for _ in range(repeats)])
    return gradients.mean(0), gradients.std(0) / math.sqrt(repeats), gradients.std(0)


def assert_expected(objective, parameters, x, expected, repeats=400):
    mean, error, _ = mean_gradient(objective, parameters, x, repeats)
    z = (mean - expected) / (error + 1e-9 * expected.abs().max())
    assert z.abs().max() < DEVIATIONS, z


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return linear_vae().double()


@pytest.fixture
def x():
    return torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("objective", "elbo"),
    [(BetaElbo, Trace_ELBO), (lambda vae: BetaElbo(vae, analytic_kl=True), TraceMeanField_ELBO)],
    ids=["Trace_ELBO", "TraceMeanField_ELBO"],
)
def test_is_pyros_bound_on_the_same_noise(vae, x, objective, elbo):
    parameters = list(vae.parameters())
    pyro.set_rng_seed(2)
    ours = objective(vae)(x)
    pyro.set_rng_seed(2)
    theirs = elbo()(vae.model, vae.guide)(x) / len(x)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(flat_gradient(ours, parameters), flat_gradient(theirs, parameters))


def test_several_draws_are_pyros_particles(vae, x):
    pyro.set_rng_seed(2)
    ours = BetaElbo(vae, draws=4)(x)
    pyro.set_rng_seed(2)
    particles = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    torch.testing.assert_close(ours, particles(vae.model, vae.guide)(x) / len(x))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_renyi_is_pyros_for_one_datum(vae, x, alpha):
    pyro.set_rng_seed(2)
    ours = Renyi(vae, alpha=alpha, draws=5)(x[:1])
    pyro.set_rng_seed(2)
    theirs = RenyiELBO(alpha, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    torch.testing.assert_close(ours.item(), theirs.loss(vae.model, vae.guide, x[:1]))


@pytest.mark.parametrize(
    "make",
    [
        BetaElbo,
        lambda vae: BetaElbo(vae, draws=3),
        lambda vae: BetaElbo(vae, analytic_kl=True),
        StickingTheLanding,
        lambda vae: ImportanceWeighted(vae, draws=1),
        lambda vae: DoublyReparameterized(vae, draws=1),
    ],
    ids=[
        "BetaElbo",
        "BetaElbo of draws",
        "analytic",
        "StickingTheLanding",
        "ImportanceWeighted 1",
        "DoublyReparameterized 1",
    ],
)
def test_gradient_of_the_elbo(vae, x, make):
    parameters = list(vae.parameters())
    assert_expected(make(vae), parameters, x, flat_gradient(-exact_elbo(vae, x).mean(), parameters))


@pytest.mark.parametrize("settings", [{}, {"analytic_kl": True}, {"draws": 2}, {"beta": 5.0, "draws": 4}], ids=str)
def test_gradient_by_the_score_function(x, settings):
    torch.manual_seed(0)
    plain = linear_vae().double()
    vae = VAE(plain.prior, plain.likelihood, ScorePosterior(plain.posterior), draws=1)
    parameters = list(vae.parameters())
    expected = flat_gradient(-exact_elbo(plain, x).mean(), parameters)
    if "beta" in settings:
        rate = torch.distributions.kl_divergence(plain.posterior(x), plain.prior()).mean()
        expected = expected + 4.0 * flat_gradient(rate, parameters)
    assert_expected(BetaElbo(vae, **settings), parameters, x, expected, repeats=1500)


@pytest.mark.parametrize(("beta", "free_nats", "pushed"), [(0.3, 0.0, 0.3), (1.0, 1e3, 0.0), (2.0, 1e-3, 2.0)])
def test_beta_and_free_nats(vae, x, beta, free_nats, pushed):
    parameters = list(vae.parameters())
    rate = torch.distributions.kl_divergence(vae.posterior(x), vae.prior()).mean()
    distortion = -exact_elbo(vae, x).mean() - rate
    for analytic in (False, True):
        objective = BetaElbo(vae, beta=beta, free_nats=free_nats, analytic_kl=analytic, draws=50)
        assert_expected(objective, parameters, x, flat_gradient(distortion + pushed * rate, parameters), 100)
    values = torch.stack([objective(x).detach() for _ in range(100)])
    expected = distortion + beta * rate.clamp(min=free_nats)
    assert (values.mean() - expected).abs() < DEVIATIONS * values.std() / 10


def bound_by_quadrature(vae, x, power, nodes=40):
    """The bound of two draws of one latent, by Gauss-Hermite quadrature over both: minus its mean over rows."""
    points, weights = map(torch.from_numpy, hermegauss(nodes))
    weights = weights / weights.sum()
    posterior = vae.posterior(x)
    z = posterior.mean + points[:, None, None] * posterior.stddev  # (nodes, rows, 1)
    log_joint = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z)
    log_weights = power * (log_joint - posterior.log_prob(z))  # (nodes, rows)
    pairs = torch.logaddexp(log_weights[:, None], log_weights[None]) - math.log(2)
    return -torch.einsum("i,j,ijr->r", weights, weights, pairs).mean() / power


@pytest.mark.parametrize(
    ("make", "power"),
    [
        (lambda vae: ImportanceWeighted(vae, draws=2), 1.0),
        (lambda vae: DoublyReparameterized(vae, draws=2), 1.0),
        (lambda vae: Renyi(vae, alpha=0.0, draws=2), 1.0),
        (lambda vae: Renyi(vae, alpha=0.5, draws=2), 0.5),
        (lambda vae: Renyi(vae, alpha=2.0, draws=2), -1.0),
    ],
    ids=["ImportanceWeighted", "DoublyReparameterized", "Renyi 0", "Renyi 0.5", "Renyi 2"],
)
def test_gradient_of_two_draws(x, make, power):
    torch.manual_seed(3)
    vae = linear_vae(latents=1).double()
    parameters = list(vae.parameters())
    expected = bound_by_quadrature(vae, x, power)
    values = torch.stack([make(vae)(x).detach() for _ in range(500)])
    assert (values.mean() - expected).abs() < DEVIATIONS * values.std() / math.sqrt(500)
    assert_expected(make(vae), parameters, x, flat_gradient(expected, parameters), repeats=2000)


def true_posterior(vae):
    """Gives the posterior of a one-latent model the exact weights."""
    with torch.no_grad():
        weight, bias = vae.likelihood.network.weight[:, 0], vae.likelihood.network.bias
        variance = 1 / (1 + weight.square().sum() / SCALE**2)
        network = vae.posterior.network
        network.weight.zero_()
        network.weight[0] = variance * weight / SCALE**2
        log_scale = 0.5 * variance.log()
        network.bias.copy_(torch.stack([-network.weight[0] @ bias, 10 * torch.atanh(log_scale / 10)]))


def test_at_the_true_posterior_some_gradients_have_no_noise(x):
    torch.manual_seed(3)
    vae = linear_vae(latents=1).double()
    true_posterior(vae)
    parameters = list(vae.posterior.parameters())
    for objective in (StickingTheLanding(vae), DoublyReparameterized(vae, draws=3)):
        assert flat_gradient(objective(x), parameters).abs().max() < 1e-9
        torch.testing.assert_close(objective(x), -exact_log_prob(vae, x).mean())
    assert flat_gradient(BetaElbo(vae)(x), parameters).abs().max() > 1e-3


def test_doubly_reparameterized_keeps_its_signal(x):
    torch.manual_seed(3)
    vae = linear_vae(latents=1).double()
    true_posterior(vae)
    with torch.no_grad():
        vae.posterior.network.bias += torch.tensor([0.3, 0.4])  # off, and wide enough for weights of finite variance
    parameters = list(vae.posterior.parameters())
    ratio = {}
    for make in (ImportanceWeighted, DoublyReparameterized):
        found = [mean_gradient(make(vae, draws=draws), parameters, x, 300) for draws in (4, 256)]
        few, many = [mean.norm() / deviation.norm() for mean, _, deviation in found]
        ratio[make] = many / few
    # Theory (Rainforth et al. 2018): signal over noise goes as draws to the powers -1/2 and 1/2, here 1/8 and 8.
    assert ratio[ImportanceWeighted] < 1
    assert ratio[DoublyReparameterized] > 3


def test_refusals(vae):
    flowing = linear_vae()
    flowing.likelihood.density = "lower bound"
    for make in (ImportanceWeighted, DoublyReparameterized):
        with pytest.raises(ValueError, match="likelihood of density 'lower bound': a noisy log_prob"):
            make(flowing, draws=2)
    with pytest.raises(ValueError, match="likelihood of density"):
        Renyi(flowing, alpha=0.5, draws=1)
    with pytest.raises(ValueError, match="`alpha` must not be 1"):
        Renyi(vae, alpha=1.0, draws=2)
    with pytest.raises(ValueError, match="`draws` must be at least 1"):
        BetaElbo(vae, draws=0)
    shared = nn.Linear(2, 4)
    posterior = pg.Parametric(shared, pg.families.diagonal_normal, event_shape=2, context_shape=2)
    likelihood = pg.Parametric(shared, pg.families.diagonal_normal, event_shape=2, context_shape=2)
    with pytest.raises(ValueError, match="shares no parameter"):
        DoublyReparameterized(VAE(StandardNormal((2,)), likelihood, posterior), draws=2)
    score = VAE(vae.prior, vae.likelihood, ScorePosterior(vae.posterior))
    with pytest.raises(NotImplementedError, match="use `BetaElbo`"):
        ImportanceWeighted(score, draws=2)(torch.zeros(2, 3, dtype=torch.float64))
