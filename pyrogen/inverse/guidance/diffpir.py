"""DiffPIR: the denoised mean is replaced by the point that explains the measurements best without leaving it."""

from __future__ import annotations

from torch import Tensor

from pyrogen.arguments import positive

from ..chain import Step
from ..problem import Denoised, Target
from .guidance import Guidance


class DiffPIR(Guidance):
    r"""Plug-and-play restoration: a proximal step from the denoised mean, without a gradient through the denoiser.

    .. math:: \hat x = \arg\min_x \tfrac{1}{2} \lVert y - A x \rVert_R^2 + \frac{\lambda}{2 s_t^2} \lVert x - D(x_t)
        \rVert^2, \qquad s_t = \sigma_t / \alpha_t

    It seeks one good answer rather than draws: expect too little spread.

    On the Gaussian-mixture problem of ``benchmarks/inverse.py`` (8 dimensions, 2 measurements) its draws
    are a sliced Wasserstein distance of 6.2 from the posterior; exact draws score 0.06.

    Args:
        strength: :math:`\lambda`, how much the denoised mean counts.

    References:
        Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool 2023, "Denoising diffusion models for plug-and-play image
        restoration", https://arxiv.org/abs/2305.08995
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = positive(strength, "strength")

    def __call__(self, target: Target, denoised: Denoised, step: Step) -> Tensor:
        surrogate, variance = target.surrogate(denoised.mean), denoised.level.variance / self.strength
        operator = surrogate.jacobian.double()
        _, solution = surrogate.evidence(variance * operator @ operator.mT)
        shift = variance * (solution.unsqueeze(-2) @ operator).squeeze(-2)
        return step.draw(denoised.noisy, denoised.mean + shift.to(denoised.mean))
