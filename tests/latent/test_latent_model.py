"""The VAE: its marginal against the closed form, its views, and what it refuses."""

import pyro
import pytest
import torch
from linear_gaussian import SCALE, exact_elbo, exact_log_prob, linear_vae
from numpy.polynomial.hermite_e import hermegauss
from torch import nn

import pyrogen as pg
from pyrogen.latent import VAE, BetaElbo, StandardNormal


def test_log_prob_converges_from_below_as_predicted():
    torch.manual_seed(0)
    vae = linear_vae(latents=1).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    exact = exact_log_prob(vae, x)
    posterior = vae.posterior(x)
    points, weights = map(torch.from_numpy, hermegauss(80))
    z = posterior.mean + points[:, None, None] * posterior.stddev
    log_weights = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - posterior.log_prob(z)
    variance = ((weights / weights.sum())[:, None] * (log_weights - exact).exp().square()).sum(0) - 1
    for draws in (1, 10, 100, 1000):
        vae.draws = draws
        found = torch.stack([vae().log_prob(x) for _ in range(400)]).detach()
        error = found.std(0) / 20
        gap = exact - found.mean(0)
        assert (gap > -5 * error).all()
        if draws == 1:
            assert ((found.mean(0) - exact_elbo(vae, x)).abs() < 5 * error).all()
        if draws >= 100:
            predicted = variance / (2 * draws)
            assert ((gap - predicted).abs() < 5 * error + predicted**2 * 10).all()


def test_draws_follow_the_marginal():
    torch.manual_seed(0)
    vae = linear_vae().double()
    x = vae().sample((40_000,))
    weight = vae.likelihood.network.weight
    covariance = weight @ weight.T + SCALE**2 * torch.eye(3)
    torch.testing.assert_close(x.T.cov(), covariance.detach(), atol=0.03, rtol=0.0)


def test_training_reaches_the_maximum_likelihood():
    torch.manual_seed(0)
    features, latents, rows = 5, 2, 500
    mixing = torch.randn(latents, features)
    x = torch.randn(rows, latents) @ mixing + 0.5 * torch.randn(rows, features) + 1.0
    eigenvalues = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)
    noise = eigenvalues[latents:].mean()
    logarithms = eigenvalues[:latents].log().sum() + (features - latents) * noise.log()
    best = -0.5 * (features * torch.tensor(2 * torch.pi).log() + logarithms + features)  # Tipping and Bishop 1999
    vae = linear_vae(features, latents, learned_scale=True)
    objective = BetaElbo(vae, analytic_kl=True, draws=8)
    schedule = lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)  # noqa: E731
    optimizer = lambda parameters: torch.optim.Adam(parameters, 0.1, fused=True)  # noqa: E731
    pg.fit(objective, x, steps=1500, batch_size=rows, optimizer=optimizer, schedule=schedule, seed=0)
    bound = -torch.stack([objective(x).detach() for _ in range(50)]).mean()
    assert bound <= best + 1e-3
    assert abs(bound - best) < 0.005 * abs(best)
    weight, scale = vae.likelihood.network.linear.weight, vae.likelihood.network.log_scale.exp()
    precision = torch.eye(latents) + weight.T @ weight / scale**2
    true_mean = torch.linalg.solve(precision, weight.T @ (x - vae.likelihood.network.linear.bias).T / scale**2).T
    posterior = vae.posterior(x)
    torch.testing.assert_close(posterior.mean, true_mean, atol=0.05, rtol=0.0)
    torch.testing.assert_close(posterior.variance.mean(0), precision.inverse().diagonal(), rtol=0.1, atol=0.0)


def parametric(event, context, network=None, family=pg.families.diagonal_normal):
    if network is None:
        size = sum(context.values()) if isinstance(context, dict) else context
        network = Joined(nn.Linear(size, family.size * event), isinstance(context, dict))
    return pg.Parametric(network, family, event_shape=event, context_shape=context)


class Joined(nn.Module):
    def __init__(self, network, several):
        super().__init__()
        self.network, self.several = network, several

    def forward(self, x):
        return self.network(torch.cat(list(x.values()), -1) if self.several else x)


BOTH = {"x": 3, "context": 4}
CONDITIONAL = {
    "both": lambda: (StandardNormal((2,)), parametric(3, {"z": 2, "context": 4}), parametric(2, BOTH)),
    "prior": lambda: (parametric(2, 4), parametric(3, 2), parametric(2, 3)),
    "keys": lambda: (parametric(2, {"a": 1, "b": 2}), parametric(3, {"z": 2, "b": 2}), parametric(2, {"a": 1, "x": 3})),
}


def context_of(name, rows=5):
    return {"a": torch.randn(rows, 1), "b": torch.randn(rows, 2)} if name == "keys" else torch.randn(rows, 4)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_contexts_go_where_they_are_asked_for(name):
    torch.manual_seed(0)
    vae, context = VAE(*CONDITIONAL[name]()), context_of(name)
    assert vae.context_shape == ({"a": (1,), "b": (2,)} if name == "keys" else (4,))
    x = vae(context).sample()
    assert x.shape == (5, 3)
    assert vae(context).log_prob(x).shape == (5,)
    pyro.set_rng_seed(1)
    ours = BetaElbo(vae)(x, context)
    pyro.set_rng_seed(1)
    theirs = pyro.infer.Trace_ELBO()(vae.model, vae.guide)(x, context)
    torch.testing.assert_close(ours, theirs / 5)


def test_frozen_noise():
    torch.manual_seed(0)
    vae = linear_vae(noise_seed=3, draws=10)
    x = torch.randn(4, 3)
    together = vae().log_prob(x)
    torch.testing.assert_close(together, vae().log_prob(x))
    torch.testing.assert_close(together, torch.stack([vae().log_prob(row) for row in x]))
    state = torch.get_rng_state()
    vae().log_prob(x)
    assert torch.equal(state, torch.get_rng_state())


def test_fresh_noise_is_each_rows_own():
    torch.manual_seed(0)
    vae = linear_vae(draws=1)
    found = vae().log_prob(torch.zeros(6, 3))
    assert len(found.unique()) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, l, q: (p, l, linear_vae()), "`posterior` must take"),
        (lambda p, l, q: (p, parametric(3, 1), q), r'`likelihood` must take "z" of shape \(2,\)'),
        (lambda p, l, q: (p, l, parametric(1, 3)), r"`posterior` must have event shape \(2,\)"),
        (lambda p, l, q: (p, l, parametric(2, 4)), r'`posterior` must take "x" of shape \(3,\)'),
        (lambda p, l, q: (p, StandardNormal((3,)), q), '`likelihood` must take the entry "z"'),
        (
            lambda p, l, q: (parametric(2, 4), parametric(3, {"z": 2, "context": 5}), q),
            "`likelihood` must take 'context'",
        ),
        (lambda p, l, q: (nn.Linear(2, 2), l, q), "`prior` must be a DistributionModule"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    parts = StandardNormal((2,)), parametric(3, 2), parametric(2, 3)
    with pytest.raises(ValueError, match=message):
        VAE(*change(*parts))


@pytest.mark.parametrize("density", ["lower bound", "unnormalized", None])
def test_a_posterior_without_a_density_of_its_own_is_refused(density):
    parts = StandardNormal((2,)), parametric(3, 2), parametric(2, 3)
    parts[2].density = density
    with pytest.raises(ValueError, match="`posterior` must have density 'exact' or 'estimate'"):
        VAE(*parts, draws=1)


def test_noisy_importance_weights_are_refused():
    for noisy in range(3):
        parts = StandardNormal((2,)), parametric(3, 2), parametric(2, 3)
        parts[noisy].density = "estimate"
        assert VAE(*parts, draws=1).draws == 1
        with pytest.raises(ValueError, match="`draws` must be 1 for a .* of density 'estimate': a noisy log_prob"):
            VAE(*parts, draws=2)


@pytest.mark.parametrize("name", ["x", "z", "context", "class"])
def test_recipes_refuse_entries_named_like_their_own(name):
    with pytest.raises(ValueError, match=rf"`context_shape` must name entries otherwise .* got \['{name}'\]"):
        pg.latent.mixture_vae((3,), {name: ()}, classes=2, latent_shape=2)
