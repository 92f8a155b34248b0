"""Probability flow against the closed form: densities, gradients, integrals, posteriors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from torch import nn

import pyrogen as pg
from pyrogen.core.matching import FlowMatching
from pyrogen.diffusion.analytic import GaussianMixtureDenoiser
from pyrogen.diffusion.denoiser import NetworkDenoiser, Preconditioned
from pyrogen.diffusion.probability_flow import ProbabilityFlow
from pyrogen.numerics.ode import AdaptiveSolver, FixedSolver
from pyrogen.numerics.runge_kutta import EULER
from pyrogen.numerics.schedules import EDM, VE, CosineVP, LinearVP, RectifiedFlow, SubVP
from pyrogen.numerics.trace import Hutchinson
from pyrogen.testing import check_distribution

SCHEDULES = [LinearVP(), CosineVP(), SubVP(), VE(sigma_min=1e-3, sigma_max=100.0), EDM(), RectifiedFlow()]


def mixture(size, components=5, dtype=torch.float64):
    """Unit means, standard deviations of about a third, correlated."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(components, size, generator=generator, dtype=torch.float64)
    factor = torch.randn(components, size, size, generator=generator, dtype=torch.float64) * 0.3 / math.sqrt(size)
    covariance = factor @ factor.mT + 0.05 * torch.eye(size, dtype=torch.float64)
    weights = torch.rand(components, generator=generator, dtype=torch.float64) + 0.2
    parts = dist.MultivariateNormal(mean.to(dtype), covariance.to(dtype))
    return dist.MixtureSameFamily(dist.Categorical(weights.to(dtype)), parts)


def score(log_prob, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(log_prob(x).sum(), x)[0]


class Network(nn.Module):
    """A small network of noisy vectors and their levels."""

    def __init__(self, size, context=0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size + 1 + context, 16), nn.SiLU(), nn.Linear(16, size))

    def forward(self, x, level, context=None):
        return self.layers(torch.cat([x, level[..., None], *([] if context is None else [context])], -1))


def of_network(context=0, **options):
    shape = (context,) if context else None
    denoiser = NetworkDenoiser(Network(2, context), CosineVP(), Preconditioned(), event_shape=(2,), context_shape=shape)
    return ProbabilityFlow(denoiser, solver=AdaptiveSolver(1e-4), **options)


@pytest.mark.slow
def test_contract():
    check_distribution(of_network, event_shape=(2,)).raise_if_failed()


@pytest.mark.slow
def test_contract_with_context_and_frozen_probes():
    def make():
        return of_network(3, trace=Hutchinson(2, noise_seed=1))

    check_distribution(make, event_shape=(2,), context=torch.randn(5, 3)).raise_if_failed()


def test_contract_in_brief():
    only = ("bad_row", "empty_batch", "vmap", "batch_invariance")

    def make():
        return of_network(3)

    check_distribution(make, event_shape=(2,), context=torch.randn(5, 3), only=only).raise_if_failed()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_density_and_gradient_are_the_exact_ones_under_every_schedule(schedule):
    torch.manual_seed(0)
    truth = mixture(4)
    x = truth.sample((32,))
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, schedule))
    with torch.no_grad():
        assert (flow().log_prob(x) - truth.log_prob(x)).abs().mean() < 1e-3
    found, exact = score(flow().log_prob, x[:8]), score(truth.log_prob, x[:8])
    assert torch.cosine_similarity(found, exact).min() > 0.9999
    assert (found - exact).norm() < 2e-3 * exact.norm()


@pytest.mark.parametrize("size", [2, 16, 64])
def test_density_and_gradient_are_the_exact_ones_in_many_dimensions(size):
    torch.manual_seed(0)
    truth = mixture(size)
    x = truth.sample((16,))
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, RectifiedFlow()))
    with torch.no_grad():
        assert (flow().log_prob(x) - truth.log_prob(x)).abs().mean() < 1e-3
    found, exact = score(flow().log_prob, x[:4]), score(truth.log_prob, x[:4])
    assert torch.cosine_similarity(found, exact).min() > 0.9999


def test_events_may_be_images():
    torch.manual_seed(0)
    parts = dist.Normal(torch.randn(3, 1, 4, 4, dtype=torch.float64), 0.3).to_event(3)
    truth = dist.MixtureSameFamily(dist.Categorical(torch.ones(3, dtype=torch.float64)), parts)
    x = truth.sample((2, 5))
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, RectifiedFlow()))
    found = flow().log_prob(x)
    assert found.shape == (2, 5)
    assert (found - truth.log_prob(x)).abs().max() < 1e-3
    assert flow().sample((3,)).shape == (3, 1, 4, 4)


def test_the_traced_divergence_gives_the_same_as_the_closed_one(monkeypatch):
    truth = mixture(3)
    x = truth.sample((5,))
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, CosineVP()))
    closed = flow().log_prob(x)
    monkeypatch.setattr(GaussianMixtureDenoiser, "has_divergence", False)
    assert (flow().log_prob(x) - closed).abs().max() < 1e-9


def test_hutchinson_is_unbiased_and_its_variance_falls_with_the_probes():
    torch.manual_seed(0)
    truth = mixture(4)
    point = truth.sample()
    denoiser = GaussianMixtureDenoiser(truth, RectifiedFlow())
    draws, spread = 600, []
    for probes in (1, 4):
        flow = ProbabilityFlow(denoiser, solver=AdaptiveSolver(1e-4), trace=Hutchinson(probes))
        with torch.no_grad():
            error = flow().log_prob(point.expand(draws, -1)) - truth.log_prob(point)
        spread.append(error.var())
        assert abs(error.mean()) < 4 * error.std() / math.sqrt(draws) + 1e-3
    assert (spread[0] / spread[1]).item() == pytest.approx(4.0, rel=0.35)  # 8 % a deviation for each variance


@pytest.mark.slow
def test_hutchinson_is_unbiased_over_seeds_with_variance_inverse_to_the_probes():
    truth, seeds, draws = mixture(4), 20, 200
    denoiser = GaussianMixtureDenoiser(truth, RectifiedFlow())
    points = torch.stack([(torch.manual_seed(seed), truth.sample())[1] for seed in range(seeds)])
    variance = []
    for probes in (1, 4, 16):
        torch.manual_seed(seeds + probes)
        flow = ProbabilityFlow(denoiser, solver=AdaptiveSolver(1e-4), trace=Hutchinson(probes))
        with torch.no_grad():
            error = flow().log_prob(points.expand(draws, -1, -1)) - truth.log_prob(points)
        variance.append(error.var(0).mean())
        bias = error.mean(0) / (error.var(0) / draws).sqrt()  # (seeds,), standard normal if there is none
        assert abs(bias.mean()) * math.sqrt(seeds) < 3.5
        assert bias.square().sum() < 49.0  # the 0.9997 quantile of a chi-square of 20 degrees
    # Each variance has a standard error of about 3 %, so a ratio one of 4 to 5 %.
    assert variance[0] / variance[1] == pytest.approx(4.0, rel=0.2)
    assert variance[1] / variance[2] == pytest.approx(4.0, rel=0.2)


def test_densities_integrate_to_one_on_a_grid():
    truth = mixture(2, components=3, dtype=torch.float32)
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, CosineVP()), solver=AdaptiveSolver(1e-4))
    axis = torch.linspace(-4, 4, 81)
    with torch.no_grad():
        total = flow().log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-3)


def test_the_stated_biases_are_the_true_ones():
    """One Gaussian: noise left at t = 0 and data left at t = 1 in closed form."""
    size, scale = 8, 0.1
    truth = dist.Normal(torch.zeros(size, dtype=torch.float64), scale).to_event(1)
    x = torch.zeros(size, dtype=torch.float64)
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, VE(sigma_min=0.01, sigma_max=50.0)), data_scale=scale)
    assert flow.noise_scale == pytest.approx(0.01)
    bias = (flow().log_prob(x) - truth.log_prob(x)).item()
    assert bias == pytest.approx(-0.5 * size * math.log1p((flow.noise_scale / scale) ** 2), abs=1e-5)
    rough = ProbabilityFlow(GaussianMixtureDenoiser(truth, VE(sigma_min=1e-4, sigma_max=2.0)), data_scale=1.0)
    bias = (rough().log_prob(x) - truth.log_prob(x)).item()
    assert bias == pytest.approx(-0.5 * size * math.log((4 + 1) / (4 + scale**2)), abs=1e-4)


def test_data_far_from_the_origin_leave_their_mean_in_the_noise():
    truth = dist.Normal(torch.full((3,), 30.0, dtype=torch.float64), 1.0).to_event(1)
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, LinearVP()))
    x = truth.sample((20,))
    assert (flow().log_prob(x) - truth.log_prob(x)).abs().max() < 1e-3


def test_a_row_does_not_depend_on_its_batch():
    truth = mixture(3)
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, LinearVP()))
    x = torch.cat([truth.sample((4,)), torch.full((1, 3), 8.0, dtype=torch.float64)])
    alone = torch.stack([flow().log_prob(row) for row in x])
    assert (flow().log_prob(x) - alone).abs().max() < 1e-10


def test_a_coarse_grid_draws_but_gives_no_density():
    truth = mixture(2)
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, RectifiedFlow()), solver=FixedSolver(10, EULER))
    x = flow().sample((5,))
    with pytest.raises(ValueError, match="too coarse for a density: 10 steps of Euler"):
        flow().log_prob(x)
    fine = ProbabilityFlow(GaussianMixtureDenoiser(truth, RectifiedFlow()), solver=FixedSolver(200))
    assert (fine().log_prob(x) - truth.log_prob(x)).abs().max() < 2e-2


def test_draws_are_differentiable_and_follow_the_mixture():
    torch.manual_seed(0)
    truth = mixture(2, dtype=torch.float32)
    flow = ProbabilityFlow(GaussianMixtureDenoiser(truth, CosineVP()), solver=AdaptiveSolver(1e-3))
    x = flow().rsample((2000,))
    assert ((x.mean(0) - truth.mean).abs() < 5 * (truth.variance / 2000).sqrt()).all()
    value, log_prob = flow().rsample_and_log_prob((50,))
    assert (log_prob - truth.log_prob(value)).abs().mean() < 0.02
    network = of_network()
    network().rsample((3,)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_parameters_get_the_gradient_of_a_fine_solution():
    torch.manual_seed(0)
    flow = of_network(3).double()
    x, context = torch.randn(5, 2).double(), torch.randn(5, 3).double().requires_grad_()
    tensors = [context, *flow.parameters()]
    found = []
    for tolerance in (1e-5, 1e-10):
        flow.solver = AdaptiveSolver(tolerance)
        found.append(torch.autograd.grad(flow(context).log_prob(x).sum(), tensors))
    for coarse, fine in zip(*found, strict=True):
        assert (coarse - fine).norm() < 1e-3 * fine.norm()


def test_flow_matching_trains_a_denoiser():
    torch.manual_seed(0)
    truth = dist.Normal(torch.tensor([0.5, -0.5]), torch.tensor([0.5, 1.0])).to_event(1)
    denoiser = NetworkDenoiser(Network(2), RectifiedFlow(), Preconditioned(), event_shape=(2,))
    flow = ProbabilityFlow(denoiser, solver=AdaptiveSolver(1e-4))
    pg.fit(
        FlowMatching(flow), truth.sample((4000,)), steps=500, seed=0, optimizer=lambda p: torch.optim.Adam(p, lr=5e-3)
    )
    x = truth.sample((500,))
    with torch.no_grad():
        assert (truth.log_prob(x) - flow().log_prob(x)).mean() < 0.05


def test_as_a_prior_in_variational_inference():
    pyro.set_rng_seed(0)
    truth = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    prior = ProbabilityFlow(GaussianMixtureDenoiser(truth, RectifiedFlow()), solver=AdaptiveSolver(1e-3))

    def model():
        with pyro.plate("particles", 16):
            z = pyro.sample("z", prior())
            pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=torch.tensor([1.0, -1.0]))

    def guide():
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("particles", 16):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    with pyro.get_param_store().scope():
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(60):
            svi.step()
        assert torch.allclose(pyro.param("loc"), torch.tensor([0.8, -0.8]), atol=0.15)
        assert torch.allclose(pyro.param("scale"), torch.full((2,), 0.2**0.5), atol=0.15)


@pytest.mark.slow
def test_nuts_recovers_the_posterior_of_a_mixture():
    """Prior: two modes; measurement: the first coordinate, noisily. The posterior is a mixture in closed form.

    Thirty-two copies of the problem make one run of NUTS thirty-two chains.
    """
    pyro.set_rng_seed(0)
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
    truth = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.4, 0.6])), dist.Normal(means, 0.5).to_event(1))
    prior = ProbabilityFlow(GaussianMixtureDenoiser(truth, RectifiedFlow()), solver=AdaptiveSolver(1e-3))
    y, noise = 0.3, 0.7

    def model():
        with pyro.plate("chains", 32):
            z = pyro.sample("z", prior())
            pyro.sample("y", dist.Normal(z[..., 0], noise), obs=torch.tensor(y))

    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=50, warmup_steps=40, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()["z"].flatten(0, 1)
    weights = (
        torch.tensor([0.4, 0.6]) * dist.Normal(means[:, 0], (0.25 + noise**2) ** 0.5).log_prob(torch.tensor(y)).exp()
    )
    weights = weights / weights.sum()
    gain = 0.25 / (0.25 + noise**2)
    centres = torch.stack([means[:, 0] + gain * (y - means[:, 0]), means[:, 1]], -1)
    mean = weights @ centres
    variance = weights @ (centres - mean).square() + torch.tensor([0.25 * (1 - gain), 0.25])
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / 100).sqrt()).all()  # an effective size of a hundred or more
    assert ((draws.var(0) / variance - 1).abs() < 0.5).all()
