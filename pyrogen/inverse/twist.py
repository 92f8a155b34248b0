r"""Twists: approximations of the likelihood of a noisy particle.

The best guide for a particle :math:`x_t` is :math:`p(y \mid x_t) = \mathbb{E}[p(y \mid x_0) \mid x_t]`. A twist is a
positive function :math:`\psi_t(x_t)` near it, and the shift of the denoised mean that goes with it. Any twist is right:
the filter divides by what it multiplied and weighs by the true likelihood in the end. A good one needs few particles.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import integer, positive

from .spread import DenseSpread
from .target import Denoised, Target


class Twisted(NamedTuple):
    r"""The logarithm of the twist, ``(P, N)``, and the shift of the denoised mean that goes with it, ``(P, N, D)``.

    The shift is :math:`(\sigma_t^2 / \alpha_t) \nabla_{x_t} \log \psi_t`, or near it.
    """

    log_value: Tensor
    shift: Tensor


class Twist(ABC):
    """A guess of the likelihood of a noisy particle. Subclasses define :meth:`__call__`."""

    @abstractmethod
    def __call__(self, target: Target, denoised: Denoised) -> Twisted:
        """The twist at denoised particles."""


class MomentMatched(Twist):
    r"""The Gaussian with the moments of the denoising posterior, seen through the linearized measurement.

    The denoising posterior has mean :math:`D(x_t)` and covariance :math:`(\sigma_t^2 / \alpha_t) \partial D / \partial
    x_t` (Tweedie's formulas), hence with a measurement :math:`A`, residual :math:`r` and noise :math:`R`

    .. math:: \log \psi_t = \log \mathcal{N}\bigl(r; 0, R + \tfrac{\sigma_t^2}{\alpha_t} A J A^\top\bigr) + c .

    For Gaussian likelihoods this is moment matching, for others the Laplace approximation round the denoised mean. It
    takes one backward pass through the denoiser for each measured number, and trusts a network's Jacobian: use
    :class:`Isotropic` for many. The references are those of :class:`~pyrogen.inverse.guidance.MomentMatching`.
    """

    def __call__(self, target: Target, denoised: Denoised) -> Twisted:
        surrogate, spread = target.surrogate(denoised.mean), denoised.level.covariance_scale
        jacobian = denoised.pull(surrogate.jacobian).double()  # (P, N, m, D)
        covariance = DenseSpread(spread * jacobian @ surrogate.jacobian.double().mT)
        surrogate = surrogate.fitted(covariance)
        shift = spread * (surrogate.solution(covariance).unsqueeze(-2) @ jacobian).squeeze(-2)
        return Twisted(surrogate.evidence(covariance), shift)


class Isotropic(Twist):
    r"""A Gaussian with one variance for all directions, :math:`r_t^2 = s^2 v / (s^2 + v)` with :math:`s = \sigma_t /
    \alpha_t` and :math:`v` the variance of the data.

    The covariance is exact for data with covariance :math:`v I` and a guess for others; it takes one backward pass,
    whatever is measured (Song, Vahdat, Mardani and Kautz 2023, "Pseudoinverse-guided diffusion models for inverse
    problems", https://openreview.net/forum?id=9_gsMA8MRKQ).

    Args:
        variance: The variance :math:`v` of the data, in squared data units.
    """  # noqa: D205

    def __init__(self, variance: float = 1.0) -> None:
        self.variance = positive(variance, "variance")

    def __call__(self, target: Target, denoised: Denoised) -> Twisted:
        surrogate, level = target.surrogate(denoised.mean), denoised.level
        variance = level.variance * self.variance / (level.variance + self.variance)
        if surrogate.exact:
            spread = surrogate.isotropic(variance)
        else:
            spread = DenseSpread(variance * surrogate.jacobian.double() @ surrogate.jacobian.double().mT)
        surrogate = surrogate.fitted(spread)
        pulled = surrogate.slopes.pull(surrogate.solution(spread)).unsqueeze(-2)  # (P, N, 1, D)
        return Twisted(surrogate.evidence(spread), level.covariance_scale * denoised.pull(pulled).squeeze(-2))


class FiniteParticle(Twist):
    r"""The average of the true likelihood over a few draws round the denoised mean.

    The draws are :math:`D(x_t) + r_t \varepsilon_k` with the variance of :class:`Isotropic`. It sees what a linear
    surrogate cannot, several explanations of one measurement; its noise grows with the number of measurements.

    Args:
        draws: How many draws.
        variance: The variance of the data, in squared data units.
    """

    def __init__(self, draws: int = 16, *, variance: float = 1.0) -> None:
        self.draws, self.variance = integer(draws, "draws"), positive(variance, "variance")

    def __call__(self, target: Target, denoised: Denoised) -> Twisted:
        level, mean = denoised.level, denoised.mean
        scale = math.sqrt(level.variance * self.variance / (level.variance + self.variance))
        noise = torch.randn((self.draws, *mean.shape), dtype=mean.dtype, device=mean.device)
        log_likelihood = target.log_likelihood((mean + scale * noise).flatten(0, 1)).unflatten(0, (self.draws, -1))
        weights = log_likelihood.softmax(0).nan_to_num(1 / self.draws)
        log_value = log_likelihood.logsumexp(0) - math.log(self.draws)
        # Stein's identity: the gradient in the mean of a Gaussian average is the covariance with the noise.
        gradient = (weights.unsqueeze(-1) * noise).sum(0) / scale
        return Twisted(log_value, level.covariance_scale * denoised.pull(gradient.unsqueeze(-2)).squeeze(-2))
