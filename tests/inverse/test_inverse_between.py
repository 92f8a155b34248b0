"""Latent sites between the diffusion and the data are part of its likelihood, whatever else is measured."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian

from pyrogen.inverse import GuidedSampling, MomentMatching, TwistedSMC
from pyrogen.inverse.problem import InverseProblem

PRIOR = gaussian(torch.zeros(1), torch.eye(1))


def alone(y):
    x = pyro.sample("x", PRIOR())
    z = pyro.sample("z", dist.Normal(x, 0.5).to_event(1))
    pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y[:1])


def beside_a_measurement(y):
    x = pyro.sample("x", PRIOR())
    z = pyro.sample("z", dist.Normal(x, 0.5).to_event(1))
    pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y[:1])
    pyro.sample("w", dist.Normal(x, 1.0).to_event(1), obs=y[1:2])


def in_a_chain(y):
    x = pyro.sample("x", PRIOR())
    z = pyro.sample("z", dist.Normal(x, 0.5).to_event(1))
    v = pyro.sample("v", dist.Normal(2 * z, 0.5).to_event(1))
    pyro.sample("y", dist.Normal(v, 0.5).to_event(1), obs=y[:1])


def in_a_plate(y):
    x = pyro.sample("x", PRIOR())
    with pyro.plate("parts", 3):
        z = pyro.sample("z", dist.Normal(x, 0.5))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def moments(model, y):
    """Mean and variance of x given y: everything is linear and Gaussian."""
    if model is alone:
        noise, slope, data = [0.5], [1.0], y[:1]
    elif model is beside_a_measurement:
        noise, slope, data = [0.5, 1.0], [1.0, 1.0], y[:2]
    elif model is in_a_chain:
        noise, slope, data = [4 * 0.25 + 0.25 + 0.25], [2.0], y[:1]
    else:
        noise, slope, data = [0.5] * 3, [1.0] * 3, y
    noise, slope = torch.tensor(noise), torch.tensor(slope)
    precision = 1 + (slope.square() / noise).sum()
    return (slope * data / noise).sum() / precision, 1 / precision


def effective(draws):
    """How many independent draws a chain is worth, by means of batches of twenty."""
    means = draws[: len(draws) // 20 * 20].reshape(-1, 20).mean(1)
    return (draws.var() / means.var() * len(means)).clamp(max=len(draws)).item()


SLOW = [pytest.param(model, marks=pytest.mark.slow) for model in (beside_a_measurement, in_a_chain, in_a_plate)]


@pytest.mark.parametrize("model", [alone, *SLOW], ids=lambda model: model.__name__)
def test_latents_between_against_the_closed_form(model):
    y = torch.tensor([2.0, -1.0, 1.0])
    posterior = TwistedSMC(model, site="x", particles=10, steps=6, sweeps=300, warmup=20).run(y)
    draws, (mean, variance) = posterior.get_samples()["x"].flatten(), moments(model, y)
    count = effective(draws)
    assert count > 20
    assert abs(draws.mean() - mean) < 4 * (variance / count).sqrt() + 0.03
    assert abs(draws.var() / variance - 1) < 4 * (2 / count) ** 0.5 + 0.05


def test_rows_with_a_latent_of_their_own_are_independent_problems():
    def model(y):
        with pyro.plate("rows", len(y)):
            x = pyro.sample("x", PRIOR())
            z = pyro.sample("z", dist.Normal(x, 0.5).to_event(1))
            pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)

    y = torch.tensor([[2.0], [-1.0]])
    assert InverseProblem(model, (y,), {}, "x").problems.count == 2
    draws = TwistedSMC(model, site="x", particles=10, steps=6, sweeps=150, warmup=10).run(y).get_samples()["x"]
    for row in range(2):
        count = effective(draws[:, row, 0])
        assert abs(draws[:, row].mean() - y[row] / 1.5) < 4 * (1 / 3 / count) ** 0.5 + 0.03


@pytest.mark.slow
def test_a_latent_that_depends_on_the_site_and_on_a_scale_against_a_grid():
    y = torch.tensor([2.5, 1.0, 2.0])

    def model(y):
        scale = pyro.sample("scale", dist.LogNormal(-0.5, 0.5))
        x = pyro.sample("x", PRIOR())
        with pyro.plate("parts", 3):
            z = pyro.sample("z", dist.Normal(x, scale))
            pyro.sample("y", dist.Normal(z, 0.3), obs=y)

    draws = TwistedSMC(model, site="x", particles=12, steps=8, sweeps=1500, warmup=50).run(y).get_samples()
    x, log_scale = torch.meshgrid(torch.linspace(-4, 5, 451), torch.linspace(-3, 2, 251), indexing="ij")
    noise = ((2 * log_scale).exp() + 0.09).sqrt()
    log_joint = dist.Normal(0.0, 1.0).log_prob(x) + dist.Normal(-0.5, 0.5).log_prob(log_scale)
    log_joint = log_joint + dist.Normal(x.unsqueeze(-1), noise.unsqueeze(-1)).log_prob(y).sum(-1)
    weights = log_joint.flatten().softmax(0)
    for found, truth in ((draws["x"].flatten(), x), (draws["scale"].log(), log_scale)):
        mean = (weights * truth.flatten()).sum()
        deviation = (weights * (truth.flatten() - mean).square()).sum().sqrt()
        assert abs(found.mean() - mean) < deviation * (4 / effective(found) ** 0.5 + 0.05)
        assert abs(found.std() / deviation - 1) < 3 / effective(found) ** 0.5 + 0.05


def test_what_is_scored_is_what_depends_directly():
    def model(y):
        x = pyro.sample("x", PRIOR())
        z = pyro.sample("z", dist.Normal(x, 0.5).to_event(1))
        doubled = pyro.deterministic("doubled", 2 * z)
        pyro.sample("y", dist.Normal(doubled, 0.5).to_event(1), obs=y[:1])
        pyro.sample("w", dist.Normal(x + z, 1.0).to_event(1), obs=y[1:2])
        pyro.sample("ahead", dist.Normal(x, 1.0).to_event(1))

    setting = InverseProblem(model, (torch.zeros(2),), {}, "x")
    assert setting.downstream == ("z",)
    assert setting.scored == ("z", "w")


def test_guidances_refuse_what_lies_between_by_name():
    with pytest.raises(ValueError, match=r"no other latent sites .* \('z',\)"):
        GuidedSampling(alone, site="x", guidance=MomentMatching()).run(torch.zeros(3))
