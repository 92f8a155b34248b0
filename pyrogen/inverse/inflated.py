r"""A linear measurement with Gaussian noise, of data that have noise of their own.

In units of its noise a linear measurement is :math:`y = A x + \varepsilon`. If the data have noise of width
:math:`\tau` as well it measures less,

.. math:: \log p_\tau(y \mid x) = -\tfrac{1}{2} \lVert y - A x \rVert^2_{C^{-1}} + \dots, \qquad
    C = I + \tau^2 A A^\top ,

all at :math:`\tau = 0` and nothing as :math:`\tau \to \infty`. What is left out depends on :math:`\tau` alone.

A noisy datum :math:`z` between the two, :math:`z \mid x \sim \mathcal{N}(x, \rho^2 I)` and :math:`y \mid z \sim
\mathcal{N}(A z, R)` with :math:`R = C - \rho^2 A A^\top`, leaves the law of :math:`y` given :math:`x` as it is, as long
as :math:`R` is positive: :math:`\rho^2 < \tau^2 + 1 / \lVert A \rVert^2`. Given both, by Matheron's rule,

.. math:: z = z_0 + \rho^2 A^\top C^{-1} (y - A z_0 - R^{1/2} \varepsilon), \qquad z_0 \sim \mathcal{N}(x, \rho^2 I) .

Along the singular directions of :math:`A` all of this is arithmetic of single numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .slopes import SingularSlopes


class Inflated(NamedTuple):
    """A linear measurement in units of its noise, along its singular directions, for each of :math:`N` problems.

    Attributes:
        value: What is measured, along the left singular vectors, ``(1, N, m)``.
        slopes: :math:`A`, to these directions.
        constant: The log-likelihood of data that fit, ``(N,)``.
    """

    value: Tensor
    slopes: SingularSlopes
    constant: Tensor

    @property
    def norm(self) -> float:
        """The largest singular value of any problem."""
        return self.slopes.values.max().item()

    def misfit(self, x: Tensor) -> Tensor:
        """What is measured less what is expected at ``x`` ``(P, N, D)``: ``(P, N, m)``."""
        return self.value - self.slopes.push(x)

    def log_likelihood(self, misfit: Tensor, width: float) -> Tensor:
        """The log-likelihood of data with noise of their own, in nats but for what depends on its width: ``(P, N)``."""
        return -0.5 * (misfit.square() / self._variance(width**2)).sum(-1)

    def noisy(self, x: Tensor, noise: float, width: float) -> Tensor:
        """Draws of noisy data given data and measurement, ``(P, N, D)``.

        Args:
            x: The data, ``(P, N, D)``.
            noise: How much noise they get.
            width: The noise of their own that they have, less than infinite.
        """
        z = x + noise * torch.randn_like(x)
        misfit = self.misfit(z)
        missed = misfit - self._variance(width**2 - noise**2).sqrt() * torch.randn_like(misfit)
        return z + noise**2 * self.slopes.pull(missed / self._variance(width**2)).to(z)

    def _variance(self, variance: float) -> Tensor:
        """What is measured of data with noise of a variance of their own varies so much, ``(1, N, m)``."""
        return 1 + variance * self.slopes.values.square()
