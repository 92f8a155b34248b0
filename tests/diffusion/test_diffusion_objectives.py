"""Objectives: one minimizer for all weightings, and a schedule that learns to be sharp."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.diffusion import (
    CosineVP,
    DenoisingScoreMatching,
    Diffusion,
    EDMWeighting,
    GaussianMixtureDenoiser,
    LearnedSchedule,
    LearnedUncertainty,
    LikelihoodWeighting,
    MinSNRWeighting,
    UniformWeighting,
    VariationalBound,
    mlp,
)
from pyrogen.diffusion.denoiser import Denoiser
from pyrogen.testing import check_objective

WEIGHTINGS = {
    "uniform": UniformWeighting,
    "min-SNR": MinSNRWeighting,
    "EDM": lambda: EDMWeighting(data_scale=0.8),
    "likelihood": LikelihoodWeighting,
    "learned uncertainty": lambda: LearnedUncertainty(UniformWeighting()),
}
OBJECTIVES = {
    **{name: lambda d, make=make: DenoisingScoreMatching(d, make()).double() for name, make in WEIGHTINGS.items()},
    "bound": VariationalBound,
}
DATA = dist.MixtureSameFamily(
    dist.Categorical(torch.tensor([0.4, 0.6], dtype=torch.double)),
    dist.Independent(dist.Normal(torch.tensor([[-1.0, 0.3], [0.8, -0.4]], dtype=torch.double), 0.4), 1),
)


class Moved(Denoiser):
    """The optimal denoiser, moved in directions of its own: a constant, and a stretch that depends on the noise."""

    def __init__(self, optimal, move):
        super().__init__(optimal.event_shape, optimal.schedule)
        self.optimal = optimal
        self.move = nn.Parameter(torch.tensor(move, dtype=torch.double))

    def forward(self, x, t, context=None):
        level = torch.tanh(0.3 * self.schedule.log_snr(self.times(x, t)))
        scale = self.over_events(self.schedule(self.times(x, t))[1])  # small where there is little noise
        return self.optimal(x, t) + scale * (
            self.move[0] + self.move[1] * x + self.move[2] * self.over_events(level) * x
        )


def slopes(name, move, repeats=40):
    """The gradient in the moves, and its standard error."""
    torch.manual_seed(0)
    module = Diffusion(Moved(GaussianMixtureDenoiser(DATA, CosineVP()), move))
    objective = OBJECTIVES[name](module)
    found = [torch.autograd.grad(objective(DATA.sample((1000,))), module.denoiser.move)[0] for _ in range(repeats)]
    found = torch.stack(found)
    return found.mean(0), found.std(0) / math.sqrt(repeats)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_posterior_mean_is_the_minimizer(name):
    slope, error = slopes(name, [0.0, 0.0, 0.0])
    assert (slope.abs() < 4 * error).all()
    for index in range(3):
        move = [0.0, 0.0, 0.0]
        move[index] = 0.2
        slope, error = slopes(name, move, repeats=10)
        assert slope[index] > 4 * error[index]  # and downhill leads back to it


def test_a_bound_is_what_the_model_says():
    torch.manual_seed(0)
    module = Diffusion(GaussianMixtureDenoiser(DATA, CosineVP()), draws=4)
    x = DATA.sample((20_000,))
    loss, score = VariationalBound(module)(x), -module().log_prob(x)
    assert abs(loss - score.mean()) < 4 * 2 * score.std() / math.sqrt(20_000)  # one draw is twice as noisy as four
    assert isinstance(module.objective(), VariationalBound)


def test_learned_uncertainty_learns_the_mean_loss_of_every_level():
    torch.manual_seed(0)
    data = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    module = Diffusion(GaussianMixtureDenoiser(data, CosineVP()))
    weighting = LearnedUncertainty(LikelihoodWeighting(), width=32)
    objective = DenoisingScoreMatching(module, weighting)
    pg.fit(
        objective,
        data.sample((4096,)),
        steps=400,
        batch_size=1024,
        seed=0,
        optimizer=lambda p: torch.optim.Adam(p, 1e-2),
    )
    log_snr = torch.linspace(-4, 6, 6)
    u = torch.linspace(0.001, 0.999, 2001)
    t, density = weighting.times(u, module.denoiser.schedule)
    density = torch.stack([density[(module.denoiser.schedule.log_snr(t) - at).abs().argmin()] for at in log_snr])
    expected = 0.5 * torch.sigmoid(log_snr) / density  # E of the squared error of the noise is v / (1 + v)
    with torch.no_grad():
        found = weighting.last(nn.functional.silu(weighting.level(-log_snr / 8))).squeeze(-1).exp()
    assert ((found / expected).log().abs() < 0.25).all()


def test_the_shape_of_a_schedule_descends_the_variance_and_its_ends_the_bound():
    torch.manual_seed(0)
    x = DATA.sample((512,))
    module = Diffusion(GaussianMixtureDenoiser(DATA, LearnedSchedule().double()))
    schedule = module.denoiser.schedule
    objective = VariationalBound(module)

    def seeded(function):
        torch.manual_seed(1)
        return function()

    def bound():
        return module().bound(*module.noise_draw(x))

    objective_gradients = torch.autograd.grad(seeded(lambda: objective(x)), list(schedule.parameters()))
    plain = torch.autograd.grad(-seeded(bound).mean(), [schedule.first, schedule.log_span])
    variance = torch.autograd.grad(seeded(bound).var(unbiased=False), schedule.log_rate)
    assert torch.allclose(torch.stack(objective_gradients[:2]), torch.stack(plain))
    assert torch.allclose(objective_gradients[2], variance[0])

    before = seeded(bound).std()
    pg.fit(objective, x, steps=150, batch_size=256, seed=0, optimizer=lambda p: torch.optim.Adam(p, 3e-2))
    assert seeded(bound).std() < 0.9 * before
    assert objective(x) != objective(x)  # fresh noise
    with torch.no_grad():
        assert objective(x).isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uniform", "min-SNR", "EDM", "learned uncertainty", "bound"])
def test_a_network_trained_on_a_gaussian_reaches_the_closed_form(name):
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]])
    data = dist.MultivariateNormal(torch.tensor([0.3, -0.2]), covariance)
    module = mlp((2,), width=64, depth=2)
    objective = OBJECTIVES[name](module).float()
    x = data.sample((20_000,))
    schedule = lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)  # noqa: E731
    pg.fit(objective, x, steps=1500, batch_size=512, ema=0.99, schedule=schedule, seed=0)
    optimal = GaussianMixtureDenoiser(data, module.denoiser.schedule)
    test = data.sample((2000,))
    for time in (0.2, 0.4, 0.6, 0.8):
        alpha, sigma = module.denoiser.schedule(torch.tensor(time))
        noisy = alpha * test + sigma * torch.randn_like(test)
        with torch.no_grad():
            error = (module.denoiser(noisy, time) - optimal(noisy, time)).square().mean().sqrt()
        assert error < 0.06  # in units of the data's scale, whose posterior deviation there is 0.2 to 0.9


def test_contracts():
    torch.manual_seed(0)
    x = torch.randn(8, 2)
    learned = ("gradients_reach_parameters", "deepcopy", "pickling")  # one gradient is not the loss's own, on purpose
    for make, only in (
        (lambda: VariationalBound(mlp((2,), width=8, depth=1)), ()),
        (lambda: VariationalBound(mlp((2,), width=8, depth=1, schedule=LearnedSchedule())), learned),
        (lambda: DenoisingScoreMatching(mlp((2,), width=8, depth=1), LearnedUncertainty(EDMWeighting(), width=8)), ()),
    ):
        check_objective(make, batch=(x,), only=only).raise_if_failed()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinSNRWeighting(gamma=0.0), "`gamma` must be positive"),
        (lambda: EDMWeighting(data_scale=0.0), "`data_scale` must be positive"),
        (lambda: VariationalBound(mlp((2,)))(torch.zeros(3)), "`x` must end in shape"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
