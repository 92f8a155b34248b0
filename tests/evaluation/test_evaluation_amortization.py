"""Amortization gaps in a linear-Gaussian model, where every bound has a closed form."""

from functools import partial
from math import sqrt

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrogen.evaluation import amortization_gap

LOADINGS = torch.tensor([[1.0, 0.9], [-0.5, -0.8], [0.2, -0.3]])
NOISE = 0.5
PRECISION = torch.eye(2) + LOADINGS.T @ LOADINGS / NOISE**2
MARGINAL = dist.MultivariateNormal(torch.zeros(3), LOADINGS @ LOADINGS.T + NOISE**2 * torch.eye(3))


def model(x=None, size=None, positive=False):
    with pyro.plate("data", size if x is None else len(x)):
        kind = dist.LogNormal if positive else dist.Normal
        z = pyro.sample("z", kind(torch.zeros(2), 1.0).to_event(1))
        z = z.log() if positive else z
        return pyro.sample("x", dist.Normal(z @ LOADINGS.T, NOISE).to_event(1), obs=x)


def guide(x, offset=0.0, factor=1.0, positive=False):
    """Independent normals; the best of them for offset 0 and factor 1."""
    with pyro.plate("data", len(x)):
        location = x @ LOADINGS @ torch.linalg.inv(PRECISION) / NOISE**2 + offset
        scale = factor * PRECISION.diagonal().rsqrt().expand(len(x), 2)
        pyro.sample("z", (dist.LogNormal if positive else dist.Normal)(location, scale).to_event(1))


def divergence(offset, factor):
    """KL from the guide to the posterior, in nats."""
    posterior = dist.MultivariateNormal(torch.zeros(2), precision_matrix=PRECISION)
    approximate = dist.MultivariateNormal(torch.full((2,), offset), (factor**2 / PRECISION.diagonal()).diag())
    return float(torch.distributions.kl_divergence(approximate, posterior))


@pytest.fixture
def x():
    pyro.set_rng_seed(0)
    return model(size=60)


@pytest.mark.parametrize("positive", [False, True])
def test_both_gaps_are_the_closed_forms(x, positive):
    offset, factor, draws = 0.4, 1.5, 2000
    options = {"positive": positive}
    gap = amortization_gap(
        partial(model, **options),
        partial(guide, offset=offset, factor=factor, **options),
        x,
        evaluation_draws=draws,
        batch_size=120_000,
    )
    best = divergence(0.0, 1.0)
    # Weights of log-variance v leave an error of sqrt(v / draws) for a datum, and 60 data average it.
    error = 4 * 2.0 / sqrt(draws * len(x))
    assert gap.amortization.value == pytest.approx(divergence(offset, factor) - best, abs=error + 0.01)
    assert gap.approximation.value == pytest.approx(best, abs=error + 0.01)
    exact = MARGINAL.log_prob(x).double()
    torch.testing.assert_close(gap.weighted.mean(), exact.mean(), atol=error + 0.01, rtol=0)
    assert "amortization gap" in str(gap)


def test_the_best_guide_has_no_amortization_gap(x):
    gap = amortization_gap(model, guide, x, steps=100)
    assert abs(gap.amortization.value) < 0.02
    assert gap.approximation.value == pytest.approx(divergence(0.0, 1.0), abs=0.1)
    assert divergence(0.0, 1.0) > 0.4


def test_a_datum_alone_and_among_others_is_refined_alike(x):
    far = partial(guide, offset=1.0)
    whole = amortization_gap(model, far, x, batch_size=120_000)
    blocks = amortization_gap(model, far, x, batch_size=320)
    torch.testing.assert_close(whole.refined, blocks.refined, atol=0.3, rtol=0)
    torch.testing.assert_close(whole.refined.mean(), blocks.refined.mean(), atol=0.05, rtol=0)


def test_parameters_stay_as_they_were(x):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.linear(x), 1.0).to_event(1))

    encoder = Encoder().train()
    before = [parameter.clone() for parameter in encoder.parameters()]
    gap = amortization_gap(model, encoder, x, steps=20, draws=2)
    assert gap.amortization.value > 0
    assert encoder.training
    for parameter, old in zip(encoder.parameters(), before, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, old)


def test_discrete_latents_are_refused_by_name(x):
    def classes(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k[:, None].expand(-1, 3), 1.0).to_event(1), obs=x)

    def guess(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="discrete site 'k'"):
        amortization_gap(classes, guess, x)


@pytest.mark.parametrize("name", ["steps", "draws", "evaluation_draws"])
def test_numbers_must_be_positive(x, name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        amortization_gap(model, guide, x, **{name: 0})


def test_no_data_are_refused():
    with pytest.raises(ValueError, match="at least one datum"):
        amortization_gap(model, guide, torch.zeros(0, 3))
