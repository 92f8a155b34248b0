r"""The twist of few numbers: the likelihood averaged over the denoising posterior, whatever its shape.

With few unknowns, or few measured numbers, :math:`p(y \mid x_t) = \mathbb{E}[p(y \mid x_0) \mid x_t]` can be computed
as it stands. The denoising posterior is Gaussian with mean :math:`D(x_t)` and covariance :math:`\Sigma = (\sigma_t^2 /
\alpha_t) \partial D / \partial x_t`, and with :math:`x_0 = D + \Sigma^{1/2} z` and points :math:`z_k \sim q`

.. math:: \psi_t = \frac{1}{K} \sum_k w_k, \qquad w_k = p(y \mid D + \Sigma^{1/2} z_k)
    \frac{\mathcal{N}(z_k; 0, I)}{q(z_k)} .

Half of the points are of the denoising posterior, :math:`\mathcal{N}(0, I)`, and find every explanation of a broad
measurement. The others are of two Laplace approximations of what it becomes with the measurement, and find precise
explanations: one seen from :math:`D(x_t)`, one from whichever of the first half the other explains least. The weights
are those of the mixture of all three, so that none of them has to be right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from pyrogen.arguments import integer
from pyrogen.numerics.linear import matvec, solve, whitening

from .surrogate import Surrogate, uphill
from .target import Denoised, Target
from .twist import Twist, Twisted

_NEWTON = 6
_SMALL = 8  # unknowns whose posterior few points fill
_CONVERGED = 1e-2  # nats; only a guide


class Averaged(Twist):
    """The average of the true likelihood over points of the denoising posterior and of its Laplace approximation.

    It is exact for Gaussian data up to the number of points, whatever the likelihood: one with several modes, kinks,
    or flat parts. It takes a backward pass for each of up to eight unknowns and a run of the likelihood for each point.
    With more unknowns it moves along those directions only that the measured numbers depend on near the denoised mean,
    with a backward pass for each of these.

    Args:
        points: How many points.
    """

    def __init__(self, points: int = 64) -> None:
        self.points = integer(points, "points", least=4)

    def __call__(self, target: Target, denoised: Denoised) -> Twisted:
        mean, quarter = denoised.mean, (self.points + 3) // 4
        surrogate = target.surrogate(mean)
        root = _root(denoised, surrogate.jacobian)
        zero = torch.zeros_like(root[..., 0, :])
        noise = _noise(quarter, zero)  # four times (K / 4, r)
        broad = torch.cat(noise[:2])[:, None, None].expand(2 * quarter, *zero.shape)
        likely = self._log_likelihood(target, mean, matvec(root, broad))
        first = _laplace(surrogate, root, zero)
        missed = likely - torch.logaddexp(torch.zeros_like(likely), first.log_ratio(broad))
        place = missed.nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax(0, keepdim=True)
        start = broad.gather(0, place.unsqueeze(-1).expand(1, *zero.shape))[0]
        second = _laplace(target.surrogate((mean + matvec(root, start)).to(mean.dtype)), root, start)
        near = torch.cat([first.draws(noise[2]), second.draws(noise[3])])
        z = torch.cat([broad, near])  # (K, P, N, r)
        log_likelihood = torch.cat([likely, self._log_likelihood(target, mean, matvec(root, near))])
        ratios = torch.stack([torch.full_like(log_likelihood, math.log(2)), first.log_ratio(z), second.log_ratio(z)])
        log_weights = log_likelihood - ratios.logsumexp(0) + math.log(4)
        weights = log_weights.softmax(0).nan_to_num(0.0)
        shift = matvec(root, (weights.unsqueeze(-1) * z).sum(0))
        return Twisted(log_weights.logsumexp(0) - math.log(len(z)), shift)

    @staticmethod
    def _log_likelihood(target: Target, mean: Tensor, shift: Tensor) -> Tensor:
        x = (mean + shift).to(mean.dtype)
        return target.log_likelihood(x.flatten(0, 1)).unflatten(0, x.shape[:2]).double()


def _root(denoised: Denoised, operator: Tensor) -> Tensor:
    """A square root ``(P, N, D, r)`` of the covariance of the denoising posterior, or of its part that is measured.

    With many unknowns, and fewer measured numbers, it is the regression of the unknowns on the measured numbers near
    the denoised mean: the likelihood hardly varies along the rest.
    """
    size = denoised.mean.shape[-1]
    if size <= _SMALL or size <= operator.shape[-2]:
        operator = torch.eye(size, dtype=operator.dtype, device=operator.device)[None, None]
    pulled = denoised.level.covariance_scale * denoised.pull(operator).double().nan_to_num(0.0)  # (P, N, r, D)
    covariance = pulled @ operator.double().mT
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    known = values > 1e-6 * values.amax(-1, keepdim=True).clamp_min(1e-30)
    scale = torch.where(known, values, 1.0).rsqrt() * known
    root = pulled.mT @ (vectors * scale.unsqueeze(-2))
    # No direction of the posterior is wider than the noise.
    width = root.square().sum(-2, keepdim=True).sqrt()
    return root * (denoised.level.variance**0.5 / width.clamp_min(1e-30)).clamp_max(1.0)


class _Normal(NamedTuple):
    """A normal distribution of z: its mean ``(P, N, D)``, and the lower factor of its precision."""

    centre: Tensor
    factor: Tensor

    def draws(self, noise: Tensor) -> Tensor:
        """Points ``(K, P, N, D)`` from noise ``(K, D)``."""
        spread = torch.linalg.solve_triangular(self.factor.mT, noise.T, upper=True)  # (P, N, D, K)
        return self.centre + spread.movedim(-1, 0)

    def log_ratio(self, z: Tensor) -> Tensor:
        """Its log-density less that of standard normal noise."""
        away = matvec(self.factor.mT, z - self.centre)
        scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ratio = scale + 0.5 * (z.square() - away.square()).sum(-1)
        return ratio.nan_to_num(-torch.inf, torch.inf, -torch.inf)


def _laplace(surrogate: Surrogate, root: Tensor, start: Tensor) -> _Normal:
    """The posterior of z at its mode, by the surrogate at ``start``, or by Newton's method from there."""

    def shift(z: Tensor) -> Tensor:
        return matvec(surrogate.jacobian, matvec(root, z - start).to(surrogate.jacobian))

    def log_posterior(z: Tensor) -> Tensor:
        return surrogate.refit.log_likelihood(shift(z)) - 0.5 * z.square().sum(-1)

    def newton(here: Surrogate) -> _Normal:
        residual, jacobian = here.white
        operator = jacobian @ root
        factor = whitening(operator.mT @ operator)
        return _Normal(solve(factor, matvec(operator.mT, residual + matvec(operator, start))), factor)

    found = newton(surrogate)
    if surrogate.refit is None:
        return found
    z, height = start, log_posterior(start)
    for _ in range(_NEWTON):
        z, reached = uphill(log_posterior, z, found.centre - z, height)
        found = newton(surrogate.refit.expand(shift(z)))
        done, height = not bool((reached - height > _CONVERGED).any()), reached
        if done:
            break
    return _Normal(z, found.factor)


def _noise(count: int, like: Tensor) -> list[Tensor]:
    """Four parts of normal noise, each evenly spread, anew at each call: of shape ``(count, D)``."""
    size = like.shape[-1]
    whole = SobolEngine(size).draw(4 * count).reshape(count, 4, size)
    uniform = (whole + torch.rand(size)) % 1
    return list(torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6)).to(like.device).unbind(1))
