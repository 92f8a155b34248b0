r"""Inference in closed form: a normal prior, a linear measurement, normal noise.

With :math:`x \sim \mathcal{N}(\mu, \Sigma)` and :math:`y \mid x \sim \mathcal{N}(A x, R)`, where :math:`R` is diagonal,

.. math::

    y &\sim \mathcal{N}(A \mu, S), \quad S = A \Sigma A^\top + R , \\
    x \mid y &\sim \mathcal{N}\big(\mu + K (y - A \mu), (I - K A) \Sigma (I - K A)^\top + K R K^\top\big), \quad
    K = \Sigma A^\top S^{-1} .

It is what methods for any prior and any measurement can be held to.

References:
    Murphy 2012, "Machine learning: a probabilistic perspective", section 4.4
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal as TorchNormal

from pyrogen.arguments import finite
from pyrogen.arrays import takes_arrays


class LinearGaussianSystem:
    """The exact evidence and posterior of a linear measurement with normal noise under a normal prior.

    Args:
        prior: Of the latent, ``(*batch, n)``; best in double precision.
        matrix: Of the measurement, ``(m, n)``.
        noise: Standard deviation of the noise: one, or for each number, ``(*batch, m)`` or what broadcasts to it.

    Raises:
        TypeError: ``prior`` is no multivariate normal, or another argument no tensor.
        ValueError: shapes do not fit, or noise is not positive.

    Example:
        >>> prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> system = LinearGaussianSystem(prior, torch.tensor([[1.0, 1.0]]), noise=1.0)
        >>> system.marginal.variance, system.posterior(torch.tensor([3.0])).mean
        (tensor([3.]), tensor([1.0000, 1.0000]))
    """

    @takes_arrays
    def __init__(self, prior: dist.MultivariateNormal, matrix: Tensor, noise: float | Tensor) -> None:
        if not isinstance(prior, TorchNormal):
            raise TypeError(f"`prior` must be a MultivariateNormal, got {type(prior).__name__}")
        if finite(matrix, "matrix").dim() != 2 or matrix.shape[1] != prior.event_shape[0]:
            size = prior.event_shape[0]
            raise ValueError(f"`matrix` must have shape (m, {size}), got {tuple(matrix.shape)}")
        noise = finite(torch.as_tensor(noise).to(matrix), "noise")
        if not bool((noise > 0).all()):
            raise ValueError(f"`noise` must be positive, got {noise[noise <= 0][0].item()}")
        if noise.dim() and noise.shape[-1] not in (1, len(matrix)):
            raise ValueError(f"`noise` must have shape (*batch, {len(matrix)}), got {tuple(noise.shape)}")
        self.prior, self.matrix = prior, matrix
        self.variance = noise.square().expand(*noise.shape[:-1], len(matrix))

    @property
    def marginal(self) -> dist.MultivariateNormal:
        """The distribution of measurements, ``(*batch, m)``: its ``log_prob`` is the log evidence, in nats."""
        prior, matrix = self.prior, self.matrix
        covariance = matrix @ prior.covariance_matrix @ matrix.T + torch.diag_embed(self.variance)
        return dist.MultivariateNormal(prior.mean @ matrix.T, covariance)

    @takes_arrays
    def posterior(self, y: Tensor) -> dist.MultivariateNormal:
        """The posterior of the latent given a measurement, ``(*batch, m)``."""
        prior, matrix, marginal = self.prior, self.matrix, self.marginal
        if finite(y, "y").shape[-1:] != marginal.event_shape:
            raise ValueError(f"`y` must have shape (*batch, {len(matrix)}), got {tuple(y.shape)}")
        gain = torch.cholesky_solve(matrix @ prior.covariance_matrix, marginal.scale_tril).mT  # (*batch, n, m)
        mean = prior.mean + (gain @ (y - marginal.mean).unsqueeze(-1)).squeeze(-1)
        left = torch.eye(matrix.shape[1]).to(matrix) - gain @ matrix
        covariance = left @ prior.covariance_matrix @ left.mT + gain * self.variance.unsqueeze(-2) @ gain.mT
        return dist.MultivariateNormal(mean, covariance)
