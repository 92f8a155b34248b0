"""Reweighted wake-sleep: its gradients against quadrature and closed forms, and against Pyro's."""

import math

import pyro
import pytest
import torch
from linear_gaussian import SCALE, ScorePosterior, exact_log_prob, flat_gradient, linear_vae
from numpy.polynomial.hermite_e import hermegauss
from pyro.infer import ReweightedWakeSleep as PyroWakeSleep
from torch import nn

import pyrogen as pg
from pyrogen.latent import VAE, Classes, EnumeratedElbo, ReweightedWakeSleep, StandardNormal
from pyrogen.testing import check_objective
from pyrogen.testing.contract import OBJECTIVE_CHECKS

DEVIATIONS = 5.0


@pytest.fixture
def vae():
    torch.manual_seed(3)
    return linear_vae(latents=1).double()


@pytest.fixture
def x():
    return torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def wake_by_quadrature(vae, x, nodes=40):
    """Surrogates whose gradients are those expected of two draws: for the model, and for the posterior."""
    points, weights = map(torch.from_numpy, hermegauss(nodes))
    weights = weights / weights.sum()
    posterior = vae.posterior(x)
    z = (posterior.mean + points[:, None, None] * posterior.stddev).detach()
    log_joint, log_posterior = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z), posterior.log_prob(z)
    log_weights = (log_joint - log_posterior).detach()  # (nodes, rows)
    share = torch.sigmoid(log_weights[:, None] - log_weights[None])  # of the first of two draws
    own = torch.einsum("i,j,ijr->ir", weights, weights, 2 * share)  # both draws, by symmetry
    pairs = torch.logaddexp(log_weights[:, None], log_weights[None]) - math.log(2)
    value = -torch.einsum("i,j,ijr->r", weights, weights, pairs).mean()
    return value, -(own * log_joint).sum(0).mean(), -(own * log_posterior).sum(0).mean()


def sleep_in_closed_form(vae):
    """Minus the expectation of log q(z' | x') over dreams, up to what has no gradient in the posterior."""
    decoder, encoder = vae.likelihood.network, vae.posterior.network
    weight, bias = decoder.weight.detach()[:, 0], decoder.bias.detach()
    # q(z | x) = N(m(x), s(x)²) with log s bounded: 10 tanh(. / 10) is linear enough only by quadrature over z and x.
    points, weights = map(torch.from_numpy, hermegauss(12))
    weights = weights / weights.sum()
    z = points[:, None, None, None, None]
    noise = torch.stack(torch.meshgrid(points, points, points, indexing="ij"), -1)  # (12, 12, 12, 3)
    x = z * weight + bias + SCALE * noise
    loc, log_scale = encoder(x).unbind(-1)
    log_scale = 10 * torch.tanh(log_scale / 10)
    log_q = -0.5 * ((z[..., 0] - loc) / log_scale.exp()).square() - log_scale
    return -torch.einsum("a,b,c,d,abcd->", weights, weights, weights, weights, log_q)


def assert_mean(found, expected):
    error = found.std(0) / math.sqrt(len(found))
    z = (found.mean(0) - expected) / (error + 1e-9)
    assert z.abs().max() < DEVIATIONS, z


@pytest.mark.parametrize("reparameterized", [True, False])
def test_wake_gradients(vae, x, reparameterized):
    model = list(vae.likelihood.parameters())
    guide = list(vae.posterior.parameters())
    value, for_model, for_guide = wake_by_quadrature(vae, x)
    used = vae if reparameterized else VAE(vae.prior, vae.likelihood, ScorePosterior(vae.posterior))
    objective = ReweightedWakeSleep(used, draws=2)
    losses = [objective(x) for _ in range(1000)]
    assert_mean(torch.stack(losses).detach()[:, None], value[None].detach())
    expected = torch.cat([flat_gradient(for_model, model), flat_gradient(for_guide, guide)])
    assert_mean(torch.stack([flat_gradient(loss, model + guide) for loss in losses]), expected)


def test_sleep_gradients(vae, x):
    guide = list(vae.posterior.parameters())
    objective = ReweightedWakeSleep(vae, draws=2, sleep=1.0)
    expected = flat_gradient(sleep_in_closed_form(vae), guide)
    assert_mean(torch.stack([flat_gradient(objective(x), guide) for _ in range(600)]), expected)
    found = []
    for sleep in (0.0, 1.0, 0.3):  # the same noise: dreams come after the draws
        pyro.set_rng_seed(4)
        found.append(flat_gradient(ReweightedWakeSleep(vae, draws=2, sleep=sleep)(x), guide))
    torch.testing.assert_close(found[2], 0.7 * found[0] + 0.3 * found[1])
    pyro.set_rng_seed(4)
    asleep = flat_gradient(ReweightedWakeSleep(vae, draws=2, sleep=1.0)(x + 1), guide)
    torch.testing.assert_close(asleep, found[1])  # who sleeps does not see the data


def test_model_gradient_of_many_draws_is_that_of_the_likelihood(vae, x):
    """No bias is left where theory says that none is: the posterior's error vanishes as draws become many."""
    parameters = list(vae.likelihood.parameters())
    expected = flat_gradient(-exact_log_prob(vae, x).mean(), parameters)
    found = flat_gradient(ReweightedWakeSleep(vae, draws=400_000)(x), parameters)
    torch.testing.assert_close(found, expected, atol=0.04, rtol=0.02)


def test_is_pyros_for_one_datum(vae, x):
    parameters = list(vae.parameters())
    pyro.set_rng_seed(2)
    ours = ReweightedWakeSleep(vae, draws=4)(x[:1])
    gradient = flat_gradient(ours, parameters)
    pyro.set_rng_seed(2)
    theirs = PyroWakeSleep(
        num_particles=4, insomnia=1.0, model_has_params=True, vectorize_particles=True, max_plate_nesting=1
    )
    wake_model, wake_guide = theirs.loss_and_grads(vae.model, vae.guide, x[:1])
    torch.testing.assert_close(ours.item(), wake_model)
    for one, expected in zip(gradient.split([p.numel() for p in parameters]), parameters, strict=True):
        torch.testing.assert_close(one, expected.grad.reshape(-1))


class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 4))

    def forward(self, z):
        return self.table[z]


def discrete_vae():
    likelihood = pg.Parametric(OneHot(), pg.families.bernoulli, event_shape=(4,), context_shape=())
    posterior = pg.Parametric(nn.Linear(4, 3), pg.families.categorical(3), event_shape=(), context_shape=(4,))
    return VAE(Classes(3), likelihood, posterior)


def test_discrete_latents_are_learned():
    torch.manual_seed(0)
    x = torch.bernoulli(torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.9]]).repeat(100, 1))
    vae = discrete_vae()
    before = EnumeratedElbo(vae)(x).item()
    optimizer = lambda parameters: torch.optim.Adam(parameters, 0.05)  # noqa: E731
    pg.fit(ReweightedWakeSleep(vae, draws=8, sleep=0.5), x, steps=150, optimizer=optimizer, seed=0)
    assert EnumeratedElbo(vae)(x).item() < before - 0.3


@pytest.mark.parametrize("sleep", [0.0, 0.5])
def test_contract(sleep):
    x = torch.randn(16, 3)
    # The gradient is not that of the value, by design: the posterior fits what it should have drawn.
    only = [check.__name__ for check in OBJECTIVE_CHECKS if check.__name__ != "parameter_gradient"]
    make = lambda: ReweightedWakeSleep(linear_vae(), draws=3, sleep=sleep)  # noqa: E731
    check_objective(make, x, only=only).raise_if_failed()


def test_refusals():
    with pytest.raises(ValueError, match="`sleep` must be from 0 to 1"):
        ReweightedWakeSleep(linear_vae(), draws=2, sleep=1.5)
    shared = pg.Parametric(nn.Linear(2, 4), pg.families.diagonal_normal, event_shape=2, context_shape=2)
    with pytest.raises(ValueError, match="shares no parameter"):
        ReweightedWakeSleep(VAE(StandardNormal((2,)), shared, shared), draws=2)
