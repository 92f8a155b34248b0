"""Truncated proposals: the law of the truncated prior, and rounds for one observed datum."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import ks_2samp

import pyrogen as pg
from pyrogen.simulation import Joint, posterior
from pyrogen.simulation.joint.prior import log_prior
from pyrogen.simulation.truncated import TruncatedPrior

SMALL = partial(pg.flows.affine_autoregressive, hidden=(16, 16), layers=2)


def bounded(x=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
    pyro.sample("x", dist.Normal(mu, 0.3 * scale[..., None] + 0.1).to_event(1), obs=x)


def wide(x=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 30.0).expand([2]).to_event(1))
    pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)


def learned_of(program, steps=150, simulations=2000):
    joint = Joint(program, observed="x")
    torch.manual_seed(0)
    learned = posterior(joint, SMALL)
    pg.fit(learned, joint.draw(simulations, seed=0), steps=steps, batch_size=128)
    return learned


def test_the_density_of_the_prior_is_that_of_its_sites():
    joint = Joint(bounded, observed="x")
    draws = joint.prior(20, seed=0)
    expected = dist.Normal(0.0, 1.0).log_prob(draws["mu"]).sum(-1) + dist.Gamma(2.0, 1.0).log_prob(draws["scale"])
    torch.testing.assert_close(log_prior(joint, draws), expected)
    torch.testing.assert_close(log_prior(Joint(bounded, observed="x", vectorized=False), draws), expected)


def test_draws_have_the_law_of_the_truncated_prior_either_way():
    learned, x = learned_of(bounded), torch.tensor([0.5, -0.5])
    region = learned.truncated(x, 0.3)
    assert region.method == "rejection"
    assert 0.01 < region.acceptance < 0.9
    kept = region.draw(3000, seed=0)
    assert region.contains(kept).all()
    prior = learned.joint.prior(40_000, seed=1)
    inside = {name: value[region.contains(prior)] for name, value in prior.items()}
    again = TruncatedPrior(learned, x, region.threshold, least_acceptance=1.0)
    assert again.method == "resampling"
    resampled = again.draw(3000, seed=2)
    assert again.contains(resampled).all()
    for draws in (kept, resampled):
        for name in ("mu", "scale"):
            for ours, theirs in zip(
                draws[name].reshape(3000, -1).T, inside[name].reshape(-1, draws[name][0].numel()).T, strict=True
            ):
                assert ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3


def test_the_threshold_cuts_off_the_share_that_is_asked_for():
    learned, x = learned_of(bounded, 20), torch.tensor([0.5, -0.5])
    region = learned.truncated(x, 0.1)
    with torch.no_grad():
        inside = region.contains(learned.sites(learned(x).sample((5000,)))).double().mean()
    assert abs(inside - 0.9) < 4 * (0.09 / 5000) ** 0.5 + 0.01


@pytest.mark.slow
def test_rounds_reach_the_exact_posterior_with_fewer_simulations():
    """A prior thirty times as wide as the likelihood: three rounds of 500 beat one of 3,000 at the observed datum."""
    joint, x = Joint(wide, observed="x"), torch.tensor([12.0, -7.0])
    exact = dist.Normal(x * 900 / 901, (900 / 901) ** 0.5).to_event(1)

    def divergence(learned):
        with torch.no_grad():
            draws = exact.sample((4000,))
            return (exact.log_prob(draws) - learned(x).log_prob(draws)).mean()

    def trained(simulations):
        torch.manual_seed(0)
        learned = posterior(joint, SMALL)
        pg.fit(learned, simulations, steps=600, batch_size=128)
        return learned

    simulations = joint.draw(500, seed=0)
    learned = trained(simulations)
    for seed in (1, 2):
        simulations = joint.simulate(learned.truncated(x).draw(500, seed=seed), seed=seed)
        learned = trained(simulations)
    one = trained(joint.draw(3000, seed=0))
    assert divergence(learned) < 0.15
    assert divergence(learned) < divergence(one) / 2


def test_bounds_have_no_region():
    learned = posterior(Joint(bounded, observed="x"), partial(pg.diffusion.mlp, width=16, depth=1))
    with pytest.raises(NotImplementedError, match="'lower bound'"):
        learned.truncated(torch.zeros(2))


def test_a_region_that_no_draw_of_the_prior_lies_in_is_resampled():
    learned = learned_of(bounded, 2, 100)
    assert TruncatedPrior(learned, torch.zeros(2), 1e6, least_acceptance=0.0).method == "resampling"


def test_bad_input():
    learned = learned_of(bounded, 2, 100)
    with pytest.raises(ValueError, match="`x_observed` must be one datum"):
        learned.truncated(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`quantile` must be between 0 and 1, got 2"):
        learned.truncated(torch.zeros(2), 2.0)

    def program(x=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        mu = pyro.sample("mu", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    joint = Joint(program, observed="x", nuisance="mean")
    with pytest.raises(NotImplementedError, match=r"'mu' depends on the nuisance sites \['mean'\]"):
        TruncatedPrior(posterior(joint, SMALL), torch.tensor(0.0), 100.0, least_acceptance=0.01)
