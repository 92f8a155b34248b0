r"""Spreads: the covariance :math:`C` of the measured numbers before they are measured.

What a measurement of noise :math:`\Lambda^{-1}` says about them takes solutions with the matrix of ones and
:math:`\Lambda^{1/2} C \Lambda^{1/2}`, in units of the noise and in double precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from pyrogen.numerics.linear import krylov_solve, matvec, solve, white_log_density, whitening


class Spread(ABC):
    """The covariance of the measured numbers, for :math:`P` particles of :math:`N` problems.

    Subclasses define :meth:`__call__` and :meth:`solve`, and :meth:`log_density` where it can be had.
    """

    @abstractmethod
    def __call__(self, w: Tensor) -> Tensor:
        """The covariance times vectors, ``(P, N, m)``."""

    @abstractmethod
    def solve(self, root: Tensor, right: Tensor) -> Tensor:
        r""":math:`(I + \Lambda^{1/2} C \Lambda^{1/2})^{-1} r`, of shape ``(P, N, m)``.

        Args:
            root: The diagonal of :math:`\Lambda^{1/2}`, of shape ``(P, N, m)`` or broadcasting with it.
            right: The vectors :math:`r`, in units of the noise.
        """

    def log_density(self, root: Tensor, right: Tensor) -> Tensor:
        r""":math:`\log \mathcal{N}(r; 0, I + \Lambda^{1/2} C \Lambda^{1/2})` in nats, but for :math:`\log 2 \pi`.

        Arguments are those of :meth:`solve`.

        Raises:
            NotImplementedError: the covariance is not known as a matrix.
        """
        raise NotImplementedError(f"{type(self).__name__} has no determinant; DenseSpread has")


class DenseSpread(Spread):
    """A matrix for each particle: for few measured numbers.

    Args:
        covariance: Of shape ``(P, N, m, m)`` or broadcasting with it.
    """

    def __init__(self, covariance: Tensor) -> None:
        self.covariance = 0.5 * (covariance + covariance.mT).double()

    def __call__(self, w: Tensor) -> Tensor:
        return matvec(self.covariance, w)

    def solve(self, root: Tensor, right: Tensor) -> Tensor:
        return solve(self._factor(root), right)

    def log_density(self, root: Tensor, right: Tensor) -> Tensor:
        return white_log_density(right, self._factor(root))

    def _factor(self, root: Tensor) -> Tensor:
        return whitening(root.unsqueeze(-1) * self.covariance * root.unsqueeze(-2))


class DiagonalSpread(Spread):
    """Independent measured numbers.

    Args:
        variance: Of each, ``(P, N, m)`` or broadcasting with it.
    """

    def __init__(self, variance: Tensor) -> None:
        self.variance = variance

    def __call__(self, w: Tensor) -> Tensor:
        return self.variance * w

    def solve(self, root: Tensor, right: Tensor) -> Tensor:
        return right / (1 + root.square() * self.variance)

    def log_density(self, root: Tensor, right: Tensor) -> Tensor:
        total = (1 + root.square() * self.variance).expand_as(right)
        return -0.5 * (right.square() / total + total.log()).sum(-1)


class KrylovSpread(Spread):
    """A covariance that is only known by what it makes of vectors.

    Args:
        apply: The covariance times vectors ``(P, N, m)``.
        passes: How often it is applied for one solution: exact for as many measured numbers.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], passes: int = 64) -> None:
        self._apply, self.passes = apply, passes

    def __call__(self, w: Tensor) -> Tensor:
        return self._apply(w)

    def solve(self, root: Tensor, right: Tensor) -> Tensor:
        return krylov_solve(
            lambda u: root * self._apply(root * u), torch.broadcast_tensors(right, root)[0], self.passes
        )
