"""A noise schedule whose log-signal-to-noise ratio is learned; see :mod:`pyrogen.numerics.schedules`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyrogen.arguments import integer

from .schedules import Schedule, check_times, visible


class LearnedSchedule(Schedule):
    r"""Variance-preserving with a learned log-SNR, monotone by construction, and learned end points.

    The rate :math:`-\lambda'_t` is positive and linear between equally spaced knots, so :math:`\lambda` is a monotone
    quadratic spline with a continuous derivative and an inverse in closed form:

    .. math::
        \lambda_t = \lambda_0 - (\lambda_0 - \lambda_1) \frac{\int_0^t r}{\int_0^1 r}, \quad
        \alpha_t^2 = \frac{1}{1 + e^{-\lambda_t}}, \quad \sigma_t^2 = \frac{1}{1 + e^{\lambda_t}}

    The end points matter to the variational bound; what is between them only to the variance of its estimate (Kingma et
    al. 2021, section 5.1). At construction :math:`\lambda` is linear.

    Args:
        log_snr_max: :math:`\lambda_0` to begin with.
        log_snr_min: :math:`\lambda_1` to begin with.
        knots: Pieces of the spline.
    """

    def __init__(self, *, log_snr_max: float = 13.3, log_snr_min: float = -5.0, knots: int = 16) -> None:
        super().__init__()
        if not math.inf > log_snr_max > log_snr_min > -math.inf:
            raise ValueError(f"`log_snr_max` must exceed `log_snr_min` = {log_snr_min}, got {log_snr_max}")
        knots = integer(knots, "knots")
        self.first = nn.Parameter(torch.tensor(float(log_snr_max)))
        self.log_span = nn.Parameter(torch.tensor(math.log(log_snr_max - log_snr_min)))
        self.log_rate = nn.Parameter(torch.zeros(knots + 1))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        if visible(t):
            check_times(t)
        left, right, before, total = self._pieces(t)
        piece, part = self._locate(t * (len(left)), len(left))
        area = before[piece] + part * (left[piece] + 0.5 * part * (right - left)[piece])
        return self.first.to(t) - self.log_span.to(t).exp() * area / total

    def time(self, log_snr: Tensor) -> Tensor:
        left, right, before, total = self._pieces(log_snr)
        area = (self.first.to(log_snr) - log_snr) / self.log_span.to(log_snr).exp() * total
        piece = torch.searchsorted(before.detach(), area.detach().contiguous(), right=True).sub(1)
        piece = piece.clamp(0, len(left) - 1)
        rest, a, b = area - before[piece], left[piece], (right - left)[piece]
        return (piece + 2 * rest / (a + torch.sqrt(a**2 + 2 * b * rest))) / len(left)

    def slope(self, t: Tensor) -> Tensor:
        left, right, _, total = self._pieces(t)
        piece, part = self._locate(t * len(left), len(left))
        rate = left[piece] + part * (right - left)[piece]
        return -self.log_span.to(t).exp() * rate * len(left) / total

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha, sigma), slope = self(t), self.slope(t)
        return 0.5 * slope * sigma**2 * alpha, -0.5 * slope * alpha**2 * sigma

    def _pieces(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The rates at both ends of each piece, the area before it, and that of all."""
        rate = self.log_rate.to(like).exp()
        left, right = rate[:-1], rate[1:]
        areas = torch.cumsum(0.5 * (left + right), 0)
        return left, right, nn.functional.pad(areas[:-1], (1, 0)), areas[-1]

    @staticmethod
    def _locate(position: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
        piece = position.detach().floor().clamp(0, pieces - 1)
        return piece.long(), position - piece
