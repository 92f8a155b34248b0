"""RePaint: measured parts are replaced at every noise level; repeated noising and denoising adapts the rest to them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import integer

from ..chain import ReverseStep
from ..target import Denoised, Target
from .guidance import Guidance, linear_gaussian


class RePaint(Guidance):
    r"""Inpainting by replacement: the measured part of every level is the measurement, made noisy to that level.

    .. math:: x_s \leftarrow x_s + A^+ A (\alpha_s \hat x + \sigma_s \varepsilon - x_s), \qquad A \hat x = y

    The rest follows the chain of the prior and learns of the measurement by repetition: each step is undone and drawn
    again, algorithm 1 of the paper (jumps of one step). For a mask :math:`A^+ A` is the mask; any linear measurement
    is served alike. Its noise is ignored.

    With many rounds it is exact for Gaussian data without noise; with few the rest learns too little. With one of two
    coordinates of correlation 0.5 measured, the mean of the other went 45 % of its way in 1 round, 78 % in 5, 95 % in
    20 and 99 % in 80 (50 steps). Modes get wrong weights. Measured bias: 3.5, and 2.6 with 50 rounds.

    Args:
        rounds: How often each step is drawn; so many times the denoiser runs.

    References:
        Lugmayr, Danelljan, Romero, Yu, Timofte and Van Gool 2022, "RePaint: inpainting using denoising diffusion
        probabilistic models", https://arxiv.org/abs/2201.09865
    """

    def __init__(self, rounds: int = 10) -> None:
        self.rounds = integer(rounds, "rounds")

    def __call__(self, target: Target, denoised: Denoised, step: ReverseStep) -> Tensor:
        surrogate = linear_gaussian(target, denoised, self)
        here, there = step.levels[:2]
        slopes = surrogate.slopes
        measured = denoised.mean + slopes.back(slopes.inverse * surrogate.residual).to(denoised.mean)

        def painted(x: Tensor) -> Tensor:
            noisy = there.alpha * measured + there.sigma * torch.randn_like(x)
            shown = torch.where(slopes.values > 0, slopes.along(noisy - x), 0.0)
            return x + slopes.back(shown).to(x)

        x = painted(step.draw(denoised.noisy, denoised.mean))
        for _ in range(self.rounds - 1):
            x = step.undo(x)
            x = painted(step.draw(x, target.denoise(x, here)))
        return x
