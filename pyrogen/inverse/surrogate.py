r"""Linear-Gaussian surrogates: what a likelihood looks like from a point.

Near a point :math:`\hat x` every likelihood is replaced by that of a linear measurement with Gaussian noise,

.. math:: \log p(y \mid x) \approx c + \log \mathcal{N}(r - A (x - \hat x); 0, R) .

For a Gaussian likelihood of a linear measurement it is no replacement but the thing itself, with :math:`c = 0`,
:math:`r = y - A \hat x` and the noise covariance :math:`R`. Surrogates steer; they never weigh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.numerics.linear import cholesky, gaussian_log_prob, solve

_NEWTON = 4


class Surrogate(NamedTuple):
    r"""A linear measurement with Gaussian noise, for each of :math:`P` particles of :math:`N` problems.

    Attributes:
        residual: :math:`r`, of shape ``(P, N, m)``.
        jacobian: :math:`A`, of shape ``(P, N, m, D)`` or broadcasting with it.
        noise: :math:`R`, of shape ``(P, N, m, m)`` or broadcasting with it.
        constant: :math:`c`, of shape ``(P, N)`` or broadcasting with it.
        refit: Gives the surrogate that fits best at :math:`A \hat x` plus a shift ``(P, N, m)``; ``None`` if that is
            the same everywhere.
        exact: Whether it is the likelihood itself, of a linear measurement with Gaussian noise.
    """

    residual: Tensor
    jacobian: Tensor
    noise: Tensor
    constant: Tensor
    refit: Callable[[Tensor], Surrogate] | None = None
    exact: bool = False

    def log_likelihood(self, shift: Tensor) -> Tensor:
        r"""The surrogate at :math:`x = \hat x` + ``shift``, in nats: ``(P, N)``."""
        rest = self.residual - times(self.jacobian, shift)
        return self.constant + gaussian_log_prob(rest, torch.linalg.cholesky(self.noise))

    def fitted(self, covariance: Tensor) -> Surrogate:
        r"""The surrogate at the mode of the measured numbers, when :math:`A x` has the given covariance.

        A few Newton steps: Laplace's approximation, where the likelihood is no Gaussian.
        """
        surrogate = self
        for _ in range(_NEWTON if self.refit else 0):
            solution = solve(cholesky(covariance, surrogate.noise), surrogate.residual)
            surrogate = surrogate.refit(times(covariance, solution))
        return surrogate

    def evidence(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        r"""What it says when :math:`A x` has the given covariance round :math:`A \hat x`.

        Returns:
            The logarithm of the expected likelihood, ``(P, N)``, and :math:`S^{-1} r`, ``(P, N, m)``, with :math:`S`
            the sum of the covariance and the noise.
        """
        factor = cholesky(covariance, self.noise)
        return self.constant + gaussian_log_prob(self.residual, factor), solve(factor, self.residual)

    def draw(self, variance: Tensor) -> Tensor:
        r"""Draws of the shift :math:`x - \hat x \sim \mathcal{N}(0, \operatorname{diag} v)` given the measurement.

        By Matheron's rule: a draw without the measurement, corrected by what it misses.

        Args:
            variance: The variances :math:`v`, of shape ``(D,)`` or one for all.

        Shape:
            ``(P, N, D)``.
        """
        factor = self._factor(variance)
        shape = (*self.residual.shape[:-1], self.jacobian.shape[-1])
        prior = variance.sqrt() * torch.randn(shape, dtype=self.residual.dtype, device=self.residual.device)
        noise = times(torch.linalg.cholesky(self.noise), torch.randn_like(self.residual))
        missed = self.residual - times(self.jacobian, prior) - noise
        return prior + variance * times(self.jacobian.mT, solve(factor, missed))

    def evidence_ratio(self, shift: Tensor, variance: Tensor) -> Tensor:
        r"""What the draw of :math:`x` must be weighed by, but for the likelihood: prior over posterior, ``(P, N)``.

        By Bayes' rule it is the expected likelihood over the likelihood of the draw, both of the surrogate.
        """
        expected = self.constant + gaussian_log_prob(self.residual, self._factor(variance))
        return expected - self.log_likelihood(shift)

    def _factor(self, variance: Tensor) -> Tensor:
        return cholesky((variance * self.jacobian) @ self.jacobian.mT, self.noise)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices ``(..., m, n)`` times vectors ``(..., n)``."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
