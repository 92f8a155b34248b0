"""Energies in Pyro programs: as prior, as likelihood, under chains and bounds."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import Adam
from small_energies import gaussian
from torch import nn

import pyrogen as pg
from pyrogen import energy
from pyrogen.energy import TwoPhases

NOISE = 0.5


class Widths(nn.Module):
    """The energy of a normal whose log-precision is the context."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x, context):
        return 0.5 * (context.squeeze(-1) + self.shift).exp() * x.square().sum(-1)


def test_the_gradient_of_a_normalizer_is_that_of_draws():
    torch.manual_seed(0)
    module = energy.Energy(Widths(), (1,), (1,), chains=energy.FreshChains(energy.AdjustedLangevin(), steps=40))
    context = torch.full((20_000, 1), 0.7, requires_grad=True)
    distribution = TwoPhases(module(context))
    value = torch.zeros(20_000, 1)
    score = distribution.log_prob(value)
    assert torch.equal(score, module(context).log_prob(value))  # the value is the same
    of_context, of_shift = torch.autograd.grad(score.sum(), [context, module.network.shift])
    # log p(x | c) = -exp(c) x^2 / 2 + c / 2 + constant
    assert of_context.mean().item() == pytest.approx(0.5, abs=0.03)
    assert of_shift.item() / 20_000 == pytest.approx(0.5, abs=0.03)


class Latent(nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)


class Posterior(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain, self.log_scale = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.gain * x, self.log_scale.exp()).to_event(1))


@pytest.mark.slow
def test_an_energy_is_learned_as_the_prior_of_latents():
    """Without its second phase it would go to a precision of zero."""
    torch.manual_seed(0)
    x = 1.5 * torch.randn(3000, 2)
    chains = energy.PersistentChains(energy.AdjustedLangevin(), size=256, steps=5)
    prior = gaussian(2, 1.0, chains=chains)
    posterior = Posterior()
    objective = energy.EnergyElbo(Latent(prior), posterior)
    pg.fit(objective, x, steps=600, optimizer=partial(torch.optim.Adam, lr=0.02), ema=0.98, seed=0)
    variance = x.square().mean().item() - NOISE**2
    assert prior.network.precision == pytest.approx(1 / variance, rel=0.1)
    assert posterior.gain.item() == pytest.approx(variance / (variance + NOISE**2), rel=0.05)
    assert chains.buffer["begun"].any()


def test_an_elbo_refuses_an_energy_and_names_the_way_out():
    x = torch.randn(5, 2)
    with pytest.raises(NotImplementedError, match="EnergyElbo"):
        pg.Elbo(Latent(gaussian(2)), Posterior())(x)
    encoder = pg.Parametric(nn.Linear(2, 4), pg.families.diagonal_normal, event_shape=(2,), context_shape=(2,))
    with pytest.raises(ValueError, match="EnergyElbo"):
        pg.latent.VAE(gaussian(2), encoder, encoder)


def test_an_energy_is_a_prior_under_a_measurement():
    module = gaussian(2, 4.0)
    module.requires_grad_(False)

    def program(y):
        x = pyro.sample("x", module())
        pyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=y)

    pyro.set_rng_seed(0)
    y = torch.tensor([1.0, -0.5])
    chain = MCMC(NUTS(program), num_samples=300, warmup_steps=100, disable_progbar=True)
    chain.run(y)
    draws, precision = chain.get_samples()["x"], 4.0 + NOISE**-2
    assert torch.allclose(draws.mean(0), y * NOISE**-2 / precision, atol=5 * (precision * 100) ** -0.5)


def test_many_chains_draw_a_posterior_under_an_energy():
    module = gaussian(2, 4.0).requires_grad_(False)
    y = torch.tensor([1.0, -0.5])

    def program(y):
        pyro.sample("y", dist.Normal(pyro.sample("x", module()), NOISE).to_event(1), obs=y)

    pyro.set_rng_seed(0)
    found = pg.inverse.ManyChains(program, chains=32, draws=50, warmup=50).run(y)
    draws, precision = found.get_samples()["x"].reshape(-1, 2), 4.0 + NOISE**-2
    assert torch.allclose(draws.mean(0), y * NOISE**-2 / precision, atol=5 * (precision * 200) ** -0.5)
    assert draws.var(0).mean().item() == pytest.approx(1 / precision, rel=0.15)


def test_a_chain_refuses_a_normalizer_that_depends_on_what_it_samples():
    module = energy.Energy(Widths(), (1,), (1,)).requires_grad_(False)

    def program():
        context = pyro.sample("c", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", module(context), obs=torch.zeros(1))

    with pytest.raises(NotImplementedError, match="normalizer"):
        MCMC(NUTS(program), num_samples=2, warmup_steps=2, disable_progbar=True).run()


def test_an_elbo_of_pyro_refuses_an_energy_that_it_would_train():
    x, pair = torch.randn(5, 2), (Latent(gaussian(2)), Posterior())
    step = SVI(*pair, Adam({"lr": 0.01}), Trace_ELBO()).step
    with pytest.raises(NotImplementedError, match="EnergyElbo"):
        step(x)
    with pytest.raises(NotImplementedError, match="EnergyElbo"):
        pg.fit(Trace_ELBO()(*pair), x, steps=1)
    pair[0].prior.requires_grad_(False)  # and then the normalizer is a constant
    assert step(x) > 0


class OneOfTwo(nn.Module):
    """An energy whose width depends on a label, of which there are two."""

    def __init__(self):
        super().__init__()
        self.x = energy.Energy(Widths(), (1,), (1,)).requires_grad_(False)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            label = pyro.sample("label", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", self.x(label.unsqueeze(-1)), obs=x)


class Label(nn.Module):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("label", dist.Bernoulli(logits=self.logit))


class NoGuide(nn.Module):
    def forward(self, x):
        return None


def test_labels_of_an_energy_are_not_summed_out():
    """Its normalizer is another one for each label."""
    enumerated = TraceEnum_ELBO(max_plate_nesting=1)
    with pytest.raises(NotImplementedError, match="normalizer of Energy depends on its context"):
        enumerated.loss(OneOfTwo(), NoGuide(), torch.zeros(3, 1))


def test_the_value_of_a_bound_without_normalizers_gives_no_gradient():
    with pytest.raises(NotImplementedError, match=r"energy at 'x' depends on the sites \['label'\]"):
        energy.EnergyElbo(OneOfTwo(), Label())(torch.zeros(3, 1))


def test_an_energy_is_no_guide():
    class EnergyGuide(Posterior):
        def __init__(self):
            super().__init__()
            self.posterior = gaussian(2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.posterior())

    with pytest.raises(NotImplementedError, match="'z' of `guide`"):
        energy.EnergyElbo(Latent(gaussian(2)), EnergyGuide())(torch.zeros(3, 2))


class Quadratic(nn.Module):
    """The logits of classes that are normals of variance one around known centres."""

    def __init__(self, centres):
        super().__init__()
        self.centres = nn.Parameter(centres)

    def forward(self, x):
        return -0.5 * (x.unsqueeze(-2) - self.centres).square().sum(-1)


def test_a_classifier_is_three_distributions():
    torch.manual_seed(0)
    centres = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    joint = energy.JointEnergy(Quadratic(centres), (2,), classes=3)
    x = torch.randn(7, 2)
    parts = dist.Normal(centres, 1.0).to_event(1)
    each = parts.log_prob(x.unsqueeze(1))
    assert torch.allclose(joint.label(x).probs, each.softmax(-1), atol=1e-5)
    difference = joint.marginal().log_prob(x) - each.logsumexp(-1)
    assert torch.allclose(difference, torch.full((7,), math.log(2 * math.pi)), atol=1e-4)
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 2])
    given = joint.conditional(labels).log_prob(x) - each.gather(1, labels.unsqueeze(1)).squeeze(1)
    assert torch.allclose(given, torch.full((7,), math.log(2 * math.pi)), atol=1e-4)
    draws = joint.conditional(torch.arange(3).repeat(500)).sample().reshape(500, 3, 2)
    assert torch.allclose(draws.mean(0), centres, atol=0.25)


@pytest.mark.slow
def test_a_joint_energy_learns_classes_and_inputs():
    torch.manual_seed(0)
    centres = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    labels = torch.randint(3, (3000,))
    x = centres[labels] + torch.randn(3000, 2)
    chains = energy.FreshChains(energy.AdjustedLangevin(), steps=50)
    joint = energy.JointEnergy(Quadratic(torch.randn(3, 2)), (2,), classes=3, chains=chains)
    pg.fit(joint.objective(), (x, labels), steps=500, lr=0.03, ema=0.98, seed=0)
    learned = joint.marginal.network.classifier.centres
    assert torch.allclose(learned, centres, atol=0.3)


def test_chains_that_do_not_meet_are_reported():
    class Far(nn.Module):
        def forward(self, x):
            square = (x.abs() - 12).square().sum(-1)
            return 0.5 * square

    torch.manual_seed(0)
    module = energy.Energy(Far(), (1,), chains=energy.FreshChains(energy.AdjustedLangevin(), steps=60))
    assert not energy.mixing(module, chains=32).mixed
    with pytest.warns(UserWarning, match="accepted"):
        stuck = energy.mixing(gaussian(1, 1e12), chains=8, draws=10)
    assert str(stuck).startswith("R-hat inf,")
    found = energy.mixing(gaussian(2), chains=32)
    assert found.mixed
    assert found.effective_sample_size > 300
    assert "R-hat" in str(found)
