"""Tables of truth: every sampler under every schedule and grid, and every schedule's density, for Gaussian data.

The optimal denoiser of Gaussian data is linear, so a deterministic sampler is an affine map of its noise: its draws
have a mean and a covariance that are known without drawing.
"""

import math

import pyro.distributions as dist
import pytest
import torch

from pyrogen.diffusion import (
    DDIM,
    Adaptive,
    Ancestral,
    Churn,
    DataPrediction,
    Euler,
    Heun,
    Multistep,
    NoisePrediction,
    PredictorCorrector,
    VelocityPrediction,
)
from pyrogen.diffusion.analytic import GaussianMixtureDenoiser
from pyrogen.diffusion.denoiser import Data, NetworkDenoiser, Noise, Preconditioned, Score, Velocity
from pyrogen.diffusion.guidance import ClassifierFree
from pyrogen.diffusion.model import Diffusion
from pyrogen.diffusion.probability_flow import ProbabilityFlow
from pyrogen.diffusion.reference import NormalReference
from pyrogen.numerics.grids import FlowGrid, KarrasGrid, LogSNRGrid, UniformGrid
from pyrogen.numerics.schedules import EDM, VE, CosineVP, LearnedSchedule, LinearVP, RectifiedFlow, SubVP
from pyrogen.numerics.times import LogNormalTimes, LogSNRTimes, ends

SCHEDULES = {kind.__name__: kind for kind in (LinearVP, SubVP, CosineVP, VE, EDM, RectifiedFlow, LearnedSchedule)}
GRIDS = {kind.__name__: kind for kind in (FlowGrid, UniformGrid, LogSNRGrid, KarrasGrid)}
# With the largest error of the covariance at 30 steps, relative to the data's, and by what it falls at 120. Euler's
# methods are of order one; the others' best grids differ, so that their limits are those of the worst.
DETERMINISTIC = {
    "euler": (Euler, 0.35, 3.0),
    "ddim": (DDIM, 0.35, 3.0),
    "heun": (Heun, 0.025, 5.0),
    "edm": (lambda grid: Churn(grid, churn=0.0), 0.025, 5.0),
    "data": (lambda grid: Multistep(grid, prediction=DataPrediction()), 0.06, 5.0),
    "noise": (lambda grid: Multistep(grid, prediction=NoisePrediction()), 0.06, 5.0),
    "velocity": (lambda grid: Multistep(grid, prediction=VelocityPrediction()), 0.025, 5.0),
}
STOCHASTIC = {
    "ancestral": lambda grid: Ancestral(grid),
    "large variance": lambda grid: Ancestral(grid, variance=1.0),
    "noisy ddim": lambda grid: DDIM(grid, eta=1.0),
    "churn": lambda grid: Churn(grid, churn=5.0),
    "noisy data": lambda grid: Multistep(grid, prediction=DataPrediction(noise=1.0)),
    "langevin": lambda grid: PredictorCorrector(DDIM(grid), stride=0.1),
}
MEAN, COVARIANCE = torch.tensor([0.5, -1.0]).double(), torch.tensor([[0.8, 0.3], [0.3, 0.4]]).double()


def gaussian(schedule):
    return GaussianMixtureDenoiser(dist.MultivariateNormal(MEAN, COVARIANCE), schedule().double().requires_grad_(False))


def exact_moments(denoiser):
    """Of draws that begin with standard normal noise at time one and follow the probability flow to time zero."""
    variance, axes = denoiser.variance[0], denoiser.rotation
    t = torch.tensor([1.0, 0.0]).double()
    (first, last), (first_noise, last_noise) = denoiser.schedule(t)
    ratio = (last**2 * variance + last_noise**2) / (first**2 * variance + first_noise**2)
    mean = last * MEAN - axes @ (ratio.sqrt() * (axes.mT @ (first * MEAN)))
    return mean, axes @ torch.diag(first_noise**2 * ratio) @ axes.mT


def affine_moments(sampler, denoiser):
    """Of the draws of a deterministic sampler."""
    images = sampler(denoiser, torch.cat([torch.zeros(1, 2), torch.eye(2)]).double())
    slope = images[1:] - images[0]
    return images[0], slope.mT @ slope


def errors(make, grid, steps, denoiser):
    mean, covariance = exact_moments(denoiser)
    found_mean, found = affine_moments(make(grid(steps)), denoiser)
    return (found_mean - mean).abs().max().item(), (found - covariance).abs().max().item()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_draws_have_the_moments_of_the_flow(sampler, grid, schedule):
    make, limit, fall = DETERMINISTIC[sampler]
    denoiser = gaussian(SCHEDULES[schedule])
    few, many = (errors(make, GRIDS[grid], steps, denoiser) for steps in (30, 120))
    assert few[0] < 0.01
    assert few[1] < limit
    assert many[1] < max(few[1] / fall, 1e-3), (few, many)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_adaptive_draws_have_the_moments_of_the_flow(schedule):
    found = errors(lambda grid: Adaptive(grid, tolerance=1e-5), FlowGrid, 2, gaussian(SCHEDULES[schedule]))
    assert max(found) < 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_noisy_draws_have_the_moments_of_the_data(sampler, schedule):
    torch.manual_seed(0)
    denoiser, rows = gaussian(SCHEDULES[schedule]), 10_000
    # Of the data's own noisy distribution at time one: what is left after that is the sampler's error.
    alpha, sigma = denoiser.schedule(torch.ones(()).double())
    noise = torch.randn(rows, 2).double() + alpha / sigma * dist.MultivariateNormal(MEAN, COVARIANCE).sample((rows,))
    draws = STOCHASTIC[sampler](FlowGrid(150))(denoiser, noise)
    # Standard errors are 0.009 of a mean and 0.011 of a variance; the methods of order one add up to 0.03 to that.
    assert (draws.mean(0) - MEAN).abs().max() < 0.04
    assert (draws.mT.cov() - COVARIANCE).abs().max() < 0.06


class Optimal(torch.nn.Module):
    """The network whose output, read by a parameterisation, is the optimal denoiser."""

    def __init__(self, denoiser, parameterisation):
        super().__init__()
        self.denoiser, self.parameterisation = denoiser, parameterisation

    def forward(self, x, level, context=None):
        schedule = self.denoiser.schedule
        t = schedule.time(-8 * level).clamp(0, 1)
        skip, out, scale = (c[..., None] for c in self.parameterisation.coefficients(schedule, t))
        return (self.denoiser(x / scale, t) - skip * x / scale) / out


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", [Noise, Data, Velocity, Score, Preconditioned])
def test_every_parameterisation_draws_the_same(kind, schedule):
    exact, parameterisation = gaussian(SCHEDULES[schedule]), kind()
    network = Optimal(exact, parameterisation)
    denoiser = NetworkDenoiser(network, exact.schedule, parameterisation, event_shape=(2,))
    for sampler in (Multistep(FlowGrid(30)), Multistep(FlowGrid(30), prediction=NoisePrediction())):
        for found, expected in zip(affine_moments(sampler, denoiser), affine_moments(sampler, exact), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_densities_are_those_of_the_smoothed_data(schedule, scale):
    torch.manual_seed(0)
    schedule = SCHEDULES[schedule]().requires_grad_(False)
    alpha, sigma = schedule(torch.zeros(()))
    for size in (1, 2, 30):
        data = dist.Normal(torch.full((size,), 0.5 * scale), scale).to_event(1)
        smoothed = dist.Normal(torch.full((size,), 0.5 * scale), (scale**2 + float(sigma / alpha) ** 2) ** 0.5)
        flow, x = ProbabilityFlow(GaussianMixtureDenoiser(data, schedule))(), data.sample((50,))
        assert torch.allclose(flow.log_prob(x), smoothed.to_event(1).log_prob(x), rtol=0, atol=2e-3)
        draws = flow.sample((2000,))
        assert abs(draws.std() / smoothed.scale[0] - 1) < 4 / math.sqrt(2 * 2000 * size) + 1e-3
        assert abs(draws.mean() - 0.5 * scale) < 4 * scale / math.sqrt(2000 * size) + 1e-3


def test_a_flow_takes_the_scale_that_its_denoiser_knows():
    data = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.25, 0.75])),
        dist.MultivariateNormal(torch.tensor([[0.0, 4.0], [0.0, -4.0]]), torch.tensor([[1.0, 0.5], [0.5, 2.0]])),
    )
    exact = GaussianMixtureDenoiser(data, CosineVP())
    assert torch.allclose(exact.data_scale, data.variance.sqrt(), atol=1e-5)
    network = NetworkDenoiser(torch.nn.Identity(), CosineVP(), Preconditioned(data_scale=3.0), event_shape=(2,))
    assert network.data_scale == 3.0
    assert NetworkDenoiser(torch.nn.Identity(), CosineVP(), Velocity(), event_shape=(2,)).data_scale == 1.0


@pytest.mark.parametrize("mean", [60.0, -60.0])
def test_times_far_outside_a_schedule_keep_their_density(mean):
    schedule, u = CosineVP(), torch.linspace(0.0005, 0.9995, 2001)
    t, density = LogSNRTimes(mean=mean)(u, schedule)
    last, first = ends(schedule, u)
    assert abs((1 / density).mean() / (first - last) - 1) < 0.02
    t, density = LogNormalTimes(mean=-mean / 6, scale=1.0)(u, schedule)
    # Where uniform numbers become log-SNRs, the slope of the map is one over the density.
    slope = (schedule.log_snr(t).diff().abs() / u.diff())[100:-100]
    assert abs((slope * density[100:-101]).mean() - 1) < 0.02


class Solid(NetworkDenoiser):
    """Data of one colour, which the label says."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), CosineVP(), Data(), event_shape=(2, 3), context_shape=())

    def forward(self, x, t, context=None):
        return torch.zeros_like(x) if context is None else (context * 0.1)[..., None, None].expand_as(x) + 0 * x


def test_rescaling_leaves_what_has_no_deviation():
    noise = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([-5.0, 0.0, 7.0])
    sampler = Multistep(FlowGrid(8))
    plain = sampler(ClassifierFree(Solid(), weight=2.0), noise, labels)
    rescaled = sampler(ClassifierFree(Solid(), weight=2.0, rescaling=0.7), noise, labels)
    assert torch.allclose(rescaled, plain, atol=1e-6)
    x = noise.requires_grad_()
    ClassifierFree(Solid(), weight=2.0, rescaling=0.7)(x, 0.5, labels).sum().backward()
    assert x.grad.isfinite().all()


def test_rescaling_brings_each_datum_to_its_own_deviation():
    class Rows(Solid):
        def forward(self, x, t, context=None):
            return x * (0.5 if context is None else 1.0) * torch.tensor([1.0, 0.0, 3.0])[:, None, None]

    x, labels = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(3)
    found = ClassifierFree(Rows(), weight=3.0, rescaling=1.0)(x, 0.5, labels)
    assert torch.allclose(found.std((1, 2)), Rows()(x, 0.5, labels).std((1, 2)))


def test_a_diffusion_begins_with_what_is_left_of_its_reference():
    torch.manual_seed(0)
    data, schedule = dist.Normal(torch.zeros(2), 10.0).to_event(1), LearnedSchedule().requires_grad_(False)
    module = Diffusion(GaussianMixtureDenoiser(data, schedule), reference=NormalReference(scale=10.0))
    assert abs(module().sample((4000,)).std() / 10 - 1) < 4 / math.sqrt(2 * 8000) + 0.005


NONSENSE = {
    "inflation": lambda: Churn(UniformGrid(5), inflation=-1.0),
    "churn": lambda: Churn(UniformGrid(5), churn=math.nan),
    "eta": lambda: DDIM(UniformGrid(5), eta=math.nan),
    "corrections": lambda: PredictorCorrector(DDIM(UniformGrid(5)), corrections=1.5),
    "steps": lambda: FlowGrid(2.5),
    "order": lambda: Multistep(order=1.5),
    "prediction": lambda: Multistep(prediction="data"),
    "noise": lambda: DataPrediction(noise=math.inf),
    "rho": lambda: EDM(rho=math.inf),
    "sigma_max": lambda: VE(sigma_max=math.inf),
    "log_snr_max": lambda: LearnedSchedule(log_snr_max=math.inf),
    "knots": lambda: LearnedSchedule(knots=2.0),
    "scale": lambda: NormalReference(scale=math.inf),
    "draws": lambda: Diffusion(gaussian(CosineVP), draws=2.5),
    "weight": lambda: ClassifierFree(Solid(), weight=math.nan),
    "data_scale": lambda: ProbabilityFlow(gaussian(CosineVP), data_scale=0.0),
}


@pytest.mark.parametrize("argument", NONSENSE)
def test_nonsense_is_refused_by_name(argument):
    with pytest.raises((ValueError, TypeError), match=f"`{argument}`"):
        NONSENSE[argument]()
