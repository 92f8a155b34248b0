r"""At which noise levels an integral over all of them is estimated.

An integral over the log-SNR :math:`\lambda` between the ends of a schedule is an expectation under any density
:math:`q` that is positive there, :math:`\int f(\lambda) \, d\lambda = \mathbb{E}_q [f(\lambda) / q(\lambda)]`. The
objects here turn uniform numbers into times, with a known density in :math:`\lambda`. Stratified uniform
numbers give stratified times.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyrogen.arguments import number, positive, positive_share

from .representation import by_settings
from .schedule import Schedule


class Times(ABC):
    """Turns uniform numbers into times; immutable."""

    def __repr__(self) -> str:
        return by_settings(self)

    @abstractmethod
    def __call__(self, uniform: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        r"""Times, and their densities in :math:`\lambda`, both of the shape of ``uniform``."""


class UniformTimes(Times):
    """Uniform in time: where the schedule spends its time, so does the estimate. What a learned schedule learns."""

    def __call__(self, uniform: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        return uniform, -1 / schedule.slope(uniform)


class LogSNRTimes(Times):
    r"""Some uniform in the log-SNR, the rest by a logistic density around the levels at which images form.

    .. math:: q(\lambda) = \tfrac{w}{\lambda_0 - \lambda_1} + (1 - w) \, \text{logistic}(\lambda; m, s)

    The logistic is cut off at the ends of the schedule. The uniform part bounds the weights.

    Args:
        mean: The centre :math:`m` of the logistic; zero is where noise and data of unit scale are equal.
        scale: The scale :math:`s` of the logistic.
        uniform: The share :math:`w` of the uniform part, in (0, 1].
    """

    def __init__(self, *, mean: float = 0.0, scale: float = 1.5, uniform: float = 0.5) -> None:
        self.mean, self.scale = number(mean, "mean"), positive(scale, "scale")
        self.uniform = positive_share(uniform, "uniform")

    def __call__(self, uniform: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        last, first = ends(schedule, uniform)
        side, near, far = _mirrored((last - self.mean) / self.scale, (first - self.mean) / self.scale)
        low, high = torch.sigmoid(near), torch.sigmoid(far)
        share = uniform / self.uniform
        even = last + (first - last) * share.clamp(max=1)
        rest = (uniform - self.uniform).clamp(min=0) / max(1 - self.uniform, 1e-12)
        place = torch.where(side > 0, rest, 1 - rest)
        peaked = self.mean + side * self.scale * torch.logit(low + (high - low) * place)
        log_snr = torch.where(share < 1, even, peaked).clamp(last, first)
        centred = (log_snr - self.mean) / self.scale
        logistic = torch.sigmoid(centred) * torch.sigmoid(-centred) / (self.scale * (high - low))
        density = self.uniform / (first - last) + (1 - self.uniform) * logistic
        return schedule.time(log_snr).clamp(0, 1), density


class LogNormalTimes(Times):
    r"""Noise-to-signal ratios :math:`\sigma / \alpha` by a log-normal density, cut off at the ends of the schedule.

    Args:
        mean: Of :math:`\log(\sigma / \alpha)`.
        scale: Standard deviation of the same.

    References:
        Karras, Aittala, Aila and Laine 2022, "Elucidating the design space of diffusion-based generative models",
        https://arxiv.org/abs/2206.00364
    """

    def __init__(self, *, mean: float = -1.2, scale: float = 1.2) -> None:
        self.mean, self.scale = number(mean, "mean"), positive(scale, "scale")

    def __call__(self, uniform: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        last, first = ends(schedule, uniform)
        mean, scale = -2 * self.mean, 2 * self.scale
        side, near, far = _mirrored((last - mean) / scale, (first - mean) / scale)
        low, high = torch.special.ndtr(near), torch.special.ndtr(far)
        place = torch.where(side > 0, uniform, 1 - uniform)
        log_snr = (mean + side * scale * torch.special.ndtri(low + (high - low) * place)).clamp(last, first)
        centred = (log_snr - mean) / scale
        density = torch.exp(-0.5 * centred**2) / (math.sqrt(2 * math.pi) * scale * (high - low))
        return schedule.time(log_snr).clamp(0, 1), density


def ends(schedule: Schedule, like: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`(\lambda_1, \lambda_0)`, the least and the greatest log-SNR of a schedule."""
    first, last = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=like.dtype, device=like.device))
    return last, first


def _mirrored(last: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A sign, and the least and the greatest of what it makes of the ends of an interval, which lies below zero.

    The mass of a lower tail is precise however small it is; that of an upper one is a difference of two ones.
    """
    side = torch.where(last + first > 0, -1.0, 1.0).to(last)
    return side, torch.where(side > 0, last, -first), torch.where(side > 0, first, -last)


def stratified(strata: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uniform numbers ``(strata, *shape)``, evenly spaced along the first dimension from a random start.

    So there is one in each of as many equal parts of [0, 1].
    """
    places = torch.arange(strata, dtype=like.dtype, device=like.device).reshape(-1, *(1,) * len(shape))
    return (places + torch.rand(shape, dtype=like.dtype, device=like.device)) / strata


def antithetic(draws: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal noise ``(draws, *shape)``, every second draw minus the one before."""
    noise = torch.randn(((draws + 1) // 2, *shape), dtype=like.dtype, device=like.device)
    return torch.stack([noise, -noise], 1).flatten(0, 1)[:draws]
