r"""The chain of a diffusion prior: from noise to data in steps, each a Gaussian.

Given :math:`x_t` and the datum, :math:`x_s` is Gaussian with mean :math:`a x_t + b x_0` and variance :math:`v`
(:mod:`~pyrogen.numerics.gaussian_path`). The datum is not known, only its denoised mean :math:`D(x_t, t)` with an error
of variance :math:`c_t`, so the chain steps by

.. math:: x_s \mid x_t \sim \mathcal{N}\bigl(a x_t + b D(x_t, t), v + b^2 c_t\bigr), \qquad
    x_0 \mid x_t \sim \mathcal{N}(D(x_t, t), c_t) .

The error :math:`c_t` is one number for each coordinate and level, the mean of :math:`(\sigma_t^2 / \alpha_t)
\operatorname{diag} \partial D / \partial x_t` over a small pilot run of the prior. Of
data with many coordinates that vary together, probes of the diagonal are mostly noise; the means of coordinates are
drawn towards their common mean as far as noise explains that they differ (James and Stein). So the chain is exact for
Gaussian data with independent coordinates, however few its steps; without (ancestral sampling) 100 steps lose a tenth
of the variance of a Gaussian. This chain, not its limit of many steps, is the prior that the methods of this package
are exact for.

References:
    Bao, Li, Zhu and Zhang 2022, "Analytic-DPM: an analytic estimate of the optimal reverse variance in diffusion
    probabilistic models", https://arxiv.org/abs/2201.06503
    Efron and Morris 1973, "Stein's estimation rule and its competitors: an empirical Bayes approach",
    https://doi.org/10.1080/01621459.1973.10481350
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrogen.numerics.grids import Grid, default_grid
from pyrogen.numerics.schedule import Schedule

PILOT = 32  # particles of a pilot run, of all problems together, at least
_STEPS = 20  # of the run that estimates the norm of the data


@dataclass(frozen=True)
class Level:
    """One noise level: time, and scales of the data and of the noise."""

    time: float
    alpha: float
    sigma: float

    @property
    def covariance_scale(self) -> float:
        r""":math:`\sigma^2 / \alpha`: times the Jacobian of the denoiser it is the covariance of the datum."""
        return self.sigma**2 / self.alpha

    @property
    def variance(self) -> float:
        r""":math:`\sigma^2 / \alpha^2`: the variance of the noise in data units."""
        return (self.sigma / self.alpha) ** 2


@dataclass(frozen=True)
class ReverseStep:
    """One Gaussian step: ``keep`` is :math:`a`, ``pull`` is :math:`b`, ``scale`` the standard deviation ``(D,)``.

    ``levels`` are the noise levels that lie ahead: that of the step, the next, and so on to the last.
    """

    keep: float
    pull: float
    scale: Tensor
    levels: list[Level]

    def mean(self, x: Tensor, denoised: Tensor) -> Tensor:
        """The mean of the next particles."""
        return self.keep * x + self.pull * denoised

    def draw(self, x: Tensor, denoised: Tensor) -> Tensor:
        """The next particles."""
        return self.mean(x, denoised) + self.scale * torch.randn_like(x)

    def undo(self, x: Tensor) -> Tensor:
        r"""Particles of the next level, made noisy up to this one: draws of :math:`x_t \mid x_s`."""
        level, other = self.levels[:2]
        ratio = level.alpha / other.alpha
        return ratio * x + (level.sigma**2 - (ratio * other.sigma) ** 2) ** 0.5 * torch.randn_like(x)


Denoise = Callable[[Tensor, Level], Tensor]


class Chain:
    """The levels of a schedule on a grid, from noise to data, and the errors of the denoised mean there.

    Args:
        schedule: The path from data to noise.
        grid: The times at which the denoiser is evaluated.
    """

    def __init__(self, schedule: Schedule, grid: Grid) -> None:
        self.schedule = schedule
        with torch.no_grad():
            self._lay(grid(schedule))
        self.errors = [torch.zeros(()) for _ in self.levels]

    def _lay(self, times: Tensor) -> None:
        path = self.schedule(times)
        rows = zip(times.tolist(), path.alpha.tolist(), path.sigma.tolist(), strict=True)
        self.levels = [Level(*row) for row in rows]
        here, there = path.steps()
        self._posteriors = list(zip(*(entry.tolist() for entry in here.posterior(there)), strict=True))

    @torch.no_grad()
    def below(self, noise: float) -> Chain:
        """The chain from a level on at which data have noise of this size, in data units, no more than at the first.

        The error there is that of a Gaussian which has the errors of the two levels around it.
        """
        later = [place for place, level in enumerate(self.levels) if level.variance < noise**2]
        time = self.schedule.time(torch.tensor(-2 * math.log(noise), dtype=torch.double)).clamp(0, 1)
        tail = copy(self)
        tail._lay(torch.tensor([time, *(self.levels[place].time for place in later)], dtype=torch.double))
        tail.errors = [self._error(noise), *(self.errors[place] for place in later)]
        return tail

    def _error(self, noise: float) -> Tensor:
        r"""The error of the denoised mean at any noise :math:`\rho`.

        What data are worth besides, :math:`1 / c - 1 / \rho^2`, is the same at all levels if they are Gaussian; it is
        interpolated, and taken from the last level beyond it.
        """
        above = max((place for place, level in enumerate(self.levels) if level.variance >= noise**2), default=0)
        below = min(above + 1, len(self.levels) - 1)
        known = [
            (1 / self.errors[place].clamp_min(1e-30) - 1 / self.levels[place].variance).clamp_min(0)
            for place in (above, below)
        ]
        high, low = (math.log(self.levels[place].variance) for place in (above, below))
        part = (high - 2 * math.log(noise)) / (high - low) if high > low else 0.0
        return 1 / (known[0].lerp(known[1], min(part, 1.0)) + noise**-2)

    def start(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Pure noise at the first level."""
        return self.levels[0].sigma * torch.randn(shape, dtype=like.dtype, device=like.device)

    def draw(self, denoise: Denoise, x: Tensor) -> Tensor:
        """Data at the end of the chain, from particles ``(P, N, D)`` at its first level."""
        for place, level in enumerate(self.levels[:-1]):
            x = self.step(place).draw(x, denoise(x, level))
        return denoise(x, self.levels[-1]) + self.errors[-1].sqrt() * torch.randn_like(x)

    def bridge(self, place: int, x: Tensor, datum: Tensor) -> Tensor:
        """Particles at the next level, from those at a level and the data that they belong to."""
        keep, pull, variance = self._posteriors[place]
        return keep * x + pull * datum + variance**0.5 * torch.randn_like(x)

    def step(self, place: int) -> ReverseStep:
        """The step from a level to the next."""
        keep, pull, variance = self._posteriors[place]
        return ReverseStep(keep, pull, (variance + pull**2 * self.errors[place]).sqrt(), self.levels[place:])

    @torch.no_grad()
    def calibrate(self, denoise: Denoise, shape: tuple[int, int], like: Tensor, least: int = 1) -> Tensor:
        """Measures the errors of the denoised mean on a pilot run of the prior.

        Args:
            denoise: Noisy particles ``(P, N, D)`` and their level to denoised means.
            shape: ``(N, D)``.
            like: A tensor with the dtype and the device of the particles.
            least: How many particles each problem has at least; errors are averages over those of all problems.

        Returns:
            The last denoised means of the run, ``(P, N, D)``: nearly draws of the prior.
        """
        least = max(least, math.ceil(PILOT / max(shape[0], 1)))
        count = min(max(8192 // max(shape[0] * shape[1], 1), least), 512)
        x = self.start((count, *shape), like)
        for place, level in enumerate(self.levels):
            mean, slope = _diagonal(denoise, x, level)
            # Neither more than the noise nor less than nothing, as the covariance of the datum is.
            self.errors[place] = (level.covariance_scale * _shrunk(slope.flatten(0, 1))).clamp(0, level.variance)
            if level is not self.levels[-1]:
                x = self.step(place).draw(x, mean)
        return mean


def data_norm(schedule: Schedule, denoise: Denoise, shape: tuple[int, int], like: Tensor) -> float:
    """The norm of the data, root mean square, by a short run of the prior; arguments as for ``Chain.calibrate``."""
    draws = Chain(schedule, default_grid(schedule, _STEPS)).calibrate(denoise, shape, like)
    return draws.square().sum(-1).mean().sqrt().item()


def _diagonal(denoise: Denoise, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Denoised means, and an unbiased estimate of the diagonal of the Jacobian (one probe of random signs)."""
    with torch.enable_grad():
        noisy = x.detach().requires_grad_(True)
        mean = denoise(noisy, level)
        signs = torch.randint_like(x, 2) * 2 - 1
        slope = torch.autograd.grad(mean, noisy, signs)[0]
    return mean.detach(), signs * slope


def _shrunk(values: Tensor) -> Tensor:
    """The mean of each coordinate, drawn towards that of all as far as noise explains that they differ.

    Args:
        values: Independent estimates for each, ``(n, D)``.
    """
    own, count = values.mean(0), values.shape[1]
    if len(values) < 2 or count < 4:
        return own
    noise, spread = values.var(0).mean() / len(values), own.var()
    explained = torch.where(spread > 0, (count - 3) / (count - 1) * noise / spread, 1.0).clamp(max=1)
    return own.lerp(own.mean(), explained)
