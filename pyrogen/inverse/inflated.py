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

With the eigenvectors of :math:`A A^\top` in hand (:mod:`~pyrogen.operators.spectrum`) all of this is arithmetic of
single numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.operators.spectrum import ExactSpectrum, Resolved

from .tempered_likelihood import TemperedLikelihood, Undo


class Inflated(TemperedLikelihood):
    r"""A linear measurement in units of its noise, for each of :math:`N` problems.

    Args:
        value: What is measured, ``(1, N, m)``.
        spectrum: The operator :math:`A` and the spectrum of :math:`A A^\top`.
        constant: The log-likelihood of data that fit, ``(N,)``.
    """

    def __init__(self, value: Tensor, spectrum: ExactSpectrum, constant: Tensor) -> None:
        self.value, self.spectrum, self.constant = value, spectrum, constant
        self.operator, self.norm = spectrum.operator, spectrum.norm

    def seen(self, x: Tensor) -> Resolved:
        return self.spectrum.resolve(self._misfit(x))

    def log_likelihood(self, seen: Resolved, width: float) -> Tensor:
        return -0.5 * seen.square(1.0, width**2)

    def noise(self, width: float, share: float) -> float:
        return math.sqrt(width**2 + share / self.norm**2) if self.norm else math.inf

    def move(self, x: Tensor, width: float, noise: float, undo: Undo) -> tuple[Tensor, Tensor]:
        return undo(self.noisy(x, noise, width)), torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)

    def noisy(self, x: Tensor, noise: float, width: float) -> Tensor:
        """Draws of noisy data given data and measurement, ``(P, N, D)``."""
        z = x + noise * torch.randn_like(x)
        missed = self._misfit(z) - self.spectrum.draw(z.shape[:-1], 1.0, width**2 - noise**2)
        return z + noise**2 * self.operator.adjoint(self.spectrum.solve(missed, 1.0, width**2)).to(z)

    def _misfit(self, x: Tensor) -> Tensor:
        """What is measured less what is expected at ``x``: ``(P, N, m)``."""
        return self.value - self.operator(x)
