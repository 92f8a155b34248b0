r"""The noise schedules of the literature, and one that is learned (:class:`~pyrogen.numerics.schedule.Schedule`).

Where the formula of a paper runs to zero or one, the schedule is that formula on the slightly smaller interval that its
docstring names.

References:
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole 2021, "Score-based generative modeling through stochastic
    differential equations", https://arxiv.org/abs/2011.13456
    Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic models", https://arxiv.org/abs/2102.09672
    Kingma, Salimans, Poole and Ho 2021, "Variational diffusion models", https://arxiv.org/abs/2107.00630
    Karras, Aittala, Aila and Laine 2022, "Elucidating the design space of diffusion-based generative models",
    https://arxiv.org/abs/2206.00364
    Liu, Gong and Liu 2023, "Flow straight and fast: learning to generate and transfer data with rectified flow",
    https://arxiv.org/abs/2209.03003
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyrogen.arguments import integer, orderable, positive

from .schedule import FixedSchedule, LogSNRSchedule, check_times, visible


class LinearVP(FixedSchedule):
    r"""Variance-preserving with a linear rate: the continuous form of the schedule of DDPM.

    .. math::
        \alpha_s^2 = e^{-B_s}, \quad \sigma_s^2 = 1 - e^{-B_s}, \quad
        B_s = \beta_{\min} s + \tfrac{1}{2} (\beta_{\max} - \beta_{\min}) s^2

    Args:
        beta_min: Rate at ``s = 0``.
        beta_max: Rate at ``s = 1``.
        start: Time ``t`` in [0, 1] stands for ``s`` in [``start``, 1]; :math:`\sigma_0` is about
            ``sqrt(beta_min * start)``, 0.001 by default.
    """

    def __init__(self, *, beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-5) -> None:
        super().__init__()
        _check_rates(beta_min, beta_max)
        _check_start(start)
        self.beta_min, self.beta_max, self.start = float(beta_min), float(beta_max), start

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        spent = self._spent(t)
        return torch.exp(-0.5 * spent), torch.sqrt(-torch.expm1(-spent))

    def time(self, log_snr: Tensor) -> Tensor:
        return self._when(nn.functional.softplus(-log_snr, threshold=100.0))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.forward(t)
        rate = self._rate(t)
        return -0.5 * rate * alpha, 0.5 * rate * alpha**2 / sigma

    def _native(self, t: Tensor) -> Tensor:
        return self.start + (1 - self.start) * t

    def _spent(self, t: Tensor) -> Tensor:
        s = self._native(t)
        return s * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * s)

    def _rate(self, t: Tensor) -> Tensor:
        return (1 - self.start) * (self.beta_min + (self.beta_max - self.beta_min) * self._native(t))

    def _when(self, spent: Tensor) -> Tensor:
        """The time at which the rates sum to ``spent``, by the root of a quadratic that does not cancel."""
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * spent)
        return (2 * spent / (self.beta_min + root) - self.start) / (1 - self.start)


class SubVP(LinearVP):
    r"""Sub-variance-preserving: less noise than :class:`LinearVP` at every time, made for likelihoods.

    .. math:: \alpha_s = e^{-B_s / 2}, \quad \sigma_s = 1 - e^{-B_s}

    Args:
        beta_min: Rate at ``s = 0``.
        beta_max: Rate at ``s = 1``.
        start: Time ``t`` in [0, 1] stands for ``s`` in [``start``, 1]; :math:`\sigma_0` is about
            ``beta_min * start``, 0.0001 by default.
    """

    def __init__(self, *, beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-3) -> None:
        super().__init__(beta_min=beta_min, beta_max=beta_max, start=start)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        spent = self._spent(t)
        return torch.exp(-0.5 * spent), -torch.expm1(-spent)

    def time(self, log_snr: Tensor) -> Tensor:
        # alpha / (1 - alpha^2) = exp(log_snr / 2), hence B = 2 arsinh(exp(-log_snr / 2) / 2).
        return self._when(2 * torch.asinh(0.5 * torch.exp(-0.5 * log_snr)))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, _ = self.forward(t)
        rate = self._rate(t)
        return -0.5 * rate * alpha, rate * alpha**2


class CosineVP(FixedSchedule):
    r"""Variance-preserving, round a quarter of a circle at constant speed.

    .. math:: \alpha_s = \cos(\pi s / 2), \quad \sigma_s = \sin(\pi s / 2)

    Args:
        start: Time ``t`` in [0, 1] stands for ``s`` in [``start``, 1 - ``start``].
    """

    def __init__(self, *, start: float = 1e-3) -> None:
        super().__init__()
        _check_start(start, 0.5)
        self.first, self.span = 0.5 * math.pi * start, 0.5 * math.pi * (1 - 2 * start)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # cos(a) as the sine of the complement: right to the last digit where it is small.
        return torch.sin(self.first + self.span * (1 - t)), torch.sin(self.first + self.span * t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (torch.atan(torch.exp(-0.5 * log_snr)) - self.first) / self.span

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.forward(t)
        return -self.span * sigma, self.span * alpha


class VE(FixedSchedule):
    r"""Variance-exploding: the data keep their scale, the noise grows geometrically.

    .. math:: \alpha_t = 1, \quad \sigma_t = \sigma_{\min}^{1 - t} \sigma_{\max}^t

    Args:
        sigma_min: Noise at ``t = 0``, in data units.
        sigma_max: Noise at ``t = 1``, in data units.
    """

    def __init__(self, *, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__()
        _check_scales(sigma_min, sigma_max)
        self.first, self.span = math.log(sigma_min), math.log(sigma_max / sigma_min)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.exp(self.first + self.span * t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - self.first) / self.span

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), self.span * self.forward(t)[1]


class EDM(FixedSchedule):
    r"""The schedule of Karras et al. 2022: the noise is a power of a linear function of time.

    .. math::
        \alpha_t = 1, \quad \sigma_t = \bigl(\sigma_{\min}^{1 / \rho}
        + t (\sigma_{\max}^{1 / \rho} - \sigma_{\min}^{1 / \rho})\bigr)^\rho

    Args:
        sigma_min: Noise at ``t = 0``, in data units.
        sigma_max: Noise at ``t = 1``, in data units.
        rho: The power; the larger, the more of the time goes to little noise.
    """

    def __init__(self, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        super().__init__()
        _check_scales(sigma_min, sigma_max)
        self.rho = positive(rho, "rho")
        self.first = sigma_min ** (1 / rho)
        self.span = sigma_max ** (1 / rho) - self.first

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), (self.first + self.span * t) ** self.rho

    def time(self, log_snr: Tensor) -> Tensor:
        return (torch.exp(-0.5 / self.rho * log_snr) - self.first) / self.span

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.rho * self.span * (self.first + self.span * t) ** (self.rho - 1)
        return torch.zeros_like(t), slope


class RectifiedFlow(FixedSchedule):
    r"""The straight path of flow matching.

    .. math:: \alpha_s = 1 - s, \quad \sigma_s = s

    Args:
        start: Time ``t`` in [0, 1] stands for ``s`` in [``start``, 1 - ``start``].
    """

    def __init__(self, *, start: float = 1e-4) -> None:
        super().__init__()
        _check_start(start, 0.5)
        self.start, self.span = start, 1 - 2 * start

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.start + self.span * (1 - t), self.start + self.span * t

    def time(self, log_snr: Tensor) -> Tensor:
        return (torch.sigmoid(-0.5 * log_snr) - self.start) / self.span

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(t, -self.span), torch.full_like(t, self.span)


class LearnedSchedule(LogSNRSchedule):
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
        first, last = orderable(log_snr_max, "log_snr_max"), orderable(log_snr_min, "log_snr_min")
        if not math.inf > first > last > -math.inf:
            raise ValueError(f"`log_snr_max` must exceed `log_snr_min` = {log_snr_min}, got {log_snr_max}")
        knots = integer(knots, "knots")
        self.first = nn.Parameter(torch.tensor(float(log_snr_max)))
        self.log_span = nn.Parameter(torch.tensor(math.log(log_snr_max - log_snr_min)))
        self.log_rate = nn.Parameter(torch.zeros(knots + 1))

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


def _check_rates(beta_min: float, beta_max: float) -> None:
    if not 0 < orderable(beta_min, "beta_min") <= orderable(beta_max, "beta_max") < math.inf:
        raise ValueError(f"`beta_min` and `beta_max` must satisfy 0 < beta_min <= beta_max, got {beta_min}, {beta_max}")


def _check_scales(sigma_min: float, sigma_max: float) -> None:
    if not 0 < orderable(sigma_min, "sigma_min") < orderable(sigma_max, "sigma_max") < math.inf:
        raise ValueError(
            f"`sigma_min` and `sigma_max` must satisfy 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}"
        )


def _check_start(start: float, limit: float = 1.0) -> None:
    if not 0 < orderable(start, "start") < limit:
        raise ValueError(f"`start` must lie strictly between 0 and {limit:g}, got {start}")
