r"""Masses: linear maps after which a target has nearly unit covariance.

The inverse of a mass matrix is the covariance that the target is taken to have, :math:`M^{-1} = A A^\top`. Moves are
made in the coordinates :math:`z`, :math:`x = A z`: velocities are standard normal there, and forces are
:math:`A^\top \nabla \log f`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .convergence import effective_sample_size

_FAR = 2.0  # times the variance that chance gives
_NONE = 1e-12  # of the variance of a coordinate: what rounding makes of a coordinate that never moves, or of copies


class Mass(ABC):
    """A linear map :math:`A` from round coordinates to those of the target."""

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """A velocity or a point in the coordinates of the target, :math:`A z`, ``(chains, *event)``."""

    @abstractmethod
    def adjoint(self, gradient: Tensor) -> Tensor:
        r"""A gradient in round coordinates, :math:`A^\top g`, ``(chains, *event)``."""

    @abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """Points in round coordinates, :math:`A^{-1} x`, ``(chains, *event)``."""


class UnitMass(Mass):
    """The identity."""

    def forward(self, z: Tensor) -> Tensor:
        return z

    def adjoint(self, gradient: Tensor) -> Tensor:
        return gradient

    def inverse(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class DiagonalMass(Mass):
    """A scale for each coordinate.

    Attributes:
        scale: Standard deviations, which broadcast over ``(chains, *event)``.
    """

    scale: Tensor

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * z

    def adjoint(self, gradient: Tensor) -> Tensor:
        return self.scale * gradient

    def inverse(self, x: Tensor) -> Tensor:
        return x / self.scale


@dataclass(frozen=True)
class LowRankMass(Mass):
    r"""A scale for each coordinate, and stretches along a few directions: :math:`A = S (I + U (\Lambda - I) U^\top)`.

    Attributes:
        scale: Standard deviations :math:`S`, ``(D,)``.
        directions: Orthonormal columns :math:`U`, ``(D, rank)``, in units of the scales.
        stretch: Standard deviations :math:`\Lambda` along them, ``(rank,)``, in units of the scales.
    """

    scale: Tensor
    directions: Tensor
    stretch: Tensor

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * self._stretched(z, self.stretch)

    def adjoint(self, gradient: Tensor) -> Tensor:
        return self._stretched(self.scale * gradient, self.stretch)

    def inverse(self, x: Tensor) -> Tensor:
        return self._stretched(x / self.scale, 1 / self.stretch)

    def _stretched(self, z: Tensor, stretch: Tensor) -> Tensor:
        return z + (z @ self.directions * (stretch - 1)) @ self.directions.T


def diagonal_mass(draws: Tensor) -> DiagonalMass:
    """The scales of draws; one where all draws are equal.

    Args:
        draws: Draws of the target, ``(chains, draws, *event)``.
    """
    scale = draws.flatten(0, 1).std(0)
    return DiagonalMass(torch.where(scale > 0, scale, 1.0))


def low_rank_mass(draws: Tensor) -> LowRankMass:
    """The scales of draws, and the directions in which correlated coordinates are far wider or narrower than these.

    Directions are kept whose variance, in units of the scales, is more than twice beyond what that of as many
    independent draws of uncorrelated coordinates would be (the edges of the law of Marchenko and Pastur): a dense mass
    where coordinates are strongly correlated, a diagonal one where they are not. It takes time and memory of the cube
    and the square of ``D``, or of the number of draws if they are fewer.

    Args:
        draws: Draws of the target, ``(chains, draws, D)``.

    References:
        Marchenko and Pastur 1967, "Distribution of eigenvalues for some sets of random matrices",
        https://doi.org/10.1070/SM1967v001n04ABEH001994
    """
    scale = diagonal_mass(draws).scale
    rows = draws.flatten(0, 1)
    standard = ((rows - rows.mean(0)) / scale).double()
    variance, directions = _principal(standard)
    variance = variance.clamp(min=0)  # rounding gives less where there are fewer draws than coordinates
    worth = min(effective_sample_size(draws).nanmedian().item(), len(rows))
    ratio = (rows.shape[1] / worth) ** 0.5
    kept = (variance > _FAR * (1 + ratio) ** 2) | (variance < max(1 - ratio, 0.0) ** 2 / _FAR) & (variance > _NONE)
    return LowRankMass(scale, directions[:, kept].to(scale), variance[kept].sqrt().to(scale))


def _principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Variances of centred rows ``(n, D)`` along orthonormal directions, and these; no more than there are rows."""
    count, size = rows.shape
    if count >= size:
        return torch.linalg.eigh(rows.T @ rows / count)
    variance, left = torch.linalg.eigh(rows @ rows.T / count)
    spread = (count * variance.clamp(min=torch.finfo(rows.dtype).tiny)).sqrt()
    return variance, rows.T @ left / spread  # only those of large variance are of use, and exact
