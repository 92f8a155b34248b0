"""Decoupled annealing: a whole datum is drawn given particle and measurement, and made noisy again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.arguments import integer, positive

from ..chain import Level, ReverseStep
from ..target import Denoised, Target
from .guidance import Guidance


class DAPS(Guidance):
    r"""Decoupled annealing posterior sampling: the levels are joined by a datum, not by a step.

    .. math:: x_0 \sim \mathcal{N}(x_0; \hat x(x_t), r_t^2 I) \, p(y \mid x_0), \qquad
        x_s \sim \mathcal{N}(\alpha_s x_0, \sigma_s^2 I)

    with :math:`\hat x` the end of the probability flow from :math:`x_t` and :math:`1 / r_t^2 = \alpha_t^2 / \sigma_t^2
    + 1 / v`. Where the measurement is linear and its noise Gaussian the datum is drawn exactly, elsewhere from
    Laplace's approximation round :math:`\hat x`; the paper takes Langevin steps.

    The end of the flow varies as the data do, so :math:`r_t` counts their spread twice: in a direction that nothing
    measures, Gaussian data got 1.6 times their variance in 100 steps and 2.1 times in 25. With one solver step, the
    denoised mean, and the variance of the data it is exact for isotropic Gaussian data, in any number of steps.
    Measured bias: 4.6, and 4.1 with one solver step and the variance of the data.

    Args:
        solver_steps: How many steps the flow takes, each a run of the denoiser.
        variance: :math:`v`, the variance of the data, in squared data units; infinite in the paper.

    References:
        Zhang, Chu, Berner, Meng, Anandkumar and Song 2024, "Improving diffusion inverse problem solving with decoupled
        noise annealing", https://arxiv.org/abs/2407.01521
    """

    def __init__(self, solver_steps: int = 5, *, variance: float = math.inf) -> None:
        self.solver_steps = integer(solver_steps, "solver_steps")
        self.variance = variance if variance == math.inf else positive(variance, "variance")

    def __call__(self, target: Target, denoised: Denoised, step: ReverseStep) -> Tensor:
        here, there = step.levels[:2]
        clean = self._flow(target, denoised, step.levels)
        variance = clean.new_tensor(1 / (1 / here.variance + 1 / self.variance))
        surrogate = target.surrogate(clean)
        spread = surrogate.isotropic(variance)
        datum = clean + surrogate.fitted(spread).draw(variance, spread).to(clean.dtype)
        return there.alpha * datum + there.sigma * torch.randn_like(datum)

    def _flow(self, target: Target, denoised: Denoised, levels: list[Level]) -> Tensor:
        """Euler's method, evenly over the levels that lie ahead."""
        x, mean, level = denoised.noisy.detach(), denoised.mean, denoised.level
        for place in sorted({len(levels) * i // self.solver_steps for i in range(1, self.solver_steps)} - {0}):
            other = levels[place]
            rate = other.sigma / level.sigma
            x = rate * x + (other.alpha - rate * level.alpha) * mean
            mean, level = target.denoise(x, other), other
        return mean
