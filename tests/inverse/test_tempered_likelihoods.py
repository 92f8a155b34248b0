"""Tempered SMC under likelihoods that are not linear and Gaussian, against quadrature; plates hold independent runs."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import mixture, quadrature

from pyrogen.inverse import SplitGibbs, TemperedSMC

OPERATOR = torch.tensor([[1.0, 0.5], [0.3, -1.0], [0.5, 0.5]])
DENSITY, PRIOR = mixture([0.6, 0.4], [[-1.0, 0.0], [1.5, 1.0]], 0.6)


def seen(x):
    return x @ OPERATOR.T.to(x)


class Quantized(dist.TorchDistribution):
    """A Normal rounded to halves: what instruments with few digits show."""

    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.real

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Quantized(self.loc.expand(batch_shape), self.scale)

    def sample(self, sample_shape=()):
        noise = self.scale * torch.randn(*sample_shape, *self.loc.shape)
        return 0.5 * torch.round(2 * (self.loc + noise))

    def log_prob(self, value):
        above, below = ((value + side - self.loc) / self.scale for side in (0.25, -0.25))
        mass = 0.5 * (torch.erf(above / math.sqrt(2)) - torch.erf(below / math.sqrt(2)))
        return mass.clamp_min(1e-30).log()


LIKELIHOODS = {
    "counts": (lambda x: dist.Poisson((seen(x) + 1).exp()), [5.0, 1.0, 7.0]),
    "outliers": (lambda x: dist.StudentT(2.0, seen(x), 0.2), [1.0, -0.5, 6.0]),
    "saturation": (lambda x: dist.Normal(seen(x).clamp(-0.5, 1.0), 0.1), [1.05, -0.45, 0.6]),
    "rounded": (lambda x: Quantized(seen(x), 0.2), [1.0, -0.5, 0.5]),
    "kinks": (lambda x: dist.Laplace(seen(x), 0.1), [1.0, -0.5, 0.6]),
    "squares": (lambda x: dist.Normal(seen(x).square(), 0.2), [1.0, 0.5, 0.6]),
}
QUICK = ("counts", "outliers", "rounded")


def unlikely(found, exact):
    """How many standard errors the mean of independent runs is away, at most."""
    return ((found.mean(0) - exact).abs() / (found.std(0) / len(found) ** 0.5)).max().item()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LIKELIHOODS])
def test_evidence_and_posterior_by_quadrature(name):
    likelihood, y = LIKELIHOODS[name]
    y, runs = torch.tensor(y), 60 if name in QUICK else 200
    evidence, mean, covariance = quadrature(
        lambda x: DENSITY.log_prob(x.float()).double() + likelihood(x).log_prob(y.double()).sum(-1), 2, limit=6.0
    )

    def model(y):
        with pyro.plate("runs", runs):
            x = pyro.sample("x", PRIOR())
            pyro.sample("y", likelihood(x).to_event(1), obs=y.expand(runs, -1))

    answer = TemperedSMC(model, site="x", particles=64).run(y)
    ratio = (answer.log_evidence.double() - evidence).exp()
    assert ratio.std() / runs**0.5 < 0.06
    assert unlikely(ratio, 1.0) < 4
    x = answer.get_samples()["x"].double().transpose(0, 1)
    weights = (ratio / ratio.mean())[:, None]  # exact means are of the measure that the evidence weighs
    assert unlikely(weights * (x.mean(1) - mean), 0.0) < 4
    assert unlikely(weights * ((x - mean).square().mean(1) - covariance.diagonal()), 0.0) < 4


def test_chains_of_split_gibbs_under_counts():
    likelihood, y = LIKELIHOODS["counts"]
    y = torch.tensor(y)
    _, mean, covariance = quadrature(
        lambda x: DENSITY.log_prob(x.float()).double() + likelihood(x).log_prob(y.double()).sum(-1), 2, limit=6.0
    )

    def model(y):
        pyro.sample("y", likelihood(pyro.sample("x", PRIOR())).to_event(1), obs=y)

    answer = SplitGibbs(model, site="x", chains=64, draws=50, warmup=10).run(y)
    x = answer.get_samples()["x"].double()
    worth = answer.diagnostics().effective_sample_size["x"].flatten()
    assert ((x.mean(0) - mean).abs() / covariance.diagonal().sqrt() < 5 / worth.sqrt()).all()
    assert 0.2 < answer.diagnostics().acceptance < 1.0


def test_data_that_most_draws_of_the_prior_make_impossible():
    """The likelihood is zero for 15 of 16 of them, and no width helps; nor is it seen as linear, for want of slopes."""
    _, prior = mixture([1.0], [[0.0, 0.0]], 1.0)
    bound = dist.Normal(0.0, 1.0).icdf(torch.tensor(1 - 1 / 16)).item()

    def model(y):
        with pyro.plate("runs", 20):
            x = pyro.sample("x", prior())
            pyro.factor("above", torch.where(x[..., 0] > bound, 0.0, -math.inf))
            pyro.sample("y", dist.Normal(x[..., 1], 0.5), obs=y.expand(20))

    y = torch.tensor(0.3)
    exact = dist.Normal(0.0, math.hypot(1.0, 0.5)).log_prob(y) - math.log(16)
    ratio = (TemperedSMC(model, site="x", particles=256).run(y).log_evidence - exact).exp()
    assert unlikely(ratio, 1.0) < 4


def test_impossible_data_are_refused():
    def model(y):
        x = pyro.sample("x", PRIOR())
        pyro.factor("far", torch.where(x[0] > 100, 0.0, -math.inf))
        pyro.sample("y", dist.Normal(x[1], 0.5), obs=y)

    with pytest.raises(RuntimeError, match="no draw of the prior makes the data possible"):
        TemperedSMC(model, site="x", particles=16).run(torch.tensor(0.3))
