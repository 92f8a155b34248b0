"""The bound of a diffusion model: below the density, as far as the closed form says, and differentiable."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyrogen as pg
from pyrogen.diffusion import (
    EDM,
    VE,
    CosineVP,
    Diffusion,
    GaussianMixtureDenoiser,
    IntegerDenoiser,
    IntegerReference,
    LearnedSchedule,
    LinearVP,
    LogNormalTimes,
    LogSNRTimes,
    NormalReference,
    RectifiedFlow,
    SubVP,
    UniformTimes,
    mlp,
)
from pyrogen.numerics.times import ends, stratified

SCHEDULES = [LinearVP, CosineVP, SubVP, VE, EDM, RectifiedFlow, LearnedSchedule]


def normal(mean, scale, size=3):
    return dist.Normal(torch.full((size,), mean, dtype=torch.double), scale).to_event(1)


def mixture():
    means = torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.0]], dtype=torch.double)
    components = dist.Independent(dist.Normal(means, 0.4), 1)
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.3, 0.2], dtype=torch.double)), components)


def squared_error(x, mean, scale, snr):
    """E of the squared error of the noise that the optimal denoiser of N(mean, scale^2) predicts, given the datum."""
    precision = scale**-2
    return snr * ((x - mean) ** 2 * precision**2 + snr) / (precision + snr) ** 2


def bound_by_quadrature(x, mean, scale, schedule):
    """The bound of the optimal denoiser of N(mean, scale^2), from the reference N(0, 1) and a fine grid of levels."""
    last, first = ends(schedule, x)
    levels = torch.linspace(float(last), float(first), 4001, dtype=x.dtype)
    snr = levels.exp().reshape(-1, *(1,) * x.dim())
    gain = 0.5 * (squared_error(x, 0.0, 1.0, snr) - squared_error(x, mean, scale, snr))
    return (dist.Normal(0.0, 1.0).log_prob(x) + torch.trapezoid(gain, levels, dim=0)).sum(-1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_reference_is_scored_without_noise_and_without_gap(schedule):
    torch.manual_seed(0)
    for scale in (1.0, 0.3):
        data = normal(0.0, scale)
        module = Diffusion(
            GaussianMixtureDenoiser(data, schedule().double()), reference=NormalReference(scale=scale), draws=1
        )
        x = data.sample((5,))
        assert torch.allclose(module().log_prob(x), data.log_prob(x), atol=1e-9)


@pytest.mark.parametrize("schedule", [CosineVP, VE, LearnedSchedule])
@pytest.mark.parametrize(("mean", "scale"), [(1.0, 0.5), (-0.5, 2.0)])
def test_the_gap_is_that_of_the_closed_form(schedule, mean, scale):
    torch.manual_seed(0)
    data, schedule = normal(mean, scale), schedule().double().requires_grad_(False)
    module = Diffusion(GaussianMixtureDenoiser(data, schedule), draws=2000)
    x = data.sample((10,))
    with torch.no_grad():
        draws = torch.stack([module().log_prob(x) for _ in range(10)])
    error = draws.std(0) / math.sqrt(10)
    expected = bound_by_quadrature(x, mean, scale, schedule)
    assert ((draws.mean(0) - expected).abs() < 4.5 * error + 1e-6).all()
    gap = data.log_prob(x) - expected
    assert gap.mean() > -1e-4  # below the density on average, and by little
    assert gap.abs().max() < 0.1


def test_a_narrow_schedule_costs_what_the_closed_form_says():
    torch.manual_seed(0)
    data, schedule = normal(0.5, 0.7), VE(sigma_min=0.3, sigma_max=3.0).double()
    x = data.sample((500,))
    expected = bound_by_quadrature(x, 0.5, 0.7, schedule)
    gap = data.log_prob(x) - expected
    assert gap.mean() > 0.05  # a gap one sees
    with torch.no_grad():
        bound = Diffusion(GaussianMixtureDenoiser(data, schedule), draws=200)().log_prob(x)
    error = (bound - expected).std() / math.sqrt(500)
    assert abs((bound - expected).mean()) < 4 * error


@pytest.mark.parametrize("times", [UniformTimes(), LogSNRTimes(), LogSNRTimes(mean=1.0, uniform=0.2)])
def test_the_bound_of_a_mixture_is_its_log_density_whatever_the_times(times):
    torch.manual_seed(0)
    data = mixture()
    denoiser = GaussianMixtureDenoiser(data, CosineVP())
    module = Diffusion(denoiser, draws=500, times=times)
    x = data.sample((40,))
    draws = torch.stack([module().log_prob(x) for _ in range(8)])
    error = (draws.mean(0) - data.log_prob(x)) / (draws.std(0) / math.sqrt(8))
    # Rows are independent and unbiased: the mean of 40 ratios with 7 degrees of freedom deviates by 1.2 / sqrt(40).
    assert abs(error.mean()) < 0.8
    assert (draws.mean(0) - data.log_prob(x)).abs().mean() < 0.25


def test_times_have_the_density_they_say():
    u = torch.linspace(0, 1, 200_001, dtype=torch.double)
    for times in (UniformTimes(), LogSNRTimes(mean=2.0, uniform=0.3), LogNormalTimes()):
        for schedule in (
            VE(sigma_min=0.02, sigma_max=4.0),
            LearnedSchedule(log_snr_max=6.0, log_snr_min=-2.0).double(),
        ):
            t, density = times(u[1:-1], schedule)
            last, first = ends(schedule, u)
            # The mean of 1 / density over its own draws is the length of the range, and so for any part of it.
            assert abs((1 / density).mean() / (first - last) - 1) < 0.02
            half = (schedule.log_snr(t) < 0) / density
            assert abs(half.mean() / -last - 1) < 0.02


def test_gradients_are_those_of_the_density():
    torch.manual_seed(0)
    data = mixture()
    module = Diffusion(GaussianMixtureDenoiser(data, CosineVP()), draws=20_000)
    x = torch.tensor([0.2, 0.4], dtype=torch.double, requires_grad=True)
    (exact,) = torch.autograd.grad(data.log_prob(x), x)
    (found,) = torch.autograd.grad(module().log_prob(x), x)
    assert (found - exact).norm() < 0.1 * exact.norm()


def test_stratified_times_are_sharper():
    torch.manual_seed(0)
    data = normal(1.0, 0.5, size=64)
    distribution, x = Diffusion(GaussianMixtureDenoiser(data, CosineVP()))(), data.sample((200,))
    noise = torch.randn(16, *x.shape).double()
    independent = distribution.bound(x, torch.rand(16, 200).double(), noise).mean(0)
    together = distribution.bound(x, stratified(16, (200,), x), noise).mean(0)
    exact = data.log_prob(x)
    assert (together - exact).std() < 0.7 * (independent - exact).std()


def test_a_seed_freezes_the_noise():
    data = normal(1.0, 0.5)
    module = Diffusion(GaussianMixtureDenoiser(data, CosineVP()), draws=4, noise_seed=3)
    x = torch.randn(8, 3).double()
    state = torch.get_rng_state()
    score = module().log_prob(x)
    assert torch.equal(score, module().log_prob(x))
    assert torch.allclose(score[7], module().log_prob(x[7]))
    assert torch.equal(state, torch.get_rng_state())


def chain(levels, states):
    """All values of three integers, and probabilities in which neighbours agree."""
    values = torch.cartesian_prod(*[torch.arange(levels)] * states).double()
    return values, (-(values[:, 1:] - values[:, :-1]).abs().sum(-1)).softmax(-1)


class Enumerated(nn.Module):
    """The optimal opinions on each level of each element, for data that can be enumerated."""

    def __init__(self, values, probabilities, reference):
        super().__init__()
        self.register_buffer("x", reference.encode(values))
        self.register_buffer("log_probabilities", probabilities.log())
        self.levels = reference.symbols
        self.index = values.long()

    def forward(self, scaled, level, context=None):
        ratio = torch.exp(4 * level)[..., None]  # sigma / alpha
        x = scaled * (1 + ratio**2).sqrt()  # the datum plus ratio times noise
        each = -0.5 * ((x.unsqueeze(-2) - self.x) / ratio.unsqueeze(-1)) ** 2  # (*batch, states, elements)
        joint = self.log_probabilities + each.sum(-1)
        out = []
        for element in range(x.shape[-1]):
            rest = joint - each[..., element]
            groups = [rest[..., self.index[:, element] == level].logsumexp(-1) for level in range(self.levels)]
            out.append(torch.stack(groups, -1))
        return torch.stack(out, -1)  # (*batch, levels, elements)


def test_integers_with_the_optimal_denoiser_have_their_own_probabilities():
    torch.manual_seed(0)
    values, probabilities = chain(3, 3)
    reference = IntegerReference(3)
    network = Enumerated(values, probabilities, reference)
    denoiser = IntegerDenoiser(network, CosineVP(start=0.01), reference, event_shape=3)
    module = Diffusion(denoiser, reference=reference, draws=200)
    draws = torch.stack([module().log_prob(values) for _ in range(40)])
    error = draws.std(0) / math.sqrt(40)
    assert ((draws.mean(0) - probabilities.log()).abs() < 4.5 * error + 1e-3).all()
    counts = torch.bincount((module().sample((20_000,)) @ torch.tensor([9.0, 3.0, 1.0]).double()).long(), minlength=27)
    assert ((counts / 20_000 - probabilities).abs() < 4.5 * (probabilities / 20_000).sqrt() + 0.002).all()


def test_untrained_networks_are_the_reference():
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    assert torch.allclose(mlp((3,))().log_prob(x), normal(0.0, 1.0).log_prob(x.double()).float(), atol=1e-3)
    v = torch.randint(17, (4, 3))
    assert torch.allclose(mlp((3,), symbols=17)().log_prob(v), torch.tensor(-3 * math.log(17)), atol=1e-3)


def test_draws_follow_the_data():
    torch.manual_seed(0)
    data = mixture()
    draws = Diffusion(GaussianMixtureDenoiser(data, CosineVP()))().sample((4000,)).double()
    more = data.sample((4000,))
    error = (draws.var(0) / 4000 + more.var(0) / 4000).sqrt()
    assert ((draws.mean(0) - more.mean(0)).abs() < 4.5 * error).all()
    error = ((draws**2).var(0) / 4000 + (more**2).var(0) / 4000).sqrt()
    assert ((draws.square().mean(0) - more.square().mean(0)).abs() < 4.5 * error).all()


def test_svi_trains_it_at_a_site():
    pyro.set_rng_seed(0)
    prior = mlp((2,), width=16, depth=1)
    x = 0.2 * torch.randn(64, 2) + 1

    def model():
        with pyro.plate("data", 64):
            return pyro.sample("x", prior(), obs=x)

    svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step() for _ in range(100)]
    pyro.clear_param_store()
    assert sum(losses[-20:]) < 0.5 * sum(losses[:5]) * 4


def test_the_inverse_room_finds_denoiser_and_context():
    module = mlp((2,), classes=3)
    labels = torch.arange(3)
    distribution = module(labels).expand((4, 3))
    assert distribution.denoiser is module.denoiser
    assert torch.equal(distribution.context, labels)
    assert distribution.sample().shape == (4, 3, 2)
    assert pg.density_of(distribution.to_event(1)) == "lower bound"


def widened():
    """A denoiser whose network gives one number more for each element."""
    denoiser = mlp((2,)).denoiser
    denoiser.network.output_shape = (1, 2)
    return denoiser


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Diffusion(nn.Linear(1, 1)), "`denoiser` must be"),
        (lambda: Diffusion(mlp((2,)).denoiser, draws=0), "`draws` must be"),
        (lambda: Diffusion(widened())().log_prob(torch.zeros(4, 2)), "the denoiser must keep the shape"),
        (lambda: NormalReference(scale=0.0), "`scale` must be positive"),
        (lambda: IntegerReference(1), "`symbols` must be at least 2"),
        (lambda: LogSNRTimes(uniform=0.0), "`uniform` must be"),
        (lambda: LogSNRTimes(scale=0.0), "`scale` must be"),
        (lambda: LogNormalTimes(scale=0.0), "`scale` must be"),
        (lambda: mlp((2,), symbols=3)().log_prob(torch.tensor([0.5, 1.0])), "within the support"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
