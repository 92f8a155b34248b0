"""Predictor and corrector: steps in time, and Langevin steps at rest.

References:
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole 2021, "Score-based generative modeling through stochastic
    differential equations", section 4.2, https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pyrogen.arguments import integer, positive
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.schedules import Schedule

from .ancestral import GaussianSampler, gaussian_step
from .sampler import GridDenoiser, Sampler


class PredictorCorrector(Sampler):
    r"""After every step in time, Langevin steps that move the draws towards the density at that time.

    .. math:: x \leftarrow x + \tfrac{1}{2} r^2 \sigma_t^2 \nabla \log p_t(x) + r \sigma_t z

    The step is proportional to the noise, the same for all data of a batch. Its own bias is of the order :math:`r^2`;
    there is no correction after the last step.

    Args:
        predictor: The steps in time: :class:`DDIM` or :class:`Ancestral`, with their grid.
        corrections: Langevin steps after each; a grid of n steps costs n + (n - 1) * ``corrections`` evaluations.
        stride: The length :math:`r` of a Langevin step, in units of the noise.
    """

    def __init__(self, predictor: GaussianSampler, *, corrections: int = 1, stride: float = 0.3) -> None:
        if not isinstance(predictor, GaussianSampler):
            raise ValueError(f"`predictor` must be a DDIM or Ancestral sampler, got {type(predictor).__name__}")
        super().__init__(predictor.grid)
        self.predictor = predictor
        self.corrections = integer(corrections, "corrections", least=0)
        self.stride = positive(stride, "stride")

    def plan(self, path: GaussianPath, schedule: Schedule) -> list[tuple[tuple[float, ...], float, float]]:
        _, end = path.steps()  # the corrections are made at the end of each step
        return list(zip(self.predictor.plan(path, schedule), end.alpha.tolist(), end.sigma.tolist(), strict=True))

    def walk(
        self, denoise: GridDenoiser, plan: list[tuple[tuple[float, ...], float, float]], x: Tensor
    ) -> Iterator[Tensor]:
        pull, last = 0.5 * self.stride**2, len(plan) - 1
        for step, (coefficients, alpha, sigma) in enumerate(plan):
            x = gaussian_step(x, denoise(x, step), *coefficients)
            for _ in range(self.corrections if step < last else 0):
                # sigma^2 times the score is alpha D - x.
                x = gaussian_step(x, denoise(x, step + 1), 1 - pull, pull * alpha, self.stride * sigma)
            yield x
