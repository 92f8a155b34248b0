r"""Time grids: at which times a sampler evaluates the denoiser.

A grid is an object called with a schedule; it gives ``steps + 1`` times that fall strictly from ``start`` to ``end``.
Grids in the log-SNR are the same points of the same path under every schedule. With the noise-to-signal ratio
:math:`\tilde\sigma = \sigma / \alpha = e^{-\lambda / 2}` they are uniform in

- :math:`t`: :class:`UniformGrid`,
- :math:`\lambda`: :class:`LogSNRGrid`,
- :math:`\tilde\sigma^{1 / \rho}`: :class:`KarrasGrid`,
- a power of :math:`\tilde\sigma / (1 + \tilde\sigma)`, the time of a rectified flow: :class:`FlowGrid`.

References:
    Karras, Aittala, Aila and Laine 2022, "Elucidating the design space of diffusion-based generative models",
    https://arxiv.org/abs/2206.00364
    Lu, Zhou, Bao, Chen, Li and Zhu 2022, "DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in
    around 10 steps", https://arxiv.org/abs/2206.00927
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyrogen.arguments import integer, orderable, positive

from .representation import by_settings
from .schedule import Schedule

_FIRST_NOISE = 5.0  # of the default grid, in norms of the data, over alpha
_LAST_NOISE = 0.01  # in data units, over alpha


class Grid(ABC):
    """Times at which a sampler evaluates the denoiser.

    Args:
        steps: How many steps from ``start`` to ``end``.
        start: The first time.
        end: The last time.
    """

    def __init__(self, steps: int, *, start: float = 1.0, end: float = 0.0) -> None:
        if not 0 <= orderable(end, "end") < orderable(start, "start") <= 1:
            raise ValueError(f"`start` and `end` must satisfy 0 <= end < start <= 1, got {start}, {end}")
        self.steps = integer(steps, "steps")
        self.start, self.end = start, end

    def __repr__(self) -> str:
        return by_settings(self)

    @abstractmethod
    def __call__(self, schedule: Schedule) -> Tensor:
        """The times, falling from ``start`` to ``end``.

        Shape:
            ``(steps + 1,)`` in double precision on the CPU.
        """


class UniformGrid(Grid):
    """Uniform in time, hence different points of the path under different schedules; arguments as for :class:`Grid`."""

    def __call__(self, schedule: Schedule) -> Tensor:
        return torch.linspace(self.start, self.end, self.steps + 1, dtype=torch.float64)


class NoiseGrid(Grid):
    """Uniform in a monotone function of the noise, hence the same points of the path under every schedule.

    Args:
        steps: How many steps from ``start`` to ``end``.
        start: The first time.
        end: The last time.
        maximum: The steps are laid out below this noise-to-signal ratio, in data units; the first begins at ``start``
            all the same.
        minimum: The steps are laid out above this noise-to-signal ratio, in data units; the last ends at ``end`` all
            the same.

    Raises:
        ValueError: when called: between ``start`` and ``end`` the schedule has no ratio from ``minimum`` to
            ``maximum``.
    """

    def __init__(
        self,
        steps: int,
        *,
        start: float = 1.0,
        end: float = 0.0,
        maximum: float = math.inf,
        minimum: float = 0.0,
    ) -> None:
        super().__init__(steps, start=start, end=end)
        if not 0 <= orderable(minimum, "minimum") < orderable(maximum, "maximum"):
            raise ValueError(f"`minimum` and `maximum` must satisfy 0 <= minimum < maximum, got {minimum}, {maximum}")
        self.maximum, self.minimum = maximum, minimum

    @torch.no_grad()
    def __call__(self, schedule: Schedule) -> Tensor:
        ends = schedule.log_snr(torch.tensor([self.start, self.end], dtype=torch.float64))
        if self.minimum > 0 or self.maximum < math.inf:
            ends = self._clipped(ends)
        first, last = self.position(ends).tolist()
        positions = torch.linspace(first, last, self.steps + 1, dtype=torch.float64)
        times = schedule.time(self.log_snr(positions)).tolist()
        return torch.tensor([self.start, *times[1:-1], self.end], dtype=torch.float64)

    def _clipped(self, ends: Tensor) -> Tensor:
        most, least = (-0.5 * ends).exp().tolist()
        if not max(least, self.minimum) < min(most, self.maximum):
            raise ValueError(
                f"the schedule's noise-to-signal ratios, {least:.4g} to {most:.4g}, must overlap with those of the "
                f"grid, {self.minimum:.4g} to {self.maximum:.4g}"
            )
        return -2 * torch.tensor([min(most, self.maximum), max(least, self.minimum)], dtype=torch.float64).log()

    @abstractmethod
    def position(self, log_snr: Tensor) -> Tensor:
        """The monotone function of the log-SNR in which the grid is uniform."""

    @abstractmethod
    def log_snr(self, position: Tensor) -> Tensor:
        """The inverse of :meth:`position`."""


class LogSNRGrid(NoiseGrid):
    """Uniform in the log-SNR; arguments as for :class:`KarrasGrid`, without a power, and by default without limits."""

    def position(self, log_snr: Tensor) -> Tensor:
        return log_snr

    def log_snr(self, position: Tensor) -> Tensor:
        return position


class KarrasGrid(NoiseGrid):
    r"""Uniform in :math:`\tilde\sigma^{1 / \rho}` (eq. 5 of Karras et al. 2022).

    Args:
        steps: How many steps from ``start`` to ``end``.
        rho: The power; the larger, the more steps at little noise.
        start: The first time.
        end: The last time.
        maximum: The largest noise-to-signal ratio the grid spends steps on, in data units.
        minimum: The smallest.
    """

    def __init__(
        self,
        steps: int,
        *,
        rho: float = 7.0,
        start: float = 1.0,
        end: float = 0.0,
        maximum: float = 80.0,
        minimum: float = 0.002,
    ) -> None:
        super().__init__(steps, start=start, end=end, maximum=maximum, minimum=minimum)
        self.rho = positive(rho, "rho")

    def position(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 / self.rho * log_snr)

    def log_snr(self, position: Tensor) -> Tensor:
        return -2 * self.rho * position.log()


class FlowGrid(NoiseGrid):
    r"""Uniform in :math:`s^p` with :math:`s = \sigma / (\alpha + \sigma)`, the time of a rectified flow.

    It is bounded at both ends, so nothing is lost by a schedule that begins or ends far out. The power below one puts
    more steps where there is little noise.

    Args:
        steps: How many steps from ``start`` to ``end``.
        power: The power :math:`p`; 1 is uniform in the time of a rectified flow.
        start: The first time.
        end: The last time.
    """

    def __init__(self, steps: int, *, power: float = 0.7, start: float = 1.0, end: float = 0.0) -> None:
        super().__init__(steps, start=start, end=end)
        self.power = positive(power, "power")

    def position(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr) ** self.power

    def log_snr(self, position: Tensor) -> Tensor:
        flow_time = position ** (1 / self.power)
        return 2 * (torch.log1p(-flow_time) - flow_time.log())


def default_grid(schedule: Schedule, steps: int, *, norm: float = math.inf) -> Grid:
    """Uniform in the log-SNR, from a noise of five times the norm of the data to 0.01 data units.

    Under more noise than that data can hardly be distinguished, and a network's errors are all there is to follow: they
    count times the variance of the noise. A schedule that does not reach so far is used whole.

    Args:
        schedule: The path from data to noise.
        steps: How many steps.
        norm: The norm of the data, root mean square; begins with the schedule if infinite.
    """
    ends = torch.tensor([max(_FIRST_NOISE * norm, 1.0), _LAST_NOISE], dtype=torch.float64)
    with torch.no_grad():
        first, last = schedule.time(-2 * ends.log()).tolist()
    return LogSNRGrid(steps, start=min(1.0, first), end=min(max(last, 0.0), 0.5))
