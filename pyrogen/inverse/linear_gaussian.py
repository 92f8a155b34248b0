r"""Inference in closed form: a normal prior, a linear measurement, normal noise.

With :math:`x \sim \mathcal{N}(\mu, \Sigma)` and :math:`y \mid x \sim \mathcal{N}(A x, R)`, where :math:`R` is diagonal,

.. math::

    y &\sim \mathcal{N}(A \mu, S), \quad S = A \Sigma A^\top + R , \\
    x \mid y &\sim \mathcal{N}\big(\mu + K (y - A \mu), (I - K A) \Sigma (I - K A)^\top + K R K^\top\big), \quad
    K = \Sigma A^\top S^{-1} .

It is what methods for any prior and any measurement can be held to.

References:
    Murphy 2012, "Machine learning: a probabilistic perspective", section 4.4
    Kailath, Sayed and Hassibi 2000, "Linear estimation", chapter 12 (square-root arrays)
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
        (tensor([3.0000]), tensor([1.0000, 1.0000]))
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
        root = self._roots()[0]
        return dist.MultivariateNormal(self.prior.mean @ self.matrix.T, scale_tril=root)

    @takes_arrays
    def posterior(self, y: Tensor) -> dist.MultivariateNormal:
        """The posterior of the latent given a measurement, ``(*batch, m)``."""
        if finite(y, "y").shape[-1:] != self.matrix.shape[:1]:
            raise ValueError(f"`y` must have shape (*batch, {len(self.matrix)}), got {tuple(y.shape)}")
        root, cross, posterior = self._roots()
        residual = (y - self.prior.mean @ self.matrix.T).unsqueeze(-1)
        moved = cross @ torch.linalg.solve_triangular(root, residual, upper=False)
        return dist.MultivariateNormal(self.prior.mean + moved.squeeze(-1), scale_tril=posterior)

    def _roots(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""The roots :math:`L_S` and :math:`L_{x \mid y}`, and :math:`\Sigma A^\top L_S^{-\top}`.

        By one QR decomposition, without squares, which would lose small noise beside the rest where a number is
        measured twice.
        """
        root, count = self.prior.scale_tril, len(self.matrix)
        noise = torch.diag_embed(self.variance.sqrt())
        batch = torch.broadcast_shapes(noise.shape[:-2], root.shape[:-2])
        above = torch.cat([noise, noise.new_zeros(*noise.shape[:-1], root.shape[-1])], -1)
        below = torch.cat([(self.matrix @ root).mT, root.mT], -1)
        parts = above.expand(*batch, *above.shape[-2:]), below.expand(*batch, *below.shape[-2:])
        upper = torch.linalg.qr(torch.cat(parts, -2))[1]
        signs = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper)
        lower = (signs.unsqueeze(-1) * upper).mT
        return lower[..., :count, :count], lower[..., count:, :count], lower[..., count:, count:]
