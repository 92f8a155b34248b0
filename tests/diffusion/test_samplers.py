import itertools
import math
import pickle

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from pyrogen.diffusion import (
    DDIM,
    Adaptive,
    Ancestral,
    Churn,
    CovarianceAncestral,
    DataPrediction,
    Euler,
    Heun,
    Multistep,
    NoisePrediction,
    PredictorCorrector,
    VelocityPrediction,
)
from pyrogen.diffusion.analytic import GaussianMixtureDenoiser
from pyrogen.diffusion.denoiser import Denoiser
from pyrogen.diffusion.samplers.ancestral import root_polynomial
from pyrogen.numerics.grids import FlowGrid, Grid, KarrasGrid, LogSNRGrid, UniformGrid
from pyrogen.numerics.schedules import EDM, VE, CosineVP, LearnedSchedule, LinearVP, RectifiedFlow, SubVP


def multistep(grid, order, corrector, prediction=None):
    prediction = VelocityPrediction() if prediction is None else prediction
    return lambda n: Multistep(grid(n), order=order, corrector=corrector, last=order, prediction=prediction)


# Deterministic samplers, with the power of the steps by which the error of a path falls.
ORDERS = {
    "euler": (lambda n: Euler(FlowGrid(n)), 1),
    "ddim": (lambda n: DDIM(FlowGrid(n)), 1),
    "heun": (lambda n: Heun(FlowGrid(n)), 2),
    "heun of edm": (lambda n: Churn(FlowGrid(n), churn=0.0), 2),
    "velocity 1": (multistep(FlowGrid, 1, 0), 1),
    "velocity 2": (multistep(FlowGrid, 2, 0), 2),
    "velocity 1 corrected": (multistep(FlowGrid, 1, 2), 2),
    "velocity 2 corrected": (multistep(FlowGrid, 2, 3), 3),
    # The last step is s = n^(-1 / 0.7) long, and Euler's error its square.
    "the default": (lambda n: Multistep(FlowGrid(n)), 2 / 0.7),
    **{f"data {k}": (multistep(LogSNRGrid, k, 0, DataPrediction()), k) for k in range(1, 5)},
    **{f"data {k} corrected": (multistep(LogSNRGrid, k, k + 1, DataPrediction()), k + 1) for k in range(1, 4)},
    **{f"noise {k}": (multistep(LogSNRGrid, k, 0, NoisePrediction()), k) for k in range(1, 5)},
}
STOCHASTIC = {
    "ancestral": lambda n: Ancestral(FlowGrid(n)),
    "ancestral of large variance": lambda n: Ancestral(FlowGrid(n), variance=1.0),
    "ddim with noise": lambda n: DDIM(FlowGrid(n), eta=0.5),
    "churn": lambda n: Churn(FlowGrid(n), churn=10.0),
    "data with noise": lambda n: Multistep(LogSNRGrid(n), order=2, prediction=DataPrediction(noise=0.7)),
    "predictor and corrector": lambda n: PredictorCorrector(DDIM(FlowGrid(n)), stride=0.2),
}


def gaussian(schedule):
    scale = torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    return GaussianMixtureDenoiser(
        MultivariateNormal(torch.tensor([1.0, -0.5]).double(), scale_tril=scale.tril()), schedule
    )


def mixture(schedule):
    means = torch.tensor([[-1.0, 0.2], [0.8, 0.9], [0.5, -1.0]], dtype=torch.float64)
    normal = Independent(Normal(means, torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).unsqueeze(-1)), 1)
    return GaussianMixtureDenoiser(MixtureSameFamily(Categorical(torch.tensor([0.5, 0.2, 0.3])), normal), schedule)


def exact_gaussian_path(denoiser, noise):
    """The solution of the probability flow for Gaussian data: along each axis the noisy data keep their quantiles."""
    mean, variance, axes = denoiser.mean[0], denoiser.variance[0], denoiser.rotation
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    (first, last), (first_noise, last_noise) = (value.tolist() for value in denoiser.schedule(ends))
    deviation = (first_noise * noise - first * mean) @ axes
    ratio = ((last**2 * variance + last_noise**2) / (first**2 * variance + first_noise**2)).sqrt()
    return last * mean + (deviation * ratio) @ axes.mT


def slope(make, denoiser, noise, exact, few, many):
    errors = [(make(n)(denoiser, noise) - exact).norm(dim=-1).mean() for n in (few, many)]
    return math.log(errors[0] / errors[1]) / math.log(many / few)


@pytest.mark.parametrize("name", ORDERS)
def test_error_falls_at_the_theoretical_order_for_gaussian_data(name):
    torch.manual_seed(0)
    make, order = ORDERS[name]
    denoiser, noise = gaussian(CosineVP()), torch.randn(50, 2, dtype=torch.float64)
    found = slope(make, denoiser, noise, exact_gaussian_path(denoiser, noise), 150, 300)
    # The path of a Gaussian is symmetric in the log-SNR: there order three turns out as four.
    assert order - 0.2 < found < order + (0.2 if order != 3 else 1.2)


@pytest.mark.parametrize("name", ORDERS)
def test_error_falls_at_the_theoretical_order_for_a_mixture(name):
    torch.manual_seed(1)
    make, order = ORDERS[name]
    denoiser, noise = mixture(RectifiedFlow()), torch.randn(20, 2, dtype=torch.float64)
    exact = Adaptive(tolerance=1e-10)(denoiser, noise)
    # The default's is less at the end of the schedule, which its shortest steps come near.
    assert abs(slope(make, denoiser, noise, exact, 250, 500) - order) < (0.3 if order == int(order) else 0.6)


@pytest.mark.parametrize("schedule", [LinearVP(), SubVP(), CosineVP(), VE(), EDM(), RectifiedFlow()])
def test_every_schedule_leads_to_the_same_data(schedule):
    torch.manual_seed(2)
    denoiser, noise = gaussian(schedule), torch.randn(20, 2, dtype=torch.float64)
    exact = exact_gaussian_path(denoiser, noise)
    for sampler in (Multistep(FlowGrid(60)), Heun(KarrasGrid(60)), Adaptive(tolerance=1e-6)):
        assert torch.allclose(sampler(denoiser, noise), exact, atol=5e-3)


def moments(sampler, denoiser, draws):
    torch.manual_seed(3)
    x = sampler(denoiser, torch.randn(draws, 1, dtype=torch.float64))
    return x.mean().item(), x.var().item()


def conditioned(alpha, sigma, next_alpha, next_sigma):
    """The Gaussian q(x_s | x_t, x_0) by conditioning the joint of (x_s, x_t) given x_0: two slopes and a variance."""
    step = alpha / next_alpha
    covariance = step * next_sigma**2  # of x_s and x_t
    gain = covariance / sigma**2
    return gain, next_alpha - gain * alpha, next_sigma**2 - gain * covariance


@pytest.mark.parametrize("kind", ["ancestral", "large", "ddim", "langevin"])
def test_stochastic_samplers_have_the_moments_of_their_recursion(kind):
    """For Gaussian data every step is linear: mean and variance have an exact recursion, however coarse the grid."""
    mean, variance, steps = 0.7, 0.25, 6
    denoiser = GaussianMixtureDenoiser(Independent(Normal(torch.tensor([mean]).double(), variance**0.5), 1), CosineVP())
    grid = FlowGrid(steps)
    eta, stride = 0.6, 0.5
    sampler = {
        "ancestral": Ancestral(grid),
        "large": Ancestral(grid, variance=1.0),
        "ddim": DDIM(grid, eta=eta),
        "langevin": PredictorCorrector(DDIM(grid, eta=eta), stride=stride, corrections=2),
    }[kind]
    alpha, sigma = (value.tolist() for value in denoiser.schedule(grid(denoiser.schedule)))
    found_mean, found_variance = 0.0, sigma[0] ** 2

    def move(noisy, denoised, fresh, i):
        """The moments after x -> noisy x + denoised D(x, t_i) + noise of variance fresh, D linear in x."""
        gain = alpha[i] * variance / (alpha[i] ** 2 * variance + sigma[i] ** 2)
        slope = noisy + denoised * gain
        shift = denoised * (mean - gain * alpha[i] * mean)
        return slope * found_mean + shift, slope**2 * found_variance + fresh

    for i in range(steps):
        noisy, denoised, posterior = conditioned(alpha[i], sigma[i], alpha[i + 1], sigma[i + 1])
        fresh = posterior
        if kind == "large" and i < steps - 1:
            fresh = sigma[i] ** 2 - (alpha[i] / alpha[i + 1]) ** 2 * sigma[i + 1] ** 2
        if kind in ("ddim", "langevin"):
            fresh = eta**2 * posterior
            noisy = math.sqrt(sigma[i + 1] ** 2 - fresh) / sigma[i]
            denoised = alpha[i + 1] - noisy * alpha[i]
        found_mean, found_variance = move(noisy, denoised, fresh, i)
        for _ in range(2 if kind == "langevin" and i < steps - 1 else 0):
            # sigma^2 score = alpha D - x
            pull = stride**2 / 2
            found_mean, found_variance = move(1 - pull, pull * alpha[i + 1], (stride * sigma[i + 1]) ** 2, i + 1)
    drawn_mean, drawn_variance = moments(sampler, denoiser, 200_000)
    assert abs(drawn_mean - found_mean) < 5 * math.sqrt(found_variance / 200_000)
    assert abs(drawn_variance - found_variance) < 5 * found_variance * math.sqrt(2 / 200_000)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_converge_to_the_moments_of_the_data(name):
    denoiser = GaussianMixtureDenoiser(Independent(Normal(torch.tensor([0.7]).double(), 0.5), 1), CosineVP())
    mean, variance = moments(STOCHASTIC[name](200), denoiser, 20_000)
    # Five standard errors, and the bias of 200 steps of order one (or of the Langevin step's length).
    assert abs(mean - 0.7) < 5 * 0.5 / math.sqrt(20_000) + 0.004
    assert abs(variance - 0.25) < 5 * 0.25 * math.sqrt(2 / 20_000) + 0.25 * 0.02


@pytest.mark.parametrize("name", [*ORDERS, *STOCHASTIC])
def test_every_sampler_reaches_the_distribution_of_the_data(name):
    """A Kolmogorov-Smirnov distance along a line, at most that of exact draws (at level 1e-6) plus a bias."""
    torch.manual_seed(4)
    denoiser, draws = mixture(CosineVP()), 4000
    make = {**{key: value[0] for key, value in ORDERS.items()}, **STOCHASTIC}[name]
    x = make(100)(denoiser, torch.randn(draws, 2, dtype=torch.float64))
    line = torch.tensor([0.6, 0.8], dtype=torch.float64)
    sorted_x = (x @ line).sort().values
    scales = denoiser.variance[:, 0].sqrt()
    exact = (Normal(denoiser.mean @ line, scales).cdf(sorted_x.unsqueeze(-1)) * denoiser.log_weight.exp()).sum(-1)
    distance = (exact - (torch.arange(draws) + 0.5) / draws).abs().max()
    assert distance < math.sqrt(math.log(2e6) / (2 * draws)) + 0.02


def test_equal_samplers_are_equal():
    torch.manual_seed(5)
    denoiser, noise = mixture(LinearVP()), torch.randn(3, 4, 2, dtype=torch.float64)
    grid = KarrasGrid(9)
    ddim = DDIM(grid)(denoiser, noise)
    assert torch.allclose(Euler(grid)(denoiser, noise), ddim)
    for prediction in (DataPrediction(), NoisePrediction(), VelocityPrediction()):
        assert torch.allclose(Multistep(grid, order=1, corrector=0, prediction=prediction)(denoiser, noise), ddim)
    assert torch.allclose(Churn(grid, churn=0.0)(denoiser, noise), Heun(grid)(denoiser, noise))

    def seeded(sampler):
        torch.manual_seed(6)
        return sampler(denoiser, noise)

    ancestral = seeded(Ancestral(grid))
    assert torch.allclose(seeded(DDIM(grid, eta=1.0)), ancestral)
    reverse = Multistep(grid, order=1, corrector=0, prediction=DataPrediction(noise=1.0))
    assert torch.allclose(seeded(reverse), ancestral)
    assert torch.allclose(PredictorCorrector(DDIM(grid), corrections=0)(denoiser, noise), ddim)


def test_second_order_in_data_is_dpm_solver_plus_plus():
    """Its own formula (Lu et al. 2022b, algorithm 2) agrees up to terms of the order of the method."""
    torch.manual_seed(7)
    denoiser, noise = mixture(CosineVP()), torch.randn(10, 2, dtype=torch.float64)

    def published(steps):
        times = LogSNRGrid(steps)(denoiser.schedule)
        alpha, sigma = (value.tolist() for value in denoiser.schedule(times))
        level = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
        x, last, last_gap = sigma[0] * noise, None, None
        for i in range(steps):
            data, gap = denoiser(x, times[i]), level[i + 1] - level[i]
            # A first or last step much longer than its neighbour is of order one here.
            far = last is None or gap > 3 * last_gap
            mixed = data if far else data + gap / last_gap / 2 * (data - last)
            x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-gap) * mixed
            last, last_gap = data, gap
        return x

    ours = [multistep(LogSNRGrid, 2, 0, DataPrediction())(n)(denoiser, noise) for n in (100, 200)]
    gaps = [(one - published(n)).abs().max() for one, n in zip(ours, (100, 200), strict=True)]
    assert gaps[0] < 2e-2
    assert 3 < gaps[0] / gaps[1] < 6


def test_few_steps_are_good_enough_by_default():
    """The defaults need no tuning: 25 modes at 10 evaluations, under any schedule."""
    torch.manual_seed(8)
    lattice = torch.cartesian_prod(*[torch.arange(-2.0, 3.0, dtype=torch.float64)] * 2) / math.sqrt(2.0144)
    normal = Independent(Normal(lattice, 0.12 / math.sqrt(2.0144)), 1)
    data = MixtureSameFamily(Categorical(torch.ones(25)), normal)
    noise = torch.randn(500, 2, dtype=torch.float64)
    for schedule in (RectifiedFlow(), CosineVP(), LinearVP(), EDM()):
        denoiser = GaussianMixtureDenoiser(data, schedule)
        exact = Adaptive(tolerance=1e-7)(denoiser, noise)
        error = (Multistep(FlowGrid(10))(denoiser, noise) - exact).norm(dim=-1).mean()
        assert error < 0.02


@pytest.mark.parametrize("name", [*ORDERS, *STOCHASTIC])
def test_shapes_dtypes_and_gradients(name):
    sampler = {**{key: value[0] for key, value in ORDERS.items()}, **STOCHASTIC}[name](4)
    denoiser = mixture(CosineVP()).float()
    for batch in ((), (3,), (2, 3), (0,)):
        torch.manual_seed(9)
        noise = torch.randn(*batch, 2, requires_grad=True)
        x = sampler(denoiser, noise)
        assert x.shape == noise.shape
        assert x.dtype == torch.float32
        (grad,) = torch.autograd.grad(x.sum(), noise)
        assert grad.isfinite().all()


def test_a_trajectory_visits_every_time():
    denoiser, noise = mixture(CosineVP()), torch.randn(5, 2, dtype=torch.float64)
    for sampler in (Multistep(FlowGrid(6)), Heun(FlowGrid(6)), Adaptive(FlowGrid(6), tolerance=1e-6)):
        states = list(sampler.trajectory(denoiser, noise))
        assert len(states) == 7
        assert torch.equal(states[0], denoiser.schedule(torch.tensor(1.0, dtype=torch.float64))[1] * noise)
        assert torch.equal(states[-1], sampler(denoiser, noise))
    fine = list(Multistep(FlowGrid(60)).trajectory(denoiser, noise))
    assert torch.allclose(states[3], list(itertools.islice(fine, 31))[-1], atol=1e-2)


class Labelled(Denoiser):
    """Data at the context, exactly."""

    def __init__(self, shape=(2,)):
        super().__init__((2,), CosineVP(), context_shape=shape)

    def forward(self, x, t, context=None):
        value = context["shift"] if isinstance(self.context_shape, dict) else context
        return value.expand(x.shape)


def test_context_reaches_the_denoiser():
    noise = torch.randn(3, 4, 2, dtype=torch.float64)
    for context in (torch.randn(2).double(), torch.randn(4, 2).double(), torch.randn(3, 1, 2).double()):
        for sampler in (Multistep(FlowGrid(5)), Adaptive(), Ancestral(FlowGrid(5))):
            expected = context.expand(3, 4, 2)
            assert torch.allclose(sampler(Labelled(), noise, context), expected, atol=0.01)
            named = Labelled({"shift": (2,)})
            assert torch.allclose(sampler(named, noise, {"shift": context}), expected, atol=0.01)
    with pytest.raises(ValueError, match="`context` must end in shape"):
        Multistep()(Labelled(), noise)


def test_adaptive_draws_do_not_depend_on_batch_mates():
    torch.manual_seed(10)
    denoiser, noise = mixture(CosineVP()), torch.randn(8, 2, dtype=torch.float64)
    together = Adaptive(tolerance=1e-3)(denoiser, noise)
    alone = torch.stack([Adaptive(tolerance=1e-3)(denoiser, row) for row in noise])
    assert torch.allclose(together, alone, atol=1e-10)


def test_a_kept_plan_never_outlives_what_it_depends_on():
    torch.manual_seed(11)
    noise = torch.randn(4, 2, dtype=torch.float64)
    for make in (lambda: Multistep(FlowGrid(7)), lambda: DDIM(KarrasGrid(7)), lambda: Churn(FlowGrid(7), churn=0.0)):
        sampler, learned = make(), LearnedSchedule()
        changed = mixture(LinearVP())
        for denoiser in (mixture(CosineVP()), mixture(EDM()), changed, mixture(CosineVP()).float(), mixture(learned)):
            like = noise.to(denoiser.mean)
            assert torch.equal(sampler(denoiser, like), make()(denoiser, like))
        sampler(changed, noise)
        changed.schedule.beta_max = 12.0
        assert torch.equal(sampler(changed, noise), make()(changed, noise))
        denoiser = mixture(learned)
        sampler(denoiser, noise)
        torch.nn.init.normal_(learned.log_rate)
        assert torch.equal(sampler(denoiser, noise), make()(denoiser, noise))
        assert torch.equal(pickle.loads(pickle.dumps(sampler))(changed, noise), sampler(changed, noise))


def test_sampling_goes_through_vmap():
    torch.manual_seed(12)
    noise, context = torch.randn(2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    sampler = Multistep(FlowGrid(4))
    drawn = torch.func.vmap(lambda c: list(sampler.trajectory(Labelled(), noise, c))[-1])(context)
    assert torch.allclose(drawn, sampler(Labelled(), noise.expand(5, 2), context))


class Broken(Denoiser):
    """Fails below a time, in one of several ways."""

    def __init__(self, fault):
        super().__init__((2,), CosineVP())
        self.fault = fault

    def forward(self, x, t, context=None):
        return x if t > 0.5 else self.fault(x)


@pytest.mark.parametrize(
    "sampler", [Multistep(UniformGrid(8)), Heun(UniformGrid(8)), Ancestral(UniformGrid(8)), Churn(UniformGrid(8))]
)
def test_what_a_denoiser_does_wrong_is_named_with_step_and_time(sampler):
    noise = torch.randn(3, 2)
    where = r"at step [34] \(t = 0\.\d+\)"
    with pytest.raises(ValueError, match=r"must keep the shape \(3, 2\), got \(3, 1\) " + where):
        sampler(Broken(lambda x: x[..., :1]), noise)
    with pytest.raises(ValueError, match=r"gave 2 of 6 numbers not finite " + where):
        sampler(Broken(lambda x: torch.where(torch.arange(3)[:, None] == 1, math.nan, x)), noise)


class Given(Grid):
    def __init__(self, times):
        self.times = torch.tensor(times, dtype=torch.float64)

    def __call__(self, schedule):
        return self.times


def test_bad_arguments_are_named():
    denoiser, noise = mixture(CosineVP()), torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"times in \[0, 1\], got 1.2 at step 1"):
        Euler(Given([1.0, 1.2, 0.0]))(denoiser, noise)
    with pytest.raises(ValueError, match=r"falling times, got 0.5 after 0.5 at step 2"):
        Euler(Given([1.0, 0.5, 0.5, 0.0]))(denoiser, noise)
    with pytest.raises(ValueError, match=r"`noise` must end in shape \(2,\), got \(3,\)"):
        Euler(FlowGrid(3))(denoiser, noise[:, 0])
    for make, message in (
        (lambda: Euler(20), "`grid` must be a grid of times such as FlowGrid"),
        (lambda: DDIM(FlowGrid(3), eta=2.0), r"`eta` must lie in \[0, 1\], got 2"),
        (lambda: Ancestral(FlowGrid(3), variance=-1.0), r"`variance` must lie in \[0, 1\]"),
        (lambda: Multistep(order=0), "`order` must be at least 1"),
        (lambda: Multistep(last=0), "`last` must be at least 1"),
        (lambda: Multistep(corrector=1), "`corrector` must be 0 or at least 2"),
        (lambda: DataPrediction(noise=-1), "`noise` must not be negative"),
        (lambda: Churn(FlowGrid(3), churn=-1.0), "`churn` must not be negative"),
        (lambda: Churn(FlowGrid(3), minimum=2.0, maximum=1.0), "0 <= minimum <= maximum"),
        (lambda: PredictorCorrector(Euler(FlowGrid(3))), "`predictor` must be a DDIM or Ancestral sampler"),
        (lambda: PredictorCorrector(DDIM(FlowGrid(3)), stride=0.0), "`stride` must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_draws_of_the_datum_with_its_covariance_are_those_of_a_gaussian_given_noisy_data():
    """Mean and covariance of data given one noisy datum, where ancestral steps lose a part of the variance."""
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.double)
    denoiser = GaussianMixtureDenoiser(MultivariateNormal(torch.zeros(2).double(), covariance), CosineVP())
    noise, count = 0.8, 20_000
    time = denoiser.schedule.time(torch.tensor(-2 * math.log(noise)).double()).item()
    noisy = torch.tensor([1.0, -0.5]).double()
    gain = covariance @ torch.linalg.inv(covariance + noise**2 * torch.eye(2))
    exact = covariance - gain @ covariance

    def missed(sampler):
        draws = sampler(denoiser, (noisy / noise).expand(count, 2))
        assert ((draws.mean(0) - gain @ noisy).abs() < 5 * (exact.diagonal() / count).sqrt() + 0.02).all()
        return ((draws.T.cov() - exact).abs().max() / exact.max()).item()

    statistical = 5 * (2 / count) ** 0.5
    grid = FlowGrid(12, start=time)
    assert missed(CovarianceAncestral(grid, passes=3)) < 0.02 + statistical
    assert missed(CovarianceAncestral(grid)) < 0.05 + statistical
    assert missed(Ancestral(grid)) > 0.1 + statistical


@pytest.mark.parametrize(("passes", "error"), [(2, 0.1), (3, 0.05), (4, 0.031)])
def test_the_square_of_the_root_polynomial_is_near_its_argument(passes, error):
    points = torch.linspace(0, 1, 500, dtype=torch.double)
    root = sum(part * points ** (place + 1) for place, part in enumerate(root_polynomial(passes)))
    assert (root.square() - points).abs().max() < error
