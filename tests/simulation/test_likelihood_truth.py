"""Learned likelihoods against exact ones."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

import pyrogen as pg
from pyrogen.simulation import Joint, likelihood


def fitted(module, simulations, steps=500, batch_size=256, rate=3e-3):
    torch.manual_seed(0)
    pg.fit(
        module,
        simulations,
        steps=steps,
        batch_size=batch_size,
        seed=0,
        optimizer=lambda parameters: torch.optim.Adam(parameters, rate),
        schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
    )
    return module.eval()


@torch.no_grad()
def divergence(module, exact, joint):
    """The mean difference of exact and learned log-probabilities over new simulations, in nats per row."""
    latents, observed = joint.draw(1000, seed=99).entries
    rows = module.row.pairs(latents, observed)
    found = module(module.row.packed(rows.context)).log_prob(rows.x)
    return (exact(rows.context).log_prob(rows.x) - found).mean().item()


def test_normal_data_in_units_of_thousands():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", dist.Normal(1000 * theta.sin() + 5000, 300.0), obs=x)

    joint = Joint(program, observed="x")
    module = fitted(likelihood(joint), joint.draw(4000, seed=0), steps=400, batch_size=128)
    assert abs(divergence(module, lambda c: dist.Normal(1000 * c["theta"].sin() + 5000, 300.0), joint)) < 0.03


@pytest.mark.slow
def test_positive_rows_of_two_numbers():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", dist.LogNormal(theta, 0.5).expand([4, 2]).to_event(1), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    module = fitted(likelihood(joint), joint.draw(1000, seed=0), steps=300)

    def exact(context):
        return dist.LogNormal(context["theta"].unsqueeze(-1), 0.5 * torch.ones(2)).to_event(1)

    assert abs(divergence(module, exact, joint)) < 0.06
    assert (module(torch.zeros(())).sample((1000,)) > 0).all()


@pytest.mark.parametrize(
    ("family", "bound"),
    [
        (lambda rate: dist.Poisson(rate), 0.02),
        (lambda rate: dist.Bernoulli(rate / (1 + rate)), 0.01),
        pytest.param(lambda rate: dist.Poisson(1000 * rate), 0.06, marks=pytest.mark.slow),
        pytest.param(
            lambda rate: dist.Categorical(torch.stack([rate, 1 / rate, torch.ones_like(rate)], -1)),
            0.015,
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda rate: dist.Binomial(10, rate / (1 + rate)), 0.03, marks=pytest.mark.slow),
    ],
)
def test_labels_and_counts(family, bound):
    def program(x=None):
        rate = pyro.sample("rate", dist.LogNormal(0.5, 0.7))
        with pyro.plate("rows", 4):
            pyro.sample("x", family(rate), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    module = fitted(likelihood(joint), joint.draw(1500, seed=0), steps=300, batch_size=128)
    assert -0.005 < divergence(module, lambda c: family(c["rate"]), joint) < bound


@pytest.mark.slow
def test_rows_of_several_counts():
    def program(x=None):
        rate = pyro.sample("rate", dist.LogNormal(0.5, 0.7))
        with pyro.plate("rows", 4):
            scales = torch.tensor([1.0, 10.0])
            pyro.sample("x", dist.Poisson(rate * scales).expand([4, 2]).to_event(1), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    module = fitted(likelihood(joint), joint.draw(1500, seed=0), steps=400)

    def exact(context):
        return dist.Poisson(context["rate"].unsqueeze(-1) * torch.tensor([1.0, 10.0])).to_event(1)

    assert -0.005 < divergence(module, exact, joint) < 0.06
    context = torch.tensor(2.0)
    draws = module(context).sample((2000,))
    assert draws.shape == (2000, 2)
    assert (draws.mean(0) - torch.tensor([2.0, 20.0])).abs().max() < 1.0
    pg.testing.check_distribution(
        lambda: likelihood(joint), event_shape=2, context=torch.rand(5) + 0.5, only=["batch_invariance", "deepcopy"]
    ).raise_if_failed()


@pytest.mark.slow
def test_a_hierarchical_program_has_the_posterior_of_the_exact_one():
    def program(x=None):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        spread = pyro.sample("spread", dist.LogNormal(-0.5, 0.5))
        with pyro.plate("groups", 4, dim=-2):
            group = pyro.sample("group", dist.Normal(level, spread))
            with pyro.plate("rows", 3 if x is None else x.shape[-1], dim=-1):
                pyro.sample("x", dist.Normal(group, 0.4), obs=x)

    joint = Joint(program, observed="x")
    module = fitted(likelihood(joint), joint.draw(6000, seed=0), steps=2000, rate=2e-3)
    assert abs(divergence(module, lambda c: dist.Normal(c["group"], 0.4), joint)) < 0.01
    torch.manual_seed(1)
    x = torch.tensor([-0.5, 0.2, 0.9, 1.5]).unsqueeze(-1) + 0.4 * torch.randn(4, 10)
    found = {}
    for name, model in (("learned", module.program), ("exact", program)):
        pyro.set_rng_seed(0)
        chain = MCMC(NUTS(model), num_samples=600, warmup_steps=300, disable_progbar=True)
        chain.run(x)
        found[name] = chain.get_samples()
    for site, draws in found["exact"].items():
        other = found["learned"][site]
        error = draws.std(0) / 10  # of a mean of at least a hundred independent draws
        assert ((other.mean(0) - draws.mean(0)).abs() < 4 * error).all(), site
        assert ((other.std(0) / draws.std(0)).log().abs() < 0.35).all(), site
