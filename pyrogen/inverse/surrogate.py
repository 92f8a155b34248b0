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

from pyrogen.numerics.linear import matvec

from .slopes import SingularSlopes, Slopes
from .spread import DiagonalSpread, KrylovSpread, Spread

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
        slopes: :math:`A`; :class:`~pyrogen.inverse.slopes.SingularSlopes` if :attr:`exact`.
        precision: The diagonal of :math:`\Lambda`, of shape ``(P, N, m)`` or broadcasting with it.
        constant: :math:`c`, of shape ``(P, N)`` or broadcasting with it.
        refit: The likelihood elsewhere; ``None`` if the surrogate is the same everywhere.
        exact: Whether it is the likelihood itself, of a linear measurement with Gaussian noise.
    """

    residual: Tensor
    slopes: Slopes
    precision: Tensor
    constant: Tensor
    refit: Refit | None = None
    exact: bool = False

    @property
    def jacobian(self) -> Tensor:
        """:math:`A` as a matrix, of shape ``(P, N, m, D)`` or broadcasting with it."""
        return self.slopes.matrix

    @property
    def white(self) -> tuple[Tensor, Tensor]:
        """The residual and the Jacobian in units of the noise, in double precision."""
        return self._root * self.residual, self._root.unsqueeze(-1) * self.jacobian

    def seen_from(self, x: Tensor) -> Surrogate:
        """The same likelihood, expanded at zero so far, from particles ``(P, N, D)``."""
        return self._replace(residual=self.residual - self.slopes.push(x))

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
            slopes=SingularSlopes(singular[..., :count], right[..., :count, :].contiguous()),
            precision=torch.ones_like(value),
            constant=self.constant - 0.5 * rest.square().sum(-1),
            exact=True,
        )

    def log_likelihood(self, shift: Tensor) -> Tensor:
        r"""The surrogate at :math:`x = \hat x` + ``shift``, in nats: ``(P, N)``."""
        missed = self._root * (self.residual - self.slopes.push(shift))
        return self.constant - 0.5 * missed.square().sum(-1)

    def isotropic(self, variance: float | Tensor) -> Spread:
        r"""The covariance of :math:`A x` for :math:`x` of covariance :math:`v I`."""
        if isinstance(self.slopes, SingularSlopes):
            return DiagonalSpread(variance * self.slopes.values.square())
        return KrylovSpread(lambda w: variance * self.slopes.push(self.slopes.pull(w)))

    def fitted(self, spread: Spread) -> Surrogate:
        r"""The surrogate at the mode of the measured numbers, when :math:`A x` has the given covariance.

        Newton's method with a line search, to convergence: Laplace's approximation, where the likelihood is no
        Gaussian. Measured numbers are the covariance times a dual vector :math:`w`, so that it may be singular.
        """
        if self.refit is None:
            return self
        here, zero = self, torch.zeros_like(self.residual, dtype=torch.double)
        point = torch.cat([zero, zero], -1)  # the dual vector, and its shift of the measured numbers
        height = self.refit.log_likelihood(torch.zeros_like(self.residual))

        def log_posterior(point: Tensor) -> Tensor:
            dual, shift = point.chunk(2, -1)
            return self.refit.log_likelihood(shift.to(self.residual.dtype)) - 0.5 * (dual * shift).sum(-1)

        for _ in range(_NEWTON):
            direction = here.solution(spread) - point.chunk(2, -1)[0]
            point, reached = uphill(log_posterior, point, torch.cat([direction, spread(direction)], -1), height)
            here = self.refit.expand(point.chunk(2, -1)[1].to(self.residual.dtype))
            done, height = not bool((reached - height > _CONVERGED).any()), reached
            if done:
                break
        return here

    def solution(self, spread: Spread) -> Tensor:
        r""":math:`S^{-1} r` with :math:`S` the sum of the covariance of :math:`A x` and the noise: ``(P, N, m)``."""
        return self._root * spread.solve(self._root, self._root * self.residual)

    def part_of_step(self, shift: Tensor, dual: Tensor) -> Tensor:
        r"""How much of a shift :math:`C A^\top w` to take: all, or as far as the posterior rises, ``(P, N, 1)``.

        The shift belongs to a covariance :math:`C` of the unknowns, of which it is all that is known. The logarithm of
        the posterior along it is a parabola,

        .. math:: t \mapsto -\tfrac{t^2}{2} w^\top A C A^\top w - \tfrac{1}{2} \lVert r - t A C A^\top w
            \rVert_\Lambda^2 .

        Args:
            shift: :math:`C A^\top w`, of shape ``(P, N, D)``.
            dual: :math:`w`, of shape ``(P, N, m)``.
        """
        moved = self.slopes.push(shift)
        slope = (self.precision * moved * self.residual).sum(-1)
        curvature = (moved * (dual + self.precision * moved)).sum(-1)
        return torch.where(curvature > 0, slope / curvature, 1.0).clamp(0.0, 1.0).unsqueeze(-1)

    def evidence(self, spread: Spread) -> Tensor:
        r"""The logarithm of the expected likelihood when :math:`A x` has the given covariance, ``(P, N)``."""
        return self.constant + spread.log_density(self._root, self._root * self.residual)

    def draw(self, variance: Tensor, spread: Spread) -> Tensor:
        r"""Draws of the shift :math:`x - \hat x \sim \mathcal{N}(0, \operatorname{diag} v)` given the measurement.

        By Matheron's rule: a draw without the measurement, corrected by what it misses.

        Args:
            variance: The variances :math:`v`, of shape ``(D,)`` or one for all.
            spread: What they make of the covariance of :math:`A x`.

        Shape:
            ``(P, N, D)``.
        """
        variance, noise = variance.double(), torch.randn_like(self.residual, dtype=torch.double)
        prior = variance.sqrt() * torch.randn_like(noise[..., :1].expand(*noise.shape[:-1], self.slopes.size))
        missed = self._root * (self.residual - self.slopes.push(prior)) - noise
        return prior + variance * self.slopes.pull(self._root * spread.solve(self._root, missed))

    def evidence_ratio(self, shift: Tensor, spread: Spread) -> Tensor:
        r"""What the draw of :math:`x` must be weighed by, but for the likelihood: prior over posterior, ``(P, N)``.

        By Bayes' rule it is the expected likelihood over the likelihood of the draw, both of the surrogate.
        """
        return self.evidence(spread) - self.log_likelihood(shift)

    @property
    def _root(self) -> Tensor:
        return self.precision.double().sqrt()


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
