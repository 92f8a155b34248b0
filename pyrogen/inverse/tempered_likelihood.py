r"""Likelihoods with less and less noise, and moves that leave the posteriors under them as they are.

A width :math:`\tau` falls from infinity, where nothing is measured, to 0, where the likelihood is that of the model.
On the way particles are weighed by ratios of likelihoods alone, in which the prior cancels, and so does whatever
depends on the width and not on the particle: no determinant is needed.

A move adds noise, :math:`z \mid x`, and takes it away again, :math:`x' \mid z`, by the prior alone
(:mod:`~pyrogen.inverse.reverse`). There are two kinds:

- :class:`~pyrogen.inverse.inflated.Inflated`, linear measurements with Gaussian noise of which the covariance
  :math:`A A^\top` is decomposed: a Gibbs move.
- :class:`~pyrogen.inverse.powered.Powered`, all others: the same move for a linear measurement that is near, and a
  Metropolis correction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

Undo = Callable[[Tensor], Tensor]


class TemperedLikelihood(ABC):
    """A likelihood at every width.

    Particles are rows ``(P, N, D)`` of :math:`N` problems, in which other unknowns may follow the data.

    Attributes:
        constant: What all log-likelihoods lack, in nats, ``(N,)``.
        fitted: Whether moves depend on the particles to which they were fitted.
    """

    constant: Tensor
    fitted: bool = False

    @abstractmethod
    def seen(self, x: Tensor) -> Any:
        """What has to be known of particles for their log-likelihoods at all widths."""

    @abstractmethod
    def log_likelihood(self, seen: Any, width: float) -> Tensor:
        """In nats, but for the constant and what depends on the width alone: ``(P, N)``."""

    @abstractmethod
    def noise(self, width: float, share: float) -> float:
        """How much noise a move adds, in data units: so much of the variance that there is room for."""

    @abstractmethod
    def move(self, x: Tensor, width: float, noise: float, undo: Undo) -> tuple[Tensor, Tensor]:
        """The next particles, and which of them moved, ``(P, N)``.

        Args:
            x: The particles.
            width: At which width.
            noise: How much noise they get.
            undo: Draws data given noisy ones.
        """

    def fit(self, x: Tensor) -> None:  # noqa: B027
        """Prepares moves of particles that are now here."""
