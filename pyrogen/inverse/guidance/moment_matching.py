"""Moment matching: the Gaussian with the mean and the covariance of the denoising posterior."""

from __future__ import annotations

from torch import Tensor

from ..chain import Step
from ..problem import Denoised, Target
from ..twist import MomentMatched
from .guidance import Guidance


class MomentMatching(Guidance):
    r"""Moment-matching posterior sampling: the shift of the default twist of TwistedSMC, without weights.

    The denoising posterior is Gaussian with its true mean and covariance, :math:`(\sigma_t^2 / \alpha_t) \partial D /
    \partial x_t`. It is exact, up to the steps, for any Gaussian data and the best of the guidances on mixtures, but
    gives modes wrong weights.

    On the Gaussian-mixture problem of ``benchmarks/inverse.py`` (8 dimensions, 2 measurements) its draws
    are a sliced Wasserstein distance of 1.6 from the posterior; exact draws score 0.06.

    References:
        Rozet, Andry, Lanusse and Louppe 2024, "Learning diffusion priors from observations by expectation
        maximization", https://arxiv.org/abs/2405.13712
        Boys, Girolami, Pidstrigach, Reich, Mosca and Akyildiz 2023, "Tweedie moment projected diffusions for inverse
        problems", https://arxiv.org/abs/2310.06721
    """

    def __init__(self) -> None:
        self.twist = MomentMatched()

    def __call__(self, target: Target, denoised: Denoised, step: Step) -> Tensor:
        return step.draw(denoised.noisy, denoised.mean + self.twist(target, denoised).shift.to(denoised.mean))
