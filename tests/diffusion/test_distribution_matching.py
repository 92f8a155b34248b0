"""Distribution matching of Gaussians, whose gradients are known."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.diffusion import CosineVP, DistributionMatching, LearnedSchedule, RectifiedFlow
from pyrogen.diffusion.denoiser import Denoiser

MEAN, SCALE = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])


class Gaussian(Denoiser):
    """The exact denoiser of a Gaussian, whose mean and scale can be learned."""

    def __init__(self, mean, scale, schedule=None):
        super().__init__((2,), CosineVP() if schedule is None else schedule)
        self.mean, self.log_scale = nn.Parameter(mean.clone()), nn.Parameter(scale.log())

    def forward(self, x, t, context=None):
        alpha, sigma = self.path(x, t)
        variance = (2 * self.log_scale).exp()
        return self.mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * self.mean)


class Moved(pg.DistributionModule):
    """Gaussian draws, with gradients and, as far as anybody knows, without a density."""

    density = None

    def __init__(self, mean, scale):
        super().__init__((2,))
        self.mean, self.log_scale = nn.Parameter(mean.clone()), nn.Parameter(scale.log())

    def forward(self, context=None):
        return dist.Normal(self.mean, self.log_scale.exp()).to_event(1)


def test_the_gradient_is_that_of_the_divergence_of_gaussians():
    mean, scale, t = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 2.0]), 0.4
    generator = Moved(mean, scale)
    at = lambda uniform, schedule: (torch.full_like(uniform, t), torch.ones_like(uniform))  # noqa: E731
    matching = DistributionMatching(generator, Gaussian(MEAN, SCALE), student=Gaussian(mean, scale), times=at)
    matching.generator_loss(torch.zeros(7, 2)).backward()
    alpha, sigma = CosineVP()(torch.tensor(t))
    # Of one scale, the two expect data apart by their means, less what they see of the noisy datum.
    expected = (mean - MEAN) * (1 - alpha**2 * scale**2 / (alpha**2 * scale**2 + sigma**2))
    assert torch.allclose(generator.mean.grad, expected, atol=1e-5)
    assert matching.student.mean.grad is None
    # The divergence of the noisy densities is (m - mu)^2 alpha^2 / 2 v: its gradient, by sigma^2 / alpha^2.
    variance = alpha**2 * scale**2 + sigma**2
    assert torch.allclose(expected, (mean - MEAN) * alpha**2 / variance * sigma**2 / alpha**2, atol=1e-6)


def test_a_generator_of_gaussians_becomes_the_teachers():
    torch.manual_seed(0)
    generator = Moved(torch.zeros(2), torch.ones(2))
    student = Gaussian(torch.zeros(2), torch.ones(2))
    matching = DistributionMatching(generator, Gaussian(MEAN, SCALE), student=student, student_steps=1)
    rows = torch.zeros(256, 2)
    pg.fit(matching, rows, steps=400, batch_size=256, lr=0.03, ema=0.97, seed=0)
    assert torch.allclose(generator.mean, MEAN, atol=0.15)
    assert torch.allclose(generator.log_scale.exp(), SCALE, rtol=0.1)
    assert matching.metric(generator().sample((500,))).isfinite()


def test_contexts_reach_all_three():
    torch.manual_seed(0)
    teacher = pg.diffusion.mlp((2,), (), classes=3, width=16, depth=1)
    generator = pg.diffusion.flow_map((2,), (), classes=3, width=16, depth=1)
    before = [parameter.clone() for parameter in generator.parameters()]
    matching = DistributionMatching(generator, teacher.denoiser)
    pg.fit(matching, (torch.randn(30, 2), torch.randint(3, (30,))), steps=4, batch_size=10)
    assert any(not torch.equal(one, two) for one, two in zip(before, generator.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in matching.teacher.parameters())


def test_a_teacher_in_closed_form_and_a_student_of_another_kind():
    exact = pg.diffusion.GaussianMixtureDenoiser(dist.Normal(MEAN, SCALE).to_event(1), CosineVP())
    student = pg.diffusion.mlp((2,), width=8, depth=1).denoiser
    generator = pg.diffusion.flow_map((2,), width=8, depth=1)
    fit = pg.fit(DistributionMatching(generator, exact, student=student), torch.zeros(20, 2), steps=2, batch_size=10)
    assert len(fit.history.loss) == 2


def test_refusals():
    with pytest.raises(ValueError, match="`generator` must have the event_shape \\(2,\\) of `teacher`, got \\(3,\\)"):
        DistributionMatching(pg.diffusion.flow_map((3,), width=8, depth=1), Gaussian(MEAN, SCALE))
    with pytest.raises(ValueError, match="`student` must have the schedule"):
        DistributionMatching(Moved(MEAN, SCALE), Gaussian(MEAN, SCALE), student=Gaussian(MEAN, SCALE, RectifiedFlow()))
    exact = pg.diffusion.GaussianMixtureDenoiser(dist.Normal(MEAN, SCALE).to_event(1), CosineVP())
    with pytest.raises(ValueError, match="`student` must be a denoiser with parameters to train"):
        DistributionMatching(Moved(MEAN, SCALE), exact)
    with pytest.raises(TypeError, match="`teacher`"):
        DistributionMatching(Moved(MEAN, SCALE), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="`student_steps`"):
        DistributionMatching(Moved(MEAN, SCALE), Gaussian(MEAN, SCALE), student_steps=0)


def test_the_student_keeps_the_noise_of_the_teacher():
    teacher = pg.diffusion.mlp((2,), width=8, depth=1, schedule=LearnedSchedule()).denoiser
    matching = DistributionMatching(pg.diffusion.flow_map((2,), width=8, depth=1), teacher)
    pg.fit(matching, torch.zeros(20, 2), steps=3, batch_size=10, lr=0.1)
    t = torch.linspace(0, 1, 5)
    assert torch.equal(matching.student.schedule.log_snr(t), teacher.schedule.log_snr(t))
    flow_map = pg.diffusion.flow_map((2,), width=8, depth=1, schedule=LearnedSchedule())
    objective = pg.diffusion.LagrangianDistillation(flow_map, teacher=teacher)
    pg.fit(objective, torch.zeros(20, 2), steps=3, batch_size=10, lr=0.1)
    assert torch.equal(flow_map.denoiser.schedule.log_snr(t), teacher.schedule.log_snr(t))


def test_what_cannot_be_matched_is_named():
    teacher = pg.diffusion.mlp((2,), (), classes=3, width=8, depth=1).denoiser
    generator = pg.diffusion.flow_map((2,), (), classes=3, width=8, depth=1)
    other = pg.diffusion.mlp((2,), width=8, depth=1).denoiser
    with pytest.raises(ValueError, match=r"`student` must have context_shape \(\), got None"):
        DistributionMatching(generator, teacher, student=other)
    with pytest.raises(TypeError, match="`times` must be callable, got float"):
        DistributionMatching(generator, teacher, times=0.5)
    without_gradients = pg.diffusion.mlp((2,), width=8, depth=1)
    with pytest.raises(NotImplementedError, match="draws of DiffusionDistribution carry no gradients"):
        pg.fit(DistributionMatching(without_gradients, other), torch.zeros(20, 2), steps=1)
