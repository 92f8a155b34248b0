"""What each density may be used for: the table of docs/start/concepts.md, cell by cell, on small modules."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from torch import nn
from torch.distributions import constraints

import pyrogen as pg
from pyrogen.distributions import PyrogenDistribution
from pyrogen.transforms import TransformedDistribution

DENSITIES = ("exact", "estimate", "lower bound", "unnormalized", None)
NORMAL = dist.Normal(torch.zeros(2), 1.0).to_event(1)


class Draws(PyrogenDistribution):
    """Normal draws without a ``log_prob``."""

    density = None
    has_rsample = True
    support = constraints.independent(constraints.real, 1)

    def __init__(self, batch_shape=(), validate_args=None):
        super().__init__(torch.Size(batch_shape), torch.Size((2,)), validate_args=validate_args)

    def _expanded(self, batch_shape):
        return Draws(batch_shape)

    def rsample(self, sample_shape=()):
        return torch.randn(self._extended_shape(torch.Size(sample_shape)))


class Declared(pg.DistributionModule):
    """A normal distribution that says it is something else."""

    def __init__(self, density, context_shape=None):
        super().__init__((2,), context_shape)
        self.density = density
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, context=None):
        batch = () if context is None else context.shape[:-1]
        return Draws(batch) if self.density is None else (dist.Normal(self.loc, 1.0).to_event(1).expand(batch))


class Model(nn.Module):
    def __init__(self, prior, likelihood=None):
        super().__init__()
        self.prior, self.likelihood = prior, likelihood

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            noise = dist.Normal(z, 1.0).to_event(1) if self.likelihood is None else self.likelihood(z)
            pyro.sample("x", noise, obs=x)


class Guide(nn.Module):
    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


X = torch.zeros(3, 2)
EXACT = Declared("exact", (2,))


def in_the_model(objective):
    return lambda density: objective(Model(Declared(density)), Guide(EXACT))(X)


def in_the_guide(objective):
    return lambda density: objective(Model(Declared("exact")), Guide(Declared(density, (2,))))(X)


def observed(objective):
    return lambda density: objective(Model(Declared("exact"), Declared(density, (2,))), Guide(EXACT))(X)


def marginal(model, guide):
    """The log_prob of a marginal, as an objective."""
    module = pg.latent.Marginal(model, guide, event_shape=(2,), draws=1)
    return lambda x: module().log_prob(x)


def weighted(draws):
    return lambda model, guide: pg.latent.ImportanceWeightedPair(model, guide, draws=draws)


def importance(model, guide):
    return lambda x: pg.evaluation.importance_log_weights(model, guide, x, draws=25)


def chain(density):
    def program():
        pyro.sample("y", dist.Normal(pyro.sample("z", Declared(density)()), 1.0).to_event(1), obs=torch.zeros(2))

    MCMC(NUTS(program), num_samples=2, warmup_steps=2, disable_progbar=True).run()


def chain_over_parents(density):
    likelihood = Declared(density, (2,))

    def program():
        pyro.sample("x", likelihood(pyro.sample("z", NORMAL)), obs=torch.zeros(2))

    MCMC(NUTS(program), num_samples=2, warmup_steps=2, disable_progbar=True).run()


def unpushed(density):
    """What no map of normal noise gives, of any density."""
    distribution = dist.Laplace(torch.zeros(2), 1.0).to_event(1)
    return Draws() if density is None else pg.core.density.stamped(distribution, density)


def chain_in_noise(density, prior):
    def program():
        pyro.sample("y", dist.Normal(pyro.sample("z", prior(density)), 1.0).to_event(1), obs=torch.zeros(2))

    MCMC(NUTS(pg.inverse.in_noise(program, site="z")), num_samples=2, warmup_steps=2, disable_progbar=True).run()


def pushed(density):
    """A map of noise whose density is anything."""
    distribution = TransformedDistribution(NORMAL, [dist.transforms.AffineTransform(0.0, 2.0, event_dim=1)])
    return pg.core.density.stamped(distribution, density)


def vae(prior="exact", posterior="exact", likelihood="exact"):
    parts = Declared(prior), Declared(likelihood, (2,)), Declared(posterior, (2,))
    return pg.latent.VAE(*parts, draws=1)


def information(codes="exact", recognition="exact"):
    generator, critic = pg.implicit.mlp((2,), (2,), noise=(1,), hidden=(4,)), pg.implicit.mlp_critic((2,), hidden=(4,))
    return pg.implicit.Information(generator, Declared(codes), Declared(recognition, (2,)), critic).bound(draws=5)


ALL = DENSITIES
NORMALIZED = ("exact", "estimate", "lower bound")
UNBIASED = ("exact", "estimate")
SCORED = (*NORMALIZED, "unnormalized")

USES = {
    "draws at a site": (lambda d: poutine.trace(lambda: pyro.sample("x", Declared(d)())).get_trace(), ALL),
    "Predictive": (lambda d: Predictive(Declared(d).model, num_samples=2)(), ALL),
    "log_probs": (lambda d: pg.evaluation.log_probs(Declared(d), X), SCORED),
    "log_likelihood": (lambda d: pg.evaluation.log_likelihood(Declared(d), X), NORMALIZED),
    "bits_per_dimension": (lambda d: pg.evaluation.bits_per_dimension(Declared(d), X, log_volume=0.0), NORMALIZED),
    "MaximumLikelihood": (lambda d: pg.MaximumLikelihood(Declared(d)), NORMALIZED),
    "the default objective": (lambda d: Declared(d).objective(), NORMALIZED),
    "guide": (lambda d: Declared(d).guide, NORMALIZED),
    "Elbo, model": (in_the_model(pg.Elbo), NORMALIZED),
    "Elbo, observed": (observed(pg.Elbo), NORMALIZED),
    "Elbo, guide": (in_the_guide(pg.Elbo), UNBIASED),
    "one weight, model": (in_the_model(weighted(1)), NORMALIZED),
    "one weight, guide": (in_the_guide(weighted(1)), UNBIASED),
    "averaged weights, model": (in_the_model(weighted(3)), ("exact",)),
    "averaged weights, observed": (observed(weighted(3)), ("exact",)),
    "averaged weights, guide": (in_the_guide(weighted(3)), ("exact",)),
    "importance weights, model": (in_the_model(importance), UNBIASED),
    "importance weights, guide": (in_the_guide(importance), UNBIASED),
    "Marginal, model": (in_the_model(marginal), NORMALIZED),
    "Marginal, observed": (observed(marginal), NORMALIZED),
    "Marginal, guide": (in_the_guide(marginal), UNBIASED),
    "VAE, prior": (lambda d: vae(prior=d), NORMALIZED),
    "VAE, likelihood": (lambda d: vae(likelihood=d), NORMALIZED),
    "VAE, posterior": (lambda d: vae(posterior=d), UNBIASED),
    "Information, recognition": (lambda d: information(recognition=d), NORMALIZED),
    "Information, codes": (lambda d: information(codes=d), UNBIASED),
    "NUTS": (chain, SCORED),
    "NUTS, observed": (chain_over_parents, SCORED),
    "NUTS in noise, no push-forward": (lambda d: chain_in_noise(d, unpushed), ("exact", "estimate", "unnormalized")),
    "NUTS in noise, push-forward": (lambda d: chain_in_noise(d, pushed), ALL),
}


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("use", USES)
def test_a_use_takes_the_densities_that_have_a_meaning_in_it(use, density):
    run, allowed = USES[use]
    if density in allowed:
        run(density)
        return
    with pytest.raises((NotImplementedError, ValueError), match=f"density.*'?{density}'?"):
        run(density)
