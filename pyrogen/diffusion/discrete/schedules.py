r"""Schedules for symbols: which share of an event's symbols is noise at which time.

At time :math:`t` each symbol, by itself, is noise with probability :math:`u_t` and the datum's with probability
:math:`1 - u_t`. Every schedule rises from :math:`u_0 = 0` to :math:`u_1 = 1`, exactly. What lies between does not
change the bound of a model in continuous time, nor, for uniform noise, its estimate; it decides where a sampler takes
its steps.

References:
    Shi, Han, Wang, Doucet and Titsias 2024, "Simplified and generalized masked diffusion for discrete data",
    https://arxiv.org/abs/2406.04329
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyrogen.arguments import positive
from pyrogen.numerics.representation import by_settings


class SymbolSchedule(ABC):
    """The share of noise at every time; immutable."""

    def __repr__(self) -> str:
        return by_settings(self)

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """The share of noise at times in [0, 1], of the same shape."""

    @abstractmethod
    def slope(self, t: Tensor) -> Tensor:
        """Its derivative in time."""

    def grid(self, steps: int) -> list[float]:
        """The shares at evenly spaced times, falling from one to zero."""
        return self(torch.linspace(1, 0, steps + 1, dtype=torch.float64)).clamp(0, 1).tolist()


class PolynomialSymbols(SymbolSchedule):
    r"""A power of time, :math:`u_t = t^p`: linear at :math:`p = 1`, slow near the data above.

    Args:
        power: The power :math:`p`.

    Raises:
        ValueError: ``power`` is not positive.
    """

    def __init__(self, power: float = 1.0) -> None:
        self.power = positive(power, "power")

    def __call__(self, t: Tensor) -> Tensor:
        return t**self.power

    def slope(self, t: Tensor) -> Tensor:
        return self.power * t ** (self.power - 1)


class CosineSymbols(SymbolSchedule):
    r"""A quarter of a sine, :math:`u_t = \sin(\pi t / 2)`: slow while nearly everything is noise.

    References:
        Chang, Zhang, Jiang, Liu and Freeman 2022, "MaskGIT: Masked generative image transformer",
        https://arxiv.org/abs/2202.04200
    """

    def __call__(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def slope(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * torch.cos(0.5 * math.pi * t)


class GeometricSymbols(SymbolSchedule):
    r"""A total rate of noise that grows geometrically, :math:`\bar\sigma_t = a (b / a)^t`.

    .. math:: u_t = (e^{-\bar\sigma_0} - e^{-\bar\sigma_t}) / (e^{-\bar\sigma_0} - e^{-\bar\sigma_1})

    Args:
        low: The rate :math:`a` at time zero.
        high: The rate :math:`b` at time one.

    Raises:
        ValueError: not ``0 < low < high``.

    References:
        Lou, Meng and Ermon 2024, "Discrete diffusion modeling by estimating the ratios of the data distribution",
        https://arxiv.org/abs/2310.16834
    """

    def __init__(self, low: float = 1e-4, high: float = 20.0) -> None:
        self.low, self.high = positive(low, "low"), positive(high, "high")
        if low >= high:
            raise ValueError(f"`low` must be less than `high` = {high}, got {low}")

    def __call__(self, t: Tensor) -> Tensor:
        return torch.expm1(self.low - self._rate(t)) / math.expm1(self.low - self.high)

    def slope(self, t: Tensor) -> Tensor:
        growth = self._rate(t) * math.log(self.high / self.low)
        return growth * torch.exp(self.low - self._rate(t)) / -math.expm1(self.low - self.high)

    def _rate(self, t: Tensor) -> Tensor:
        return self.low * (self.high / self.low) ** t
