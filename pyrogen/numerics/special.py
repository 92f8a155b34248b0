"""Special functions, stable in value and gradient where the textbook formula is not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NARROW = 0.03
"""Width below which an interval's mass comes from a series: there the difference of two logarithms has lost digits."""

_SMALL = 0.3
"""Argument below which series take over; their next terms are below 1e-9 of the result."""


def log_sinhc(x: Tensor) -> Tensor:
    r"""The logarithm of :math:`\sinh(x) / x`, zero at zero."""
    small = x.abs() < _SMALL
    square = torch.where(small, x, 0.0).square()
    series = square / 6 - square**2 / 180 + square**3 / 2835 - square**4 / 37800
    size = torch.where(small, 1.0, x).abs()
    return torch.where(small, series, size + (-torch.expm1(-2 * size)).log() - (2 * size).log())


def langevin(x: Tensor) -> Tensor:
    r"""The Langevin function :math:`\coth(x) - 1 / x`, the derivative of :func:`log_sinhc`."""
    small = x.abs() < _SMALL
    near = torch.where(small, x, 0.0)
    square = near.square()
    series = near / 3 * (1 - square / 15 + 2 * square**2 / 315 - square**3 / 1575 + 2 * square**4 / 31185)
    far = torch.where(small, 1.0, x)
    return torch.where(small, series, 1 / far.tanh() - 1 / far)


def log_logistic_mass(lower: Tensor, upper: Tensor) -> Tensor:
    r"""The logarithm of a standard logistic variable's probability of lying between two numbers.

    With :math:`\sigma` the logistic function,
    :math:`\sigma(b) - \sigma(a) = \sigma(b) \, \sigma(-a) \, (1 - e^{a - b})`, which no tail can cancel.
    """
    logsigmoid = torch.nn.functional.logsigmoid
    return logsigmoid(upper) + logsigmoid(-lower) + (-torch.expm1(lower - upper)).log()


def log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """The logarithm of a sum of exponentials, whose gradient is zero, not NaN, where all of them are zero."""
    nothing = x.isneginf().all(dim, keepdim=True)
    return x.masked_fill(nothing, 0.0).logsumexp(dim).masked_fill(nothing.squeeze(dim), -math.inf)


def log_normal_cdf(x: Tensor) -> Tensor:
    """The logarithm of the standard normal distribution function: torch's ``log_ndtr``, also under ``vmap``."""
    left = x < 1
    tail = torch.where(left, x, 0.0)
    bulk = torch.where(left, 1.0, x)
    far = (torch.special.erfcx(-tail * math.sqrt(0.5)) / 2).log() - tail.square() / 2
    return torch.where(left, far, torch.log1p(-torch.erfc(bulk * math.sqrt(0.5)) / 2))


def log_normal_mass(lower: Tensor, upper: Tensor) -> Tensor:
    r"""The logarithm of a standard normal variable's probability of lying between two numbers.

    Both ends are mirrored into the left tail, where :math:`\log \Phi` has all its digits. A narrow interval of middle
    :math:`m` and width :math:`w` is integrated in closed form, after its own curvature is expanded:

    .. math:: \int_{-w/2}^{w/2} \phi(m + t) \, dt
        = \phi(m) \, w \, \frac{\sinh(mw/2)}{mw/2} \, \mathbb{E}[e^{-t^2/2}], \qquad p(t) \propto e^{-mt} .
    """
    width, middle = upper - lower, (upper + lower) / 2
    narrow = width < _NARROW
    tilt = torch.where(narrow, middle * width / 2, 0.0)
    thin = torch.where(narrow, width, _NARROW)
    curvature = (thin / 2).square() * (0.5 - _langevin_ratio(tilt))
    series = -middle.square() / 2 - 0.5 * math.log(2 * math.pi) + thin.log() + log_sinhc(tilt) - curvature

    low = torch.where(narrow, -1.0, torch.where(middle > 0, -upper, lower))
    high = torch.where(narrow, 0.0, torch.where(middle > 0, -lower, upper))
    log_high = log_normal_cdf(high)
    ratio = log_normal_cdf(low) - log_high
    return torch.where(narrow, series, log_high + (-torch.expm1(ratio)).log())


def _langevin_ratio(x: Tensor) -> Tensor:
    """``langevin(x) / x``, one third at zero."""
    small = x.abs() < _SMALL
    square = torch.where(small, x, 0.0).square()
    series = (1 - square / 15 + 2 * square**2 / 315 - square**3 / 1575 + 2 * square**4 / 31185) / 3
    far = torch.where(small, 1.0, x)
    return torch.where(small, series, langevin(far) / far)
