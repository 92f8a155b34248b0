"""Gaussian processes as latents of networks: exact where the network is linear, without bias elsewhere."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import pyrogen as pg
from pyrogen import families, latent
from pyrogen.latent.state_space.gaussian_process import MaternProcesses, OfValues
from pyrogen.latent.state_space.parts import Emissions
from pyrogen.latent.state_space.process_inference import ProcessInference
from pyrogen.networks.step_context import StepContext
from pyrogen.testing import check_distribution

KERNELS = {
    0.5: lambda r: (-r).exp(),
    1.5: lambda r: (1 + 3**0.5 * r) * (-(3**0.5) * r).exp(),
    2.5: lambda r: (1 + 5**0.5 * r + 5 / 3 * r**2) * (-(5**0.5) * r).exp(),
}
TIMES = torch.tensor([0.0, 0.4, 1.7, 2.0, 5.5, 6.0, 9.0]).double()
LOADING = torch.tensor([[1.2, 0.3], [-0.4, 0.9]]).double()  # of orthogonal columns
NOISE = 0.3
SMALL = {"latent_shape": 2, "hidden": (8,), "draws": 4}


class Read(nn.Module):
    """Messages of single steps: what is measured of the values, exact or rough."""

    future = None

    def __init__(self, *, off=0.0):
        super().__init__()
        self.off = off

    def forward(self, x, given, gaps):
        gram = LOADING.mT @ LOADING
        seen = x.nan_to_num() @ LOADING / gram.diagonal()
        log_scale = (NOISE**2 / gram.diagonal()).log() / 2 + self.off
        return seen + self.off, 10 * torch.atanh(log_scale / 10).expand_as(seen)


def linear(smoothness=1.5, length=7, **more):
    """Two processes seen through a linear map in noise, as a deep model."""
    context = StepContext(irregular=True)
    prior = MaternProcesses(length, 2, context, smoothness=smoothness, length_scale=3.0)
    decoder = nn.Linear(2, 2, bias=False)
    decoder.weight = nn.Parameter(LOADING)
    states = prior.event_shape[1]
    likelihood = Emissions(
        length, (2,), states, OfValues(2, prior.order, decoder), families.normal(NOISE), StepContext()
    )
    posterior = ProcessInference(prior, (2,), Read(**more), context)
    return latent.StateSpaceModel(prior, likelihood, posterior, draws=3).double()


def covariance(smoothness, times):
    kernel = KERNELS[smoothness]((times[:, None] - times).abs() / 3.0)
    return torch.kron(kernel, LOADING @ LOADING.mT) + NOISE**2 * torch.eye(2 * len(times)).double()


def evidence(x, smoothness, times=TIMES):
    found, whole = [], covariance(smoothness, times)
    for row in x.flatten(1):
        known = ~row.isnan()
        found.append(MultivariateNormal(row.new_zeros(int(known.sum())), whole[known][:, known]).log_prob(row[known]))
    return torch.stack(found)


@pytest.mark.parametrize("smoothness", KERNELS)
@torch.no_grad()
def test_a_linear_decoder_gives_the_dense_normal(smoothness):
    """Every draw has the weight of the evidence, in the bound as with a single particle."""
    torch.manual_seed(0)
    module, context = linear(smoothness), {"times": TIMES}
    x = module(context).sample((3,))
    x[1, 2] = torch.nan  # whole steps: what is missing of one makes the message of the values dependent
    x[2, 5:] = torch.nan
    exact = evidence(x, smoothness)
    torch.testing.assert_close(module(context).log_prob(x), exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(-latent.BetaElbo(module)(x, context), exact.mean(), rtol=0, atol=1e-6)
    torch.testing.assert_close(module.filter(x, context, particles=1).log_evidence, exact, rtol=0, atol=1e-6)
    smoothed = module.posterior_at(x, context)
    dense = covariance(smoothness, TIMES) - NOISE**2 * torch.eye(14).double()
    known = ~x[0].flatten().isnan()
    signal = dense @ torch.linalg.solve(covariance(smoothness, TIMES)[known][:, known], x[0].flatten()[known])
    values = smoothed.mean[0, :, :: module.prior.order]
    torch.testing.assert_close((values @ LOADING.mT).flatten(), signal, rtol=0, atol=1e-6)


@torch.no_grad()
def test_particle_evidence_is_without_bias():
    """With messages that are off, the averages of both evidences are still those of the dense normal."""
    torch.manual_seed(0)
    module, context = linear(off=0.15), {"times": TIMES}
    x = module(context).sample()
    x[3] = torch.nan
    many = x.expand(10_000, 7, 2)
    log_weights = module.log_weights(many, context).logsumexp(0) - torch.tensor(3.0).log()
    for found in (module.filter(many, context, particles=4).log_evidence, log_weights):
        ratio = (found - evidence(x[None], 1.5)).exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 100 < 0.1


@torch.no_grad()
def test_particles_smooth_and_filter_as_the_process_does():
    torch.manual_seed(0)
    module, context = linear(2.5, off=0.15), {"times": TIMES}
    x = module(context).sample()
    whole = covariance(2.5, TIMES)
    signal = whole - NOISE**2 * torch.eye(14).double()
    smoothed, filtered = (run(x, context, particles=20_000) for run in (module.smooth, module.filter))
    for found, step, known in ((smoothed, 2, 14), (filtered, 3, 8)):
        gain = torch.linalg.solve(whole[:known, :known], signal[:known]).mT
        there = slice(2 * step, 2 * step + 2)
        mean = found.mean[step, :: module.prior.order] @ LOADING.mT
        torch.testing.assert_close(mean, gain[there] @ x.flatten()[:known], rtol=0, atol=0.02)
        spread = (signal - gain @ signal[:known])[there, there].diagonal()
        variance = (found.variance[step, :: module.prior.order] @ LOADING.square().mT) - spread
        assert variance.abs().max() < 0.02


@torch.no_grad()
def test_forecasts_are_those_of_the_process_seen_by_a_network():
    torch.manual_seed(0)
    module, context = linear(off=0.15), {"times": TIMES}
    x = module(context).sample()
    draws = module.forecast(x[:5], 2, context, particles=5000).sample((20_000,)).flatten(1)
    whole = covariance(1.5, TIMES)
    gain = torch.linalg.solve(whole[:10, :10], whole[:10, 10:]).mT
    torch.testing.assert_close(draws.mean(0), gain @ x[:5].flatten(), rtol=0, atol=0.05)
    spread = (whole[10:, 10:] - gain @ whole[:10, 10:]).diagonal()
    assert ((draws.var(0) / spread - 1).abs() < 0.06).all()


@pytest.mark.parametrize("length_scale", [1.0, 1e3])
@torch.no_grad()
def test_single_precision_suffices(length_scale):
    """Processes that hardly move over a step have transitions next to singular."""
    torch.manual_seed(0)
    module = latent.gaussian_process_vae((60, 1), smoothness=2.5, length_scale=length_scale, counts=True, **SMALL)
    x = module().sample((4,))
    x[0, 7] = torch.nan
    scores = []
    for twin in (module, module.double()):
        z, rate = twin.posterior_at(x.to(twin.prior.length_scale.dtype)).rsample_and_rate((2000,))
        scores.append(twin.likelihood_at(z).log_prob(x) - rate)
    means = [score.double().mean(0) for score in scores]
    errors = (sum(score.double().var(0) for score in scores) / 2000).sqrt()
    assert ((means[0] - means[1]).abs() < 4 * errors + 1e-3).all()


@pytest.mark.parametrize("length_scale", [10.0, 1e3, 1e4])
@torch.no_grad()
def test_densities_of_prior_and_posterior_agree_in_single_precision(length_scale):
    """At the numbers drawn, rounded as they are: what Pyro's bounds and importance weights are made of."""
    torch.manual_seed(0)
    module = latent.gaussian_process_vae((30, 2), smoothness=2.5, length_scale=length_scale, **SMALL)
    posterior = module.posterior_at(module().sample((50,)))
    z, rate = posterior.rsample_and_rate()
    log_prior = module.prior_at().log_prob(z)
    apart = (posterior.log_prob(z) - log_prior - rate).abs()
    assert (apart < 1e-6 * log_prior.abs() + 1e-3).all()


@pytest.mark.parametrize("likelihood", [{}, {"symbols": 3}, {"binary": True}, {"counts": True, "zero_inflated": True}])
def test_every_family_trains_on_processes(likelihood):
    torch.manual_seed(0)
    module = latent.gaussian_process_vae((6, 2), 3, controls=1, irregular=True, **SMALL, **likelihood)
    context = {"context": torch.randn(16, 3), "controls": torch.randn(16, 6, 1)}
    context["times"] = torch.rand(16, 6).cumsum(-1)
    x = module(context).sample().float()
    x[torch.rand(x.shape) < 0.2] = torch.nan
    before = module.prior.log_length_scale.clone()
    for objective in (module, latent.ImportanceWeighted(module, draws=3), latent.Filtering(module, particles=3)):
        assert pg.fit(objective, (x, context), steps=2, batch_size=8, seed=0).reason == "steps"
    assert (module.prior.log_length_scale != before).all()
    assert module(context).log_prob(x, lengths=[3] * 16).isfinite().all()
    assert latent.impute(module, x, draws=3, context=context).mean.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"counts": True}])
def test_contract_of_gaussian_process_vae(more):
    def make():
        return latent.gaussian_process_vae((3, 2), latent_shape=1, hidden=(8,), draws=4, irregular=True, **more)

    context = {"times": torch.rand(4, 3).cumsum(-1)}
    check_distribution(make, event_shape=(3, 2), context=context).raise_if_failed()


def test_a_process_vae_is_saved(tmp_path):
    module = latent.gaussian_process_vae((5, 2), **SMALL)
    pg.save(module, tmp_path / "model.pyrogen")
    loaded = pg.load(tmp_path / "model.pyrogen")
    assert loaded.posterior.prior is loaded.prior
    with pytest.raises(ValueError, match=r"`smoothness` must be one of \[0.5, 1.5, 2.5\], got 1"):
        latent.gaussian_process_vae((5, 2), smoothness=1.0, **SMALL)
