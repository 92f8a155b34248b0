"""Maximum likelihood and the evidence lower bound."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from small_programs import Gaussian, Implicit, Latent, decoder, encoder, pair
from torch import nn

import pyrogen as pg


class Energy(Gaussian):
    density = "unnormalized"


class Loose(Gaussian):
    density = "estimate"


def test_maximum_likelihood_is_the_mean():
    module, x = encoder(data=3), torch.randn(7, 2)
    context = torch.randn(7, 3)
    assert torch.equal(pg.MaximumLikelihood(module)(x, context), -module(context).log_prob(x).mean())


@pytest.mark.parametrize(("make", "density"), [(Energy, "unnormalized"), (Implicit, "None")])
def test_maximum_likelihood_refuses_by_name(make, density):
    with pytest.raises(
        NotImplementedError, match=f"{make.__name__} has density '?{density}'?.*objective of its family"
    ):
        make().objective()


@pytest.mark.parametrize("make", [Gaussian, Loose, lambda: Latent(Gaussian(), decoder(), encoder())])
def test_maximum_likelihood_takes_densities_bounds_and_estimates(make):
    assert isinstance(make().objective(), pg.MaximumLikelihood)


class Subsampled(nn.Module):
    """Subsampling, scale, mask and a partly observed site, in model and guide."""

    def __init__(self):
        super().__init__()
        self.prior = Gaussian()
        self.likelihood = decoder()

    def forward(self, x):
        weight = pyro.sample("weight", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", len(x), subsample_size=5) as rows, pyro.poutine.scale(scale=0.7):
            z = pyro.sample("z", self.prior())
            with pyro.poutine.mask(mask=x[rows, 0] > 0):
                pyro.sample("x", self.likelihood(z), obs=x[rows])
            seen = x[rows, 1] > 0
            pyro.sample("y", dist.Normal(weight, 1.0), obs=x[rows, 1], obs_mask=seen)
        pyro.deterministic("double", 2 * weight)
        pyro.factor("penalty", -weight.square())


class SubsampledGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.posterior = encoder()
        self.loc = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        pyro.sample("weight", dist.LogNormal(self.loc, 0.5))
        with pyro.plate("rows", len(x), subsample_size=5) as rows, pyro.poutine.scale(scale=0.7):
            pyro.sample("z", self.posterior(x[rows]))
            with pyro.poutine.mask(mask=x[rows, 1] <= 0):
                pyro.sample("y_unobserved", dist.Normal(self.loc, 1.0))


def loss_and_gradients(objective, x, seed=3):
    torch.manual_seed(seed)
    pyro.set_rng_seed(seed)
    objective.zero_grad()
    loss = objective(x)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("programs", [pair, lambda: (Subsampled(), SubsampledGuide())])
@pytest.mark.parametrize("validation", [True, False])
def test_elbo_is_pyros_on_the_same_noise(programs, validation):
    model, guide = programs()
    x = torch.randn(20, 2)
    own, pyros = pg.Elbo(model, guide), Trace_ELBO()(model, guide)
    with pyro.validation_enabled(validation):
        loss, gradients = loss_and_gradients(own, x)
        expected, expected_gradients = loss_and_gradients(pyros, x)
    assert own._reparameterized is not False
    assert torch.allclose(loss, expected / 20, rtol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name in gradients:
        assert torch.allclose(gradients[name], expected_gradients[name] / 20, rtol=1e-4, atol=1e-6), name


def test_elbo_is_pyros_for_autoguides():
    model = pair()[0]
    x = torch.randn(6, 2)
    for make in (AutoNormal, AutoMultivariateNormal):
        guide = make(model)
        guide(x)
        with pyro.validation_enabled(False):
            loss, gradients = loss_and_gradients(pg.Elbo(model, guide), x)
            expected, expected_gradients = loss_and_gradients(Trace_ELBO()(model, guide), x)
        assert torch.allclose(loss, expected / 6, rtol=1e-5)
        for name in gradients:
            assert torch.allclose(gradients[name], expected_gradients[name] / 6, rtol=1e-4, atol=1e-6), name


class Discrete(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.locs = nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.locs[k], 1.0), obs=x)


class DiscreteGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(1, 2)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.network(x.unsqueeze(-1))))


def test_elbo_falls_back_where_nothing_is_reparameterized():
    x = torch.randn(10)
    own, pyros = pg.Elbo(Discrete(), DiscreteGuide()), None
    with pyro.validation_enabled(False):
        own(x)  # notices, and remembers
        assert not own._reparameterized
        pyros = Trace_ELBO()(own.model, own.guide)
        loss, gradients = loss_and_gradients(own, x)
        expected, expected_gradients = loss_and_gradients(pyros, x)
    assert torch.allclose(loss, expected / 10)
    for name in gradients:
        assert torch.allclose(gradients[name], expected_gradients[name] / 10, atol=1e-7), name


def test_the_first_call_already_has_the_score_function_gradient():
    """Against the exact gradient, by enumeration: the mean over draws, within five standard errors."""
    x = torch.randn(4)
    objective = pg.Elbo(Discrete(), DiscreteGuide())
    logits = objective.guide.network(x.unsqueeze(-1)).log_softmax(-1)
    joint = objective.model.logits.log_softmax(-1) + dist.Normal(objective.model.locs, 1.0).log_prob(x.unsqueeze(-1))
    exact = torch.autograd.grad((logits.exp() * (logits - joint)).sum(-1).mean(), list(objective.parameters()))
    draws = []
    with pyro.validation_enabled(False):
        for _ in range(1500):
            fresh = copy.copy(objective)  # every call is a first call
            fresh._reparameterized = True
            draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(fresh(x), list(objective.parameters()))]))
    draws = torch.stack(draws)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - torch.cat([g.flatten() for g in exact])).abs() < 5 * error + 1e-6).all()


class GammaModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        z = pyro.sample("z", dist.Gamma(2.0, self.rate))
        pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(1), obs=x)


class GammaGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_concentration = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        pyro.sample("z", ShapeAugmentedGamma(self.log_concentration.exp(), torch.tensor(1.0)))


def test_a_rejection_sampler_keeps_its_score_function():
    """Pyro's rejection samplers say has_rsample, and have a score function besides."""
    own = pg.Elbo(GammaModel(), GammaGuide())
    x = torch.randn(3) + 2
    with pyro.validation_enabled(False):
        own(x)
        loss, gradients = loss_and_gradients(own, x)
        expected, expected_gradients = loss_and_gradients(Trace_ELBO()(own.model, own.guide), x)
    assert torch.allclose(loss, expected / 3)
    for name in gradients:
        assert torch.allclose(gradients[name], expected_gradients[name] / 3), name


def test_elbo_bounds_the_evidence():
    """A conjugate pair: log p(x) is known, and the exact posterior closes the gap on every draw."""

    class Conjugate(nn.Module):
        def forward(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Exact(nn.Module):
        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(50)
    evidence = dist.Normal(0.0, 2**0.5).log_prob(x).mean()
    with pyro.validation_enabled(False):
        assert torch.allclose(-pg.Elbo(Conjugate(), Exact())(x), evidence, atol=1e-5)
