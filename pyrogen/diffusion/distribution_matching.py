r"""Distribution matching: a trained denoiser, distilled into a generator by the difference of two scores.

The draws of a generator and the data, both made noisy, differ by :math:`\operatorname{KL}(q_t \,\|\, p_t)` at every
noise level. Its gradient moves each draw along the difference of the two scores, that is, of two denoisers: the
*teacher* knows :math:`p_t`, and a *student* learns :math:`q_t` from the draws as they are now. With draws :math:`x`,
their noisy versions :math:`x_t` and :math:`d` the scale of the data, the generator descends along

.. math:: \nabla_\theta \mathcal{L} = \mathbb{E}_{t, x, x_t} \frac{1}{d} \bigl( D_\text{student}(x_t, t) -
    D_\text{teacher}(x_t, t) \bigr)^\top \frac{\partial x}{\partial \theta} ,

and the student by denoising. So there are two turns, as in a game; the two do not oppose each other, and the student
only follows. Data serve to count the rows and give their contexts: the generator never sees them.

References:
    Yin, Gharbi, Zhang, Shechtman, Durand, Freeman and Park 2024, "One-step diffusion with distribution matching
    distillation", https://arxiv.org/abs/2311.18828
    Luo, Hu, Zhang, Sun, Li and Zhang 2023, "Diff-Instruct: a universal approach for transferring knowledge from
    pre-trained diffusion models", https://arxiv.org/abs/2305.18455
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, function, instance_of, integer
from pyrogen.core.modes import evaluating
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.reparameterized import reparameterized
from pyrogen.core.shapes import Context, context_of_each
from pyrogen.networks.statistics import ReadsData, Statistic
from pyrogen.numerics.rows import by_datum
from pyrogen.numerics.times import LogNormalTimes, Times, stratified
from pyrogen.training.turn import TakesTurns, Turn

from .denoiser import Denoiser
from .guidance import require_alike


class DistributionMatching(TakesTurns, ReadsData, nn.Module):
    """A generator that is to draw like a trained denoiser's data, for ``fit(matching, x)`` or ``(x, context)``.

    Args:
        generator: What is trained: any module whose draws carry gradients, such as a
            :class:`~pyrogen.diffusion.few_steps.FlowMap` of one step.
        teacher: A trained denoiser of the same events and contexts, guided perhaps; a copy is kept.
        student: The denoiser that learns the generator's draws, under the same schedule, which stays as it is; a copy
            of the teacher if ``None``. A teacher in closed form needs another; the copy of a guided one is guided, and
            takes as many passes.
        times: At which noise levels both are compared; log-normal, around the scale of the data, if ``None``.
        student_steps: Steps of the student for each one of the generator; a student that lags behind leads astray.

    Raises:
        ValueError: events, contexts or schedules differ, or the student has nothing to train.
        TypeError: an argument is of another kind.
        NotImplementedError: in training, draws of the generator carry no gradients.

    Example:
        >>> import pyrogen as pg
        >>> teacher = pg.diffusion.mlp((2,), width=16, depth=1)
        >>> generator = pg.diffusion.flow_map((2,), width=16, depth=1)
        >>> _ = pg.fit(DistributionMatching(generator, teacher.denoiser), torch.randn(64, 2), steps=3)
        >>> generator().sample((5,)).shape
        torch.Size([5, 2])
    """

    @checked(
        generator=instance_of(DistributionModule),
        teacher=instance_of(Denoiser),
        times=function,
        student_steps=integer,
    )
    def __init__(
        self,
        generator: DistributionModule,
        teacher: Denoiser,
        *,
        student: Denoiser | None = None,
        times: Times | None = None,
        student_steps: int = 4,
    ) -> None:
        super().__init__()
        for name in ("event_shape", "context_shape"):
            wanted, got = getattr(teacher, name), getattr(generator, name)
            if wanted != got:
                raise ValueError(f"`generator` must have the {name} {wanted} of `teacher`, got {got}")
        self.generator = generator
        self.teacher = copy.deepcopy(teacher).requires_grad_(False)
        self.student = copy.deepcopy(teacher) if student is None else student
        require_alike(teacher, self.student, "student", contexts=True)
        self.student.schedule.requires_grad_(False)  # the noise is the teacher's
        if not any(parameter.requires_grad for parameter in self.student.parameters()):
            raise ValueError("`student` must be a denoiser with parameters to train, got none")
        self.times = _about(teacher) if times is None else times
        self.student_steps = student_steps

    def turns(self) -> list[Turn]:
        """The student's turn, and then the generator's."""
        return [
            Turn(_StudentLoss(self), self.student, repeats=self.student_steps),
            Turn(_GeneratorLoss(self), self.generator),
        ]

    def averaged(self) -> nn.Module:
        """The generator."""
        return self.generator

    def metric(self, x: Tensor, context: Context = None) -> Tensor:
        """The mean energy score of draws given held-out data, in data units; lower is better."""
        with torch.no_grad():
            first, second = self.draws(x, context), self.draws(x, context)
        near, apart = (by_datum(first - other, len(self.generator.event_shape)).norm(dim=-1) for other in (x, second))
        return (near - 0.5 * apart).mean()

    def draws(self, x: Tensor, context: Context = None) -> Tensor:
        """A draw of the generator for each row of a minibatch, with gradients."""
        context = context_of_each(x, context, self.generator.event_shape, self.generator.context_shape)
        return reparameterized(self.generator(context), self.generator).rsample(
            () if context is not None else x.shape[:1]
        )

    def student_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """The squared error of the student's noise on the generator's draws, averaged over elements and rows."""
        with torch.no_grad():
            draws = self.draws(x, context)
        noisy, t, noise = self._noisy(draws)
        return (self.student.noise(noisy, t, context) - noise).square().mean()

    def generator_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """A number whose gradient is that of the generator, averaged over rows."""
        draws = self.draws(x, context)
        with torch.no_grad(), evaluating(self.student), evaluating(self.teacher):
            noisy, t, _ = self._noisy(draws)
            apart = self.student(noisy, t, context) - self.teacher(noisy, t, context)
        slope = by_datum(apart / self.teacher.data_scale, len(self.generator.event_shape))
        return (slope * by_datum(draws, len(self.generator.event_shape))).sum(-1).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.generator.read_data(x, context)

    def _noisy(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        uniform = stratified(len(draws), (), draws)
        t, _ = self.times(uniform, self.teacher.schedule)
        noise = torch.randn_like(draws)
        return self.teacher.path(draws, t).mix(draws, noise), t, noise


class _StudentLoss(Objective):
    unit = "squared error per element"

    def __init__(self, matching: DistributionMatching) -> None:
        super().__init__()
        self.matching = matching

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return self.matching.student_loss(x, context)

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return self.matching.read_data(*batch)


class _GeneratorLoss(_StudentLoss):
    unit = "no unit; its gradient alone has a meaning"

    measures = False

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return self.matching.generator_loss(x, context)


def _about(teacher: Denoiser) -> Times:
    """Noise levels around the scale of the data."""
    return LogNormalTimes(mean=torch.as_tensor(teacher.data_scale).log().mean().item(), scale=1.2)
