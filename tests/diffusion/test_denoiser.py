import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from pyrogen.diffusion.analytic import GaussianMixtureDenoiser
from pyrogen.diffusion.denoiser import Data, Denoiser, NetworkDenoiser, Noise, Preconditioned, Score, Velocity
from pyrogen.diffusion.recipes import mlp
from pyrogen.numerics.schedule import Schedule
from pyrogen.numerics.schedules import EDM, CosineVP, LearnedSchedule, LinearVP, RectifiedFlow, SubVP

SCHEDULES = (LinearVP, SubVP, CosineVP, EDM, RectifiedFlow, LearnedSchedule)


def full(components=4, size=3):
    root = torch.randn(components, size, size, dtype=torch.float64)
    covariance = 0.2 * root @ root.mT + 1e-3 * torch.eye(size, dtype=torch.float64)
    mean = torch.randn(components, size, dtype=torch.float64)
    return MixtureSameFamily(Categorical(torch.rand(components).double()), MultivariateNormal(mean, covariance))


def diagonal(components=4, shape=(1, 2, 2)):
    mean = torch.randn(components, *shape, dtype=torch.float64)
    normal = Independent(Normal(mean, 0.1 + torch.rand_like(mean)), len(shape))
    return MixtureSameFamily(Categorical(torch.rand(components).double()), normal)


def shared(components=4, size=3):
    """One covariance for all components."""
    mixture = full(components, size)
    normal = mixture.component_distribution
    return MixtureSameFamily(mixture.mixture_distribution, MultivariateNormal(normal.loc, normal.covariance_matrix[0]))


def noisy(denoiser, mixture, batch=(5, 3)):
    x, t = mixture.sample(batch), torch.rand(batch, dtype=torch.float64)
    alpha, sigma = denoiser.path(x, t)
    return alpha * x + sigma * torch.randn_like(x), t


def brute_force(mixture, schedule, x, t):
    """The posterior mean and the log-density of one noisy datum by conditioning each Gaussian."""
    alpha, sigma = (value.item() for value in schedule(t))
    components = mixture.component_distribution
    size = x.numel()
    means = components.mean.reshape(-1, size)
    if isinstance(components, MultivariateNormal):
        covariances = components.covariance_matrix
    else:
        covariances = torch.diag_embed(components.variance.reshape(-1, size))
    logs, conditional = [], []
    for mean, covariance in zip(means, covariances, strict=True):
        total = alpha**2 * covariance + sigma**2 * torch.eye(size, dtype=x.dtype)
        logs.append(MultivariateNormal(alpha * mean, total).log_prob(x.reshape(-1)))
        gain = alpha * torch.linalg.solve(total, covariance).mT
        conditional.append(mean + gain @ (x.reshape(-1) - alpha * mean))
    logs = torch.stack(logs) + mixture.mixture_distribution.probs.log()
    return (logs.softmax(0) @ torch.stack(conditional)).reshape(x.shape), logs.logsumexp(0)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("make", [full, diagonal, shared])
def test_the_mixture_denoiser_is_the_posterior_mean(kind, make):
    torch.manual_seed(0)
    mixture = make()
    denoiser = GaussianMixtureDenoiser(mixture, kind())
    x, t = noisy(denoiser, mixture, (6,))
    for row in range(6):
        mean, log_prob = brute_force(mixture, denoiser.schedule, x[row], t[row])
        assert torch.allclose(denoiser(x, t)[row], mean, rtol=1e-7, atol=1e-9)
        assert torch.allclose(denoiser.log_prob(x, t)[row], log_prob, rtol=1e-9, atol=1e-9)
        assert torch.allclose(denoiser(x[row], float(t[row])), mean, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("make", [full, diagonal])
def test_the_mixture_denoiser_draws_data_given_noisy_ones(make):
    """Their mean is the denoiser's and their covariance that of Tweedie's second formula."""
    torch.manual_seed(0)
    mixture, count = make(), 100_000
    denoiser = GaussianMixtureDenoiser(mixture, CosineVP())
    (x,), _ = noisy(denoiser, mixture, (1,))
    alpha, sigma = denoiser.schedule(torch.tensor(0.5, dtype=torch.float64))
    slope = torch.func.jacrev(lambda x: denoiser(x.reshape(mixture.event_shape), 0.5).flatten())(x.flatten())
    draws = denoiser.posterior_sample(x.expand(count // 10, 10, *x.shape), 0.5).reshape(count, -1)
    covariance = sigma**2 / alpha * slope
    scale = covariance.diagonal().sqrt()
    assert (((draws.mean(0) - denoiser(x, 0.5).flatten()) / scale).abs() < 5 / count**0.5).all()
    error = (draws.T.cov() - covariance) / scale.outer(scale)
    kurtosis = ((draws - draws.mean(0)) / scale).pow(4).mean(0).max()
    assert (error.abs() < 5 * (kurtosis / count) ** 0.5).all()


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("make", [full, diagonal, shared])
def test_noise_score_and_velocity_say_the_same(kind, make):
    torch.manual_seed(1)
    mixture = make()
    denoiser = GaussianMixtureDenoiser(mixture, kind())
    x, t = noisy(denoiser, mixture)
    x.requires_grad_()
    exact = torch.autograd.grad(denoiser.log_prob(x, t).sum(), x)[0]  # Tweedie
    assert torch.allclose(denoiser.score(x, t), exact, rtol=1e-7, atol=1e-9)
    for name in ("noise", "score", "velocity"):
        direct, derived = getattr(denoiser, name)(x, t), getattr(Denoiser, name)(denoiser, x, t)
        assert torch.allclose(direct, derived, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", [full, diagonal, shared])
def test_the_divergence_is_the_trace_of_the_jacobian(make):
    torch.manual_seed(4)
    mixture = make()
    denoiser = GaussianMixtureDenoiser(mixture, CosineVP())
    x, t = noisy(denoiser, mixture, (4,))
    _, found = denoiser.velocity_and_divergence(x, t)
    for row in range(4):
        jacobian = torch.func.jacrev(denoiser.velocity)(x[row], t[row]).reshape(x[row].numel(), -1)
        assert torch.allclose(found[row], jacobian.trace(), rtol=1e-8)


def test_components_of_one_covariance_share_its_axes():
    torch.manual_seed(0)
    assert GaussianMixtureDenoiser(shared(), CosineVP()).rotation.shape == (3, 3)
    assert GaussianMixtureDenoiser(full(), CosineVP()).rotation.shape == (3, 12)
    isotropic = MixtureSameFamily(Categorical(torch.ones(2)), MultivariateNormal(torch.randn(2, 3), torch.eye(3)))
    assert GaussianMixtureDenoiser(isotropic, CosineVP()).rotation is None
    mixture = shared()
    assert torch.allclose(GaussianMixtureDenoiser(mixture, CosineVP()).data_scale, mixture.variance.sqrt())


def test_single_precision_and_a_single_gaussian():
    torch.manual_seed(2)
    mixture = full()
    double = GaussianMixtureDenoiser(mixture, RectifiedFlow())
    single = GaussianMixtureDenoiser(mixture, RectifiedFlow()).float()
    x, t = noisy(double, mixture, (200,))
    for name in ("forward", "noise"):
        found = getattr(single, name)(x.float(), t.float())
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), getattr(double, name)(x, t), atol=2e-5)
    alone = Independent(Normal(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0])), 1)
    denoiser = GaussianMixtureDenoiser(alone, CosineVP())
    alpha, sigma = (float(value) for value in CosineVP()(torch.tensor(0.4)))
    x = torch.tensor([[0.3, 0.7]])
    variance = torch.tensor([0.25, 4.0])
    expected = alone.mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * alone.mean)
    assert torch.allclose(denoiser(x, 0.4), expected)


def test_the_mixture_denoiser_goes_through_vmap_and_keeps_scalars():
    torch.manual_seed(3)
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.tensor([-1.0, 1.0]), 0.3))
    denoiser = GaussianMixtureDenoiser(mixture, CosineVP())
    x, t = torch.randn(5), torch.rand(5)
    assert denoiser(x, t).shape == (5,)
    assert torch.allclose(torch.func.vmap(denoiser)(x, t), denoiser(x, t))
    assert denoiser(torch.randn(0), 0.5).shape == (0,)


def test_bad_mixtures_are_refused():
    laplace = torch.distributions.Laplace(torch.zeros(3, 2), 1.0)
    with pytest.raises(ValueError, match="`mixture` must have MultivariateNormal or Independent"):
        GaussianMixtureDenoiser(MixtureSameFamily(Categorical(torch.ones(3)), Independent(laplace, 1)), EDM())
    batched = MixtureSameFamily(Categorical(torch.ones(4, 3)), Normal(torch.zeros(4, 3), 1.0))
    with pytest.raises(ValueError, match=r"no batch dimensions, got batch_shape \(4,\)"):
        GaussianMixtureDenoiser(batched, EDM())


class Oracle(torch.nn.Module):
    """A network that puts out exactly what it should, by looking the answer up."""

    def __init__(self):
        super().__init__()
        self.answer = None

    def forward(self, x, noise, context):
        self.seen = x, noise, context
        return self.answer


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(
    "parameterisation", [Noise(), Data(), Velocity(), Score(), Preconditioned(), Preconditioned(data_scale=0.5)]
)
def test_parameterisations_give_back_the_data(kind, parameterisation):
    torch.manual_seed(4)
    network, schedule = Oracle(), kind()
    denoiser = NetworkDenoiser(network, schedule, parameterisation, event_shape=(2, 3), context_shape=(4,))
    data, noise = torch.randn(2, 7, 2, 3, dtype=torch.float64).unbind()
    t = torch.rand(7, dtype=torch.float64)
    alpha, sigma = denoiser.path(data, t)
    x = alpha * data + sigma * noise
    alpha_slope, sigma_slope = (denoiser.over_events(value) for value in schedule.derivatives(t))
    rate = (alpha_slope * data + sigma_slope * noise) / (alpha * sigma_slope - sigma * alpha_slope)
    answers = {"Noise": noise, "Data": data, "Velocity": rate, "Score": -noise / sigma}
    skip, out, scale = (denoiser.over_events(value) for value in parameterisation.coefficients(schedule, t))
    network.answer = answers.get(type(parameterisation).__name__, (data - skip * x) / out)
    context = torch.randn(7, 4)
    assert torch.allclose(denoiser(x, t, context), data, atol=1e-9)
    assert torch.allclose(denoiser.noise(x, t, context), noise, rtol=1e-6, atol=1e-6)
    assert torch.allclose(network.seen[0], scale * x)
    assert torch.allclose(network.seen[1], 0.25 * (sigma / alpha).log().flatten(), atol=1e-9)
    assert network.seen[2] is context


def test_velocity_is_that_of_the_papers():
    t = torch.rand(9, dtype=torch.float64)
    for schedule in (LinearVP(), CosineVP(), LearnedSchedule()):  # Salimans and Ho 2022: x_0 = alpha x - sigma v
        skip, out, _ = Velocity().coefficients(schedule, t)
        alpha, sigma = schedule(t)
        assert torch.allclose(skip, alpha)
        assert torch.allclose(out, -sigma)
    skip, out, _ = Velocity().coefficients(RectifiedFlow(), t)  # x_0 = x - s v
    assert torch.allclose(skip, torch.ones_like(t))


def test_preconditioning_is_that_of_karras_and_whitens():
    t, scale = torch.rand(9, dtype=torch.float64), 0.5
    sigma = EDM()(t)[1]
    skip, out, inner = Preconditioned(data_scale=scale).coefficients(EDM(), t)
    assert torch.allclose(skip, scale**2 / (sigma**2 + scale**2))
    assert torch.allclose(out, sigma * scale / (sigma**2 + scale**2).sqrt())
    assert torch.allclose(inner, 1 / (sigma**2 + scale**2).sqrt())
    for schedule in (LinearVP(), RectifiedFlow(), SubVP()):
        alpha, sigma = schedule(t)
        skip, out, inner = Preconditioned(data_scale=scale).coefficients(schedule, t)
        assert torch.allclose(inner**2 * (alpha**2 * scale**2 + sigma**2), torch.ones_like(t))
        target = ((1 - skip * alpha) * scale) ** 2 + (skip * sigma) ** 2  # variance of x_0 - skip x
        assert torch.allclose(target / out**2, torch.ones_like(t))


class Flat(Schedule):
    def forward(self, t):
        return torch.ones_like(t), torch.ones_like(t)

    def time(self, log_snr):
        raise NotImplementedError


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`schedule` must have a strictly decreasing log-SNR, Flat"):
        NetworkDenoiser(Oracle(), Flat(), Noise(), event_shape=2)
    with pytest.raises(ValueError, match="`parameterisation` must be a Parameterisation"):
        NetworkDenoiser(Oracle(), EDM(), "noise", event_shape=2)
    with pytest.raises(ValueError, match="`data_scale` must be positive"):
        Preconditioned(data_scale=0.0)
    with pytest.raises(TypeError, match="abstract method forward"):
        Denoiser((2,), EDM())


def test_a_context_that_a_denoiser_does_not_take_is_named():
    with pytest.raises(ValueError, match="`context` must be None"):
        mlp((2,)).denoiser(torch.randn(4, 2), 0.5, torch.tensor(1))
    with pytest.raises(ValueError, match="`context` must end in shape"):
        mlp((2,), 3).denoiser(torch.randn(4, 2), 0.5, torch.zeros(4, 2))
