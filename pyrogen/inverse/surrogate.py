r"""Linear-Gaussian surrogates: a likelihood near a point.

Near a point :math:`\hat x` every likelihood is replaced by that of a linear measurement with Gaussian noise,

.. math:: \log p(y \mid x) \approx c - \tfrac{1}{2} \lVert r - A (x - \hat x) \rVert_\Lambda^2 ,

with a diagonal precision :math:`\Lambda`, zero where nothing is measured. For a Gaussian likelihood of a linear
measurement it is no replacement but the thing itself. Surrogates steer; they never weigh.

What decides is computed in units of the noise and in double precision, so that measurements may be repeated, far more
precise than the prior, or more than there are unknowns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyrogen.numerics.linear import matvec, solve, white_log_density, whitening

_NEWTON = 50
_CONVERGED = 1e-3  # nats
_SHORTER = tuple(0.5**k for k in range(1, 21))


class Refit(Protocol):
    """The likelihood as a function of the measured numbers."""

    def expand(self, shift: Tensor) -> Surrogate:
        r"""The surrogate that fits best at :math:`A \hat x` plus a shift ``(P, N, m)``."""

    def log_likelihood(self, shift: Tensor) -> Tensor:
        """The true log-likelihood there, ``(..., P, N)``, for shifts ``(..., P, N, m)``."""


class Surrogate(NamedTuple):
    r"""A linear measurement with independent Gaussian noise, for each of :math:`P` particles of :math:`N` problems.

    Attributes:
        residual: :math:`r`, of shape ``(P, N, m)``.
        jacobian: :math:`A`, of shape ``(P, N, m, D)`` or broadcasting with it.
        precision: The diagonal of :math:`\Lambda`, of shape ``(P, N, m)`` or broadcasting with it.
        constant: :math:`c`, of shape ``(P, N)`` or broadcasting with it.
        refit: The likelihood elsewhere; ``None`` if the surrogate is the same everywhere.
        exact: Whether it is the likelihood itself, of a linear measurement with Gaussian noise.
    """

    residual: Tensor
    jacobian: Tensor
    precision: Tensor
    constant: Tensor
    refit: Refit | None = None
    exact: bool = False

    @property
    def white(self) -> tuple[Tensor, Tensor]:
        """The residual and the Jacobian in units of the noise, in double precision."""
        root = self.precision.double().sqrt()
        return root * self.residual, root.unsqueeze(-1) * self.jacobian

    def seen_from(self, x: Tensor) -> Surrogate:
        """The same likelihood, expanded at zero so far, from particles ``(P, N, D)``."""
        return self._replace(residual=self.residual - matvec(self.jacobian[0], x.double()))

    def compressed(self) -> Surrogate:
        r"""The same likelihood in units of the noise, along the directions in which anything is measured.

        In units of the noise the operator is :math:`U S V^\top`. What is measured is expressed along the columns of
        :math:`U` with :math:`S > 0`, by :math:`S V^\top`; the rest does not depend on the unknown and belongs to the
        constant. So a number may be measured twice, or a blur leave nothing of a direction.
        """
        residual, operator = self.white
        left, singular, right = torch.linalg.svd(operator, full_matrices=False)
        smallest = max(operator.shape[-2:]) * torch.finfo(self.jacobian.dtype).eps
        singular = torch.where(singular > smallest * singular.amax(-1, keepdim=True), singular, 0.0)
        count = max(int((singular > 0).sum(-1).max()), 1)
        value = matvec(left.mT, residual)[..., :count]
        rest = residual - matvec(left[..., :count], value)
        return Surrogate(
            residual=value,
            jacobian=singular[..., :count].unsqueeze(-1) * right[..., :count, :],
            precision=torch.ones_like(value),
            constant=self.constant - 0.5 * rest.square().sum(-1),
            exact=True,
        )

    def log_likelihood(self, shift: Tensor) -> Tensor:
        r"""The surrogate at :math:`x = \hat x` + ``shift``, in nats: ``(P, N)``."""
        residual, jacobian = self.white
        return self.constant - 0.5 * (residual - matvec(jacobian, shift.double())).square().sum(-1)

    def fitted(self, covariance: Tensor) -> Surrogate:
        r"""The surrogate at the mode of the measured numbers, when :math:`A x` has the given covariance.

        Newton's method with a line search, to convergence: Laplace's approximation, where the likelihood is no
        Gaussian. Measured numbers are the covariance times a dual vector :math:`w`, so that it may be singular.
        """
        if self.refit is None:
            return self
        covariance = 0.5 * (covariance + covariance.mT).double()
        here, dual = self, torch.zeros_like(self.residual, dtype=torch.double)
        height = self.refit.log_likelihood(torch.zeros_like(self.residual))

        def log_posterior(dual: Tensor) -> Tensor:
            shift = matvec(covariance, dual)
            return self.refit.log_likelihood(shift.to(self.residual.dtype)) - 0.5 * (dual * shift).sum(-1)

        for _ in range(_NEWTON):
            direction = here.evidence(covariance)[1] - dual
            dual, reached = uphill(log_posterior, dual, direction, height)
            here = self.refit.expand(matvec(covariance, dual).to(self.residual.dtype))
            done, height = not bool((reached - height > _CONVERGED).any()), reached
            if done:
                break
        return here

    def evidence(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        r"""The evidence when :math:`A x` has the given covariance round :math:`A \hat x`.

        Returns:
            The logarithm of the expected likelihood, ``(P, N)``, and :math:`S^{-1} r`, ``(P, N, m)``, with :math:`S`
            the sum of the covariance and the noise.
        """
        root = self.precision.double().sqrt()
        factor = whitening(root.unsqueeze(-1) * covariance.double() * root.unsqueeze(-2))
        residual = root * self.residual
        return self.constant + white_log_density(residual, factor), root * solve(factor, residual)

    def draw(self, variance: Tensor) -> Tensor:
        r"""Draws of the shift :math:`x - \hat x \sim \mathcal{N}(0, \operatorname{diag} v)` given the measurement.

        By Matheron's rule: a draw without the measurement, corrected by what it misses.

        Args:
            variance: The variances :math:`v`, of shape ``(D,)`` or one for all.

        Shape:
            ``(P, N, D)``.
        """
        residual, jacobian = self.white
        shape = (*residual.shape[:-1], jacobian.shape[-1])
        variance = variance.to(jacobian)
        prior = variance.sqrt() * torch.randn(shape, dtype=residual.dtype, device=residual.device)
        missed = residual - matvec(jacobian, prior) - torch.randn_like(residual)
        return prior + variance * matvec(jacobian.mT, solve(self._factor(variance), missed))

    def evidence_ratio(self, shift: Tensor, variance: Tensor) -> Tensor:
        r"""What the draw of :math:`x` must be weighed by, but for the likelihood: prior over posterior, ``(P, N)``.

        By Bayes' rule it is the expected likelihood over the likelihood of the draw, both of the surrogate.
        """
        expected = self.constant + white_log_density(self.white[0], self._factor(variance))
        return expected - self.log_likelihood(shift)

    def _factor(self, variance: Tensor) -> Tensor:
        _, jacobian = self.white
        return whitening((variance.to(jacobian) * jacobian) @ jacobian.mT)


def uphill(
    log_density: Callable[[Tensor], Tensor], start: Tensor, direction: Tensor, height: Tensor
) -> tuple[Tensor, Tensor]:
    """The end of a step and the log-density there: the whole step, or where that loses the best shorter one.

    Args:
        log_density: Takes points ``(..., P, N, d)``.
        start: Where to start, ``(P, N, d)``.
        direction: The whole step.
        height: The log-density at the start, ``(P, N)``.
    """
    whole = start + direction
    reached = log_density(whole)
    worse = ~(reached >= height)
    if not worse.any():
        return whole, reached
    lengths = start.new_tensor([*_SHORTER, 0.0]).reshape(-1, 1, 1, 1)
    ends = start + lengths * direction.nan_to_num(0.0)
    heights = log_density(ends).nan_to_num(-torch.inf, torch.inf, -torch.inf)
    best = heights.argmax(0, keepdim=True)
    shorter = ends.gather(0, best.unsqueeze(-1).expand(1, *start.shape))[0]
    return torch.where(worse.unsqueeze(-1), shorter, whole), torch.where(worse, heights.gather(0, best)[0], reached)
