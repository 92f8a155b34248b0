"""Guidances that take the step of the prior's chain, with a denoised mean that is shifted towards the measurements."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from pyrogen.arguments import integer, positive

from ..chain import ReverseStep
from ..spread import KrylovSpread
from ..target import Denoised, Target
from .guidance import Guidance


class ShiftedMean(Guidance):
    """A step of the prior's chain with a shifted denoised mean. Subclasses define :meth:`shift`."""

    @abstractmethod
    def shift(self, target: Target, denoised: Denoised) -> Tensor:
        """How far to shift the denoised mean, ``(P, N, D)``."""

    def __call__(self, target: Target, denoised: Denoised, step: ReverseStep) -> Tensor:
        shift = self.shift(target, denoised).to(denoised.mean)
        return step.draw(denoised.noisy, denoised.mean + shift)


class MomentMatching(ShiftedMean):
    r"""Moment-matching posterior sampling: the shift of the default twist of TwistedSMC, without weights.

    The denoising posterior is Gaussian with its true mean and covariance, :math:`(\sigma_t^2 / \alpha_t) \partial D /
    \partial x_t`. It is exact, up to the steps, for any Gaussian data and the best of the guidances on mixtures, but
    gives modes wrong weights. Measured bias: 1.6.

    A step takes a backward pass through the denoiser for each measured number, up to a limit, beyond which the shift
    is that of so many conjugate gradients (Rozet et al., section 4.2).

    Args:
        passes: The limit.

    References:
        Rozet, Andry, Lanusse and Louppe 2024, "Learning diffusion priors from observations by expectation
        maximization", https://arxiv.org/abs/2405.13712
        Boys, Girolami, Pidstrigach, Reich, Mosca and Akyildiz 2023, "Tweedie moment projected diffusions for inverse
        problems", https://arxiv.org/abs/2310.06721
    """

    def __init__(self, passes: int = 64) -> None:
        self.passes = integer(passes, "passes")

    def shift(self, target: Target, denoised: Denoised) -> Tensor:
        surrogate, scale = target.surrogate(denoised.mean), denoised.level.covariance_scale

        def covariance(x: Tensor) -> Tensor:
            return scale * denoised.pull(x.unsqueeze(-2)).squeeze(-2).double()

        spread = KrylovSpread(lambda w: surrogate.slopes.push(covariance(surrogate.slopes.pull(w))), self.passes)
        surrogate = surrogate.fitted(spread)
        return covariance(surrogate.slopes.pull(surrogate.solution(spread)))


class PiGDM(ShiftedMean):
    r"""Pseudoinverse-guided diffusion, with the noise of the measurements.

    The denoising posterior is :math:`\mathcal{N}(D, r_t^2 I)` with :math:`r_t^2` that of data of a given variance. It
    is exact for Gaussian data with that covariance. On mixtures it gives modes their weights by a linearized
    likelihood.

    Where the data vary more than that along some axis, the shift of the paper goes beyond the measurement, and the
    steps grow without bound. Here no shift goes beyond the top of the posterior along it: an exact line search, which
    is no restriction where the variance is right. With it a Gaussian with axes of variance 1 and 900 got the right mean
    and spread at any variance from 0.1 to 900. Measured bias: 5.0 with the variance of the data, 129, and 3.1 with that
    of one mode, 1.

    Args:
        variance: The variance of the data, in squared data units.

    References:
        Song, Vahdat, Mardani and Kautz 2023, "Pseudoinverse-guided diffusion models for inverse problems",
        https://openreview.net/forum?id=9_gsMA8MRKQ
    """

    def __init__(self, variance: float = 1.0) -> None:
        self.variance = positive(variance, "variance")

    def shift(self, target: Target, denoised: Denoised) -> Tensor:
        surrogate, level = target.surrogate(denoised.mean), denoised.level
        spread = surrogate.isotropic(level.variance * self.variance / (level.variance + self.variance))
        surrogate = surrogate.fitted(spread)
        solution = surrogate.solution(spread)
        shift = level.covariance_scale * denoised.pull(surrogate.slopes.pull(solution).unsqueeze(-2)).squeeze(-2)
        return surrogate.part_of_step(shift, solution) * shift


class DiffPIR(ShiftedMean):
    r"""Plug-and-play restoration: a proximal step from the denoised mean, without a gradient through the denoiser.

    .. math:: \hat x = \arg\min_x \tfrac{1}{2} \lVert y - A x \rVert_R^2 + \frac{\lambda}{2 s_t^2} \lVert x - D(x_t)
        \rVert^2, \qquad s_t = \sigma_t / \alpha_t

    It seeks one good answer rather than draws: expect too little spread. Measured bias: 6.2.

    Args:
        strength: :math:`\lambda`, how much the denoised mean counts.

    References:
        Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool 2023, "Denoising diffusion models for plug-and-play image
        restoration", https://arxiv.org/abs/2305.08995
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = positive(strength, "strength")

    def shift(self, target: Target, denoised: Denoised) -> Tensor:
        surrogate, variance = target.surrogate(denoised.mean), denoised.level.variance / self.strength
        return variance * surrogate.slopes.pull(surrogate.solution(surrogate.isotropic(variance)))


class DPS(Guidance):
    r"""Diffusion posterior sampling: a gradient step of fixed length down the norm of the residual.

    .. math:: x_s \leftarrow x_s - \zeta \nabla_{x_t} \lVert y - A(D(x_t)) \rVert

    The noise of the measurements does not enter, and :math:`p(x_0 \mid x_t)` is taken to be a point. Expect points of
    high likelihood that are too alike, in the wrong proportions. Measured bias: 4.4, and 1.7 with a strength of 1.

    Args:
        strength: The length :math:`\zeta`; images take 0.1 to 1.

    References:
        Chung, Kim, Mccann, Klasky and Ye 2023, "Diffusion posterior sampling for general noisy inverse problems",
        https://arxiv.org/abs/2209.14687
    """

    def __init__(self, strength: float = 0.1) -> None:
        self.strength = positive(strength, "strength")

    def __call__(self, target: Target, denoised: Denoised, step: ReverseStep) -> Tensor:
        residual, slopes = target.residual(denoised.mean)
        norm = residual.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        moved = self.strength * denoised.pull(slopes.pull(residual / norm).unsqueeze(-2)).squeeze(-2)
        return step.draw(denoised.noisy, denoised.mean) + moved
