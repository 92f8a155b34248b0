r"""Any likelihood, to a power that grows to one.

At the width :math:`\tau` the log-likelihood counts :math:`\beta = 1 / (1 + \tau^2)` times: under Gaussian noise as if
there were :math:`\sqrt{1 + \tau^2}` times as much of it.

A move adds noise to the data, up the slope of the log-likelihood, and as a linear measurement with Gaussian noise
would have it, whose operator :math:`A` is the derivative of what is measured, in units of its noise, at the particle
that explains the data best:

.. math:: z \mid x \sim g(z \mid x) = \mathcal{N}\bigl(x + \rho^2 \beta \nabla \log p(y \mid x),\ \rho^2 (I - \rho^2
    \beta A^\top A)\bigr) , \qquad \rho^2 \beta \lVert A \rVert^2 < 1 .

Then the prior alone takes it away, :math:`x' \sim p(x) \, \mathcal{N}(z; x, \rho^2 I) / p_\rho(z)`. That is an
independent proposal for the law of :math:`x` given :math:`z`, and accepted by the ratio of

.. math:: r(x) = p(y \mid x)^\beta \, g(z \mid x) / \mathcal{N}(z; x, \rho^2 I)

at :math:`x'` and at :math:`x`: the prior cancels. Of linear measurements with Gaussian noise :math:`r` depends on
:math:`z` alone, and every move is accepted. Elsewhere :math:`\rho` is made as large as keeps acceptance near a half.
Slopes that lead far away are cut off; any shift is right that depends on :math:`x` alone.

References:
    Roberts and Tweedie 1996, "Exponential convergence of Langevin distributions and their discrete approximations",
    https://doi.org/10.2307/3318418
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.numerics.resampling import take

from .target import Target
from .tempered_likelihood import TemperedLikelihood, Undo

_FEW = 1024  # measured numbers for which a decomposition at every level is worth it
_FAR = 3.0  # how far slopes lead, in units of the noise and for each root of the measured numbers


class _Here(NamedTuple):
    """Particles, their data, tempered log-likelihoods ``(P, N)``, and how far slopes shift noisy data ``(P, N, D)``."""

    x: Tensor
    data: Tensor
    log_likelihood: Tensor
    shift: Tensor


class Powered(TemperedLikelihood):
    """The likelihood of a target, to a power.

    Args:
        target: The prior and the measurements.
        typical: A row of unknowns, ``(1, N, D)`` or more.
        most: The largest noise, in data units.
        linear: Whether the derivative is the same everywhere.
    """

    def __init__(self, target: Target, typical: Tensor, most: float, *, linear: bool = False) -> None:
        self.target, self.most, self.fitted = target, most, not linear
        self.constant = typical.new_zeros(target.shape[0], dtype=torch.double)
        self._linearize(typical)

    def seen(self, x: Tensor) -> Tensor:
        return self.target.log_likelihood(x).double()

    def log_likelihood(self, seen: Tensor, width: float) -> Tensor:
        return self.power(width) * seen

    @staticmethod
    def power(width: float) -> float:
        """How often the log-likelihood counts."""
        return 1 / (1 + width**2)

    def noise(self, width: float, share: float) -> float:
        return math.sqrt(share / (self.power(width) * self.spectrum.norm**2 + self.most**-2))

    def fit(self, x: Tensor) -> None:
        if self.fitted:
            self._linearize(take(x, self.seen(x).argmax(0, keepdim=True)))

    def move(self, x: Tensor, width: float, noise: float, undo: Undo) -> tuple[Tensor, Tensor]:
        here = self._here(x, width, noise)
        z = here.data + here.shift + self._noise(here.data, width, noise)
        there = self._here(torch.cat([undo(z.to(x)), x[..., z.shape[-1] :]], -1), width, noise)
        gained = self._log_ratio(there, z, width, noise) - self._log_ratio(here, z, width, noise)
        accepted = torch.rand_like(gained).log() < gained
        return torch.where(accepted.unsqueeze(-1), there.x, x), accepted

    def _linearize(self, point: Tensor) -> None:
        self.operator = self.target.linearized(point).operator
        self.spectrum = self.operator.spectrum(_FEW)

    def _here(self, x: Tensor, width: float, noise: float) -> _Here:
        value, slope = self.target.score(x)
        shift = noise**2 * self.power(width) * slope.double()
        far = _FAR * noise * math.sqrt(min(self.operator.output_shape[0], shift.shape[-1]))
        shift = shift * (far / shift.norm(dim=-1, keepdim=True)).clamp(max=1)
        return _Here(x, x[..., : shift.shape[-1]], self.power(width) * value.double(), shift)

    def _noise(self, x: Tensor, width: float, noise: float) -> Tensor:
        """Draws of the Gaussian noise, by Matheron's rule."""
        variance = noise**2 * self.power(width)
        white = noise * torch.randn_like(x, dtype=torch.double)
        missed = variance**0.5 / noise * self.operator(white) + self.spectrum.draw(x.shape[:-1], 1.0, -variance)
        return white - noise * variance**0.5 * self.operator.adjoint(missed)

    def _log_ratio(self, at: _Here, z: Tensor, width: float, noise: float) -> Tensor:
        """The logarithm of :math:`r(x)`, but for what depends on the noise alone: ``(P, N)``."""
        variance = noise**2 * self.power(width)
        plain = z - at.data
        missed = plain - at.shift
        inner = variance * self.spectrum.resolve(self.operator(missed)).square(1.0, -variance)
        squares = missed.square().sum(-1) + inner - plain.square().sum(-1)
        return at.log_likelihood - 0.5 * squares / noise**2
