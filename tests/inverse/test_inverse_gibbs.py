"""Other latent sites beside the diffusion: noise scales, labels, kernels, against grids and sums."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import Centred, gaussian

from pyrogen.diffusion import Diffusion
from pyrogen.inverse import TwistedSMC
from pyrogen.inverse.gibbs import slice_sample

OPERATOR = torch.tensor([[1.0, 0.0], [0.5, 1.0], [-1.0, 0.3], [0.2, -0.8], [0.7, 0.7]])
PRIOR = gaussian(torch.zeros(2), torch.eye(2))


def effective(draws):
    """Draws less their autocorrelation, by batch means of twenty."""
    means = draws[: len(draws) // 20 * 20].reshape(-1, 20).mean(1)
    return (draws.var() / means.var() * len(means)).clamp(max=len(draws)).item()


@pytest.mark.slow
def test_unknown_noise_scale_against_a_grid():
    y = torch.tensor([1.0, 0.2, -1.5, 0.5, 0.9])

    def model(y):
        x = pyro.sample("x", PRIOR())
        scale = pyro.sample("scale", dist.LogNormal(-0.5, 0.7))
        pyro.sample("y", dist.Normal(OPERATOR @ x, scale).to_event(1), obs=y)

    posterior = TwistedSMC(model, site="x", particles=24, steps=10, sweeps=120, warmup=10).run(y)
    log_scale = torch.linspace(-4, 3, 1401)
    marginal = OPERATOR @ OPERATOR.T + (2 * log_scale).exp()[:, None, None] * torch.eye(5)
    log_joint = dist.MultivariateNormal(torch.zeros(5), marginal).log_prob(y) + dist.Normal(-0.5, 0.7).log_prob(
        log_scale
    )
    weights = log_joint.softmax(0)
    mean = (weights * log_scale).sum()
    deviation = (weights * (log_scale - mean).square()).sum().sqrt()
    solved = torch.linalg.solve(marginal, y.expand(len(marginal), 5).unsqueeze(-1)).squeeze(-1)
    x_mean = (weights.unsqueeze(-1) * (solved @ OPERATOR)).sum(0)
    draws = posterior.get_samples()
    found = draws["scale"].log()
    tolerance = 4 / effective(found) ** 0.5
    assert abs(found.mean() - mean) < deviation * (tolerance + 0.05)
    assert abs(found.std() / deviation - 1) < tolerance + 0.05
    assert (
        (draws["x"].mean(0) - x_mean).abs() < 4 * draws["x"].std(0) / effective(draws["x"][:, 0]) ** 0.5 + 0.05
    ).all()
    assert draws["x"].shape == (120, 2)


@pytest.mark.slow
def test_a_label_upstream_against_the_sum_over_labels():
    table = torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.5, 1.5]])
    prior, weights = Diffusion(Centred(table)), torch.tensor([0.5, 0.3, 0.2])
    y = torch.tensor([0.6, 0.2])

    def model(y):
        label = pyro.sample("label", dist.Categorical(weights))
        x = pyro.sample("x", prior(label))
        pyro.sample("y", dist.Normal(x, 0.7).to_event(1), obs=y)

    posterior = TwistedSMC(model, site="x", particles=16, steps=10, sweeps=400, warmup=10).run(y)
    log_joint = weights.log() + dist.Normal(table, (0.25 + 0.49) ** 0.5).log_prob(y).sum(-1)
    exact = log_joint.softmax(0)
    labels = posterior.get_samples()["label"]
    found = torch.bincount(labels, minlength=3) / len(labels)
    assert ((found - exact).abs() < 4 * (exact * (1 - exact) / effective(labels.float())).sqrt() + 0.02).all()
    assert 0.1 < posterior.diagnostics().acceptance["label"] <= 1


@pytest.mark.slow
def test_a_discrete_site_downstream_is_enumerated():
    y = torch.tensor([0.9, 0.1, -1.2, 0.3, 2.0])

    def model(y):
        x = pyro.sample("x", PRIOR())
        broken = pyro.sample("broken", dist.Bernoulli(0.2))
        pyro.sample("y", dist.Normal(OPERATOR @ x, 0.3 + broken).to_event(1), obs=y)

    posterior = TwistedSMC(model, site="x", particles=24, steps=10, sweeps=300, warmup=10).run(y)
    log_joint = torch.stack(
        [
            dist.MultivariateNormal(torch.zeros(5), OPERATOR @ OPERATOR.T + scale**2 * torch.eye(5)).log_prob(y)
            + torch.tensor(prior).log()
            for scale, prior in ((0.3, 0.8), (1.3, 0.2))
        ]
    )
    exact, broken = log_joint.softmax(0)[1], posterior.get_samples()["broken"]
    assert abs(broken.mean() - exact) < 4 * (exact * (1 - exact) / effective(broken)) ** 0.5 + 0.02


def test_slice_sampling_draws_from_its_density():
    torch.manual_seed(0)
    density = dist.Gamma(3.0, 2.0)
    point, draws = torch.tensor([1.0]), []
    for _ in range(2000):
        point = slice_sample(lambda p: density.log_prob(p.exp()).item() + p.item(), point, 0)
        draws.append(point.exp().item())
    draws = torch.tensor(draws)
    error = 4 / effective(draws) ** 0.5
    assert abs(draws.mean() - density.mean) < density.stddev * error
    assert abs(draws.var() / density.variance - 1) < 3 * error
