r"""Monotone rational-quadratic splines, fused.

On :math:`[-B, B]` each element is sent through a spline of :math:`K` bins; outside it is left as it is. With
:math:`x` and :math:`y` in units of the interval, bin :math:`k` has width :math:`w_k`, height :math:`h_k` and slopes
:math:`\delta_k, \delta_{k+1}` at its ends. With :math:`z = (x - x_k) / w_k`, :math:`s = h_k / w_k`,
:math:`e = \delta_k + \delta_{k+1} - 2 s` and :math:`q = z (1 - z)`,

.. math::
    y = y_k + h_k \frac{s z^2 + \delta_k q}{s + e q}, \qquad
    \frac{dy}{dx} = s^2 \frac{\delta_{k+1} z^2 + 2 s q + \delta_k (1 - z)^2}{(s + e q)^2} .

Raw parameters are soft-clipped, :math:`a \mapsto a / (1 + |a| / c)`. Widths and heights are softmaxes of logits clipped
at :math:`c = \log 10`: no bin is smaller than 1/100 of the largest. Slopes at the inner knots are exponentials of
numbers clipped at :math:`\log 0.001` and :math:`\log 100`; at :math:`\pm B` they are one. So the spline can be inverted
in single precision: eight bins with standard normal parameters to 4e-5 of :math:`B`, with ten times those nine numbers
in ten to 1e-4 and, where the spline is flattest, to 0.13. Zero parameters give the identity.

On a circle, :math:`B = \pi`, the slope at :math:`\pi` is that at :math:`-\pi`, and is learned; whole turns go to whole
turns. On a segment the slopes at both ends are learned, and there is nothing outside.

Parameters come *parameter-major*, ``(3 K - 1, N)``, so that every step is a long contiguous vector operation, and the
backward pass is written out. It falls back to automatic differentiation where a second derivative is asked for.

References:
    Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032
    Rezende et al. 2020, "Normalizing flows on tori and spheres", section 2.1.2, https://arxiv.org/abs/2002.02428
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrogen.arguments import integer, positive
from pyrogen.numerics.angles import wrapped

from .elements import ElementKernel
from .kernels import FusedElement

LARGEST_RATIO = 100.0
"""Of the sizes of two bins."""
SMALLEST_SLOPE, LARGEST_SLOPE = 1e-3, 100.0
"""At the inner knots."""

_PER_SIZE = 2 / math.log(LARGEST_RATIO)
_PER_FALL, _PER_RISE = 1 / math.log(SMALLEST_SLOPE), 1 / math.log(LARGEST_SLOPE)


@dataclass(frozen=True)
class Spline(FusedElement):
    """A rational-quadratic spline on ``[-bound, bound]``, the identity outside.

    Its parameters are logits of widths (K), of heights (K), and log-slopes at the inner knots (K - 1), before clipping.

    Args:
        bins: How many bins (K).
        bound: Half the width of the interval.

    Raises:
        TypeError: ``bins`` is no integer, or ``bound`` no number.
        ValueError: there are fewer than two bins, or the bound is not positive and finite.
    """

    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        integer(self.bins, "bins", least=2)
        positive(self.bound, "bound")

    @property
    def size(self) -> int:
        return 3 * self.bins - 1

    def kernel(self, inverse: bool) -> ElementKernel:
        options = {"bound": self.bound, "inverse": inverse}
        return ElementKernel(partial(_evaluate, **options), partial(_backward, slopes=self.bins - 1, **options))


@dataclass(frozen=True)
class CircularSpline(FusedElement):
    """A rational-quadratic spline of an angle, and a rotation; whole turns go to whole turns.

    Its parameters are logits of widths (K), of heights (K), log-slopes at the knots (K), before clipping, and the angle
    of the rotation.

    Args:
        bins: How many bins (K).

    Raises:
        TypeError: ``bins`` is no integer.
        ValueError: there are fewer than two bins.
    """

    bins: int = 8

    def __post_init__(self) -> None:
        integer(self.bins, "bins", least=2)

    @property
    def size(self) -> int:
        return 3 * self.bins + 1

    def kernel(self, inverse: bool) -> ElementKernel:
        return ElementKernel(partial(_evaluate_turned, inverse=inverse), partial(_backward_turned, inverse=inverse))


@dataclass(frozen=True)
class SegmentSpline(FusedElement):
    """A rational-quadratic spline from ``[-1, 1]`` onto itself, the slopes at both ends learned.

    Its parameters are logits of widths (K), of heights (K), and log-slopes at the knots (K + 1), before clipping.

    Args:
        bins: How many bins (K).

    Raises:
        TypeError: ``bins`` is no integer.
        ValueError: there are fewer than two bins.
    """

    bins: int = 8

    def __post_init__(self) -> None:
        integer(self.bins, "bins", least=2)

    @property
    def size(self) -> int:
        return 3 * self.bins + 1

    def kernel(self, inverse: bool) -> ElementKernel:
        options = {"bound": 1.0, "inverse": inverse}
        return ElementKernel(partial(_evaluate, **options), partial(_backward, slopes=self.bins + 1, **options))


class _Place(NamedTuple):
    """Where each element lies in its spline; in units of the interval, rows for the input and the output axis."""

    index: Tensor  # (1, N): its bin
    left: Tensor  # (2, N): the bin's lower end
    size: Tensor  # (2, N): the bin's width and height
    total: Tensor  # (2, N): what turns weights into sizes
    slope: Tensor  # (2, N): at the bin's ends
    slope_clip: Tensor  # (2, N): 1 + |a| / c of both slopes, one where a slope is fixed
    weight: Tensor  # (2, K, N): exponentials of the clipped logits
    clip: Tensor  # (2, K, N): 1 + |a| / c of the logits


def _locate(parameters: Tensor, t: Tensor, inverse: bool) -> _Place:
    """The bin of each ``t`` in [0, 1], on the output axis if ``inverse``."""
    bins = (len(parameters) + 1) // 3
    logits = parameters[: 2 * bins].unflatten(0, (2, bins))
    clip = logits.abs().mul_(_PER_SIZE).add_(1)
    weight = (logits / clip).exp_()
    total = weight.sum(1)
    index, left = _search(weight, t * total[int(inverse)], int(inverse))
    size = weight.gather(1, index.expand(2, 1, -1)).squeeze(1)
    slope, slope_clip = _slopes(parameters[2 * bins :], index, bins)
    return _Place(index, left / total, size / total, total, slope, slope_clip, weight, clip)


def _search(weight: Tensor, t: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The bin that holds ``t`` and the sum of the weights before it; a loop keeps the vectors long."""
    ends = [torch.zeros_like(weight[:, 0])]
    for bin in range(weight.shape[1] - 1):
        ends.append(ends[-1] + weight[:, bin])
    left = torch.stack(ends, 1)  # (2, K, N)
    index = (t >= left[axis, 1:]).sum(0, keepdim=True)
    return index, left.gather(1, index.expand(2, 1, -1)).squeeze(1)


def _knots(index: Tensor, slopes: int, bins: int) -> Tensor:
    """Which slopes are those at both ends of a bin, ``(2, N)``: of all knots, or of a circle's."""
    knots = torch.cat((index, index + 1))
    return knots % bins if slopes == bins else knots


def _slopes(parameters: Tensor, index: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The slopes at both ends of each element's bin, and their clips."""
    if len(parameters) < bins:
        parameters = F.pad(parameters, (0, 0, 1, 1))  # slopes of one at both ends
    raw = parameters.gather(0, _knots(index, len(parameters), bins))
    clip = torch.maximum(raw * _PER_RISE, raw * _PER_FALL).add_(1)
    return (raw / clip).exp_(), clip


def _evaluate(parameters: Tensor, x: Tensor, *, bound: float, inverse: bool) -> tuple:
    """Output, log-slope, and what the backward pass needs."""
    t = x.clamp(-bound, bound).add(bound).mul(0.5 / bound)
    place = _locate(parameters, t, inverse)
    (x0, y0), (w, h), (d0, d1) = place.left, place.size, place.slope
    s = h / w
    twice = 2 * s
    e = d0 + d1 - twice
    z = _solve((t - y0) / h, s, d0, e) if inverse else (t - x0) / w
    z = z - (z - z.clamp(0, 1)).detach()  # rounding may put it outside of the bin
    u = 1 - z
    q = z * u
    den = torch.addcmul(s, e, q)
    # Sums of positive numbers alone, so that small slopes are not lost in rounding beside large ones.
    low = d0 * u
    top = z * torch.addcmul(low, s, z)
    num = torch.addcmul(low * u, torch.addcmul(d1 * z, twice, u), z)
    out = torch.addcmul(x0, w, z) if inverse else torch.addcmul(y0, h, top / den)
    log_slope = (num * (s / den).square()).log()
    inside = x.abs() <= bound
    out = torch.where(inside, 2 * bound * out - bound, x)
    log_slope = torch.where(inside, -log_slope if inverse else log_slope, 0.0)
    return out, log_slope, (*place, inside, z, s, e, q, den, top, num)


def _solve(r: Tensor, s: Tensor, d0: Tensor, e: Tensor) -> Tensor:
    """The place in a bin where the spline reaches the fraction ``r`` of its height."""
    b = d0 - r * e
    discriminant = b * b + 4 * (s - b) * r * s
    sum_ = b.abs() + discriminant.clamp_min(0).sqrt()
    falls = b < 0
    return torch.where(falls, sum_, 2 * r * s) / torch.where(falls, 2 * (s - b), sum_)


def _backward(
    saved: tuple, g_out: Tensor, g_log: Tensor, *, bound: float, inverse: bool, slopes: int
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to parameters and input, written out (notation of the module; u is 1 - z)."""
    index, left, size, total, slope, slope_clip, weight, clip, inside, z, s, e, q, den, top, num = saved
    (w, h), (d0, d1) = size, slope
    u = 1 - z
    g_v = torch.where(inside, g_out * (2 * bound), 0.0)
    g_l = torch.where(inside, g_log, 0.0)
    if inverse:  # implicitly: dx/dy = 1 / f', dx/dtheta = -(df/dtheta) / f', and the log-slope changes its sign
        l_z = 2 * (z * d1 + s * (u - z) - d0 * u) / num - 2 * e * (u - z) / den
        g_v = (g_l * l_z / w - g_v) * (den / s).square() / num
        g_l = -g_l
    i_den, i_num = 1 / den, g_l / num
    g_top = g_v * h * i_den
    g_den = -(g_top * top + 2 * g_l) * i_den
    g_e = g_den * q
    g_s = g_den + g_top * z * z + 2 * (q * i_num + g_l / s - g_e)
    g_z = (g_den * e + g_top * d0 + 2 * s * i_num) * (u - z) + 2 * (z * (g_top * s + i_num * d1) - i_num * d0 * u)
    g_slope = torch.stack((g_e + g_top * q + i_num * u * u, g_e + i_num * z * z))
    g_t = g_z / w
    g_size = torch.stack((-(g_t * z + g_s * s / w), g_v * top * i_den + g_s / w))
    g_x = torch.where(inside, (-g_v if inverse else g_t) / (2 * bound), g_out)

    bins = weight.shape[1]
    gradient = torch.empty(2 * bins + slopes, len(g_x), dtype=g_x.dtype, device=g_x.device)
    sizes, by_slope = gradient.tensor_split((2 * bins,))
    before = torch.stack((-g_t, g_v))
    _fill_sizes(
        sizes.unflatten(0, weight.shape[:2]), index, before, g_size, (before * left + g_size * size) / total, total
    )
    sizes.unflatten(0, weight.shape[:2]).mul_(weight).div_(clip).div_(clip)
    g_slope = g_slope * slope / slope_clip.square()
    if slopes < bins:
        _fill_inner_slopes(by_slope, index, g_slope)
    else:
        below, above = _knots(index, slopes, bins).split(1)
        by_slope.zero_().scatter_(0, below, g_slope[:1]).scatter_(0, above, g_slope[1:])
    return gradient, g_x


def _fill_sizes(out: Tensor, index: Tensor, before: Tensor, at: Tensor, mean: Tensor, total: Tensor) -> None:
    """Through the softmax: each bin's own gradient (zero right of the element's bin) less their mean."""
    bins = torch.arange(out.shape[1], device=out.device).unsqueeze(1)
    is_before = (bins < index).to(out.dtype)  # (K, N)
    torch.addcmul(-mean.unsqueeze(1), is_before, (before / total).unsqueeze(1), out=out)
    out.scatter_(1, index.expand(2, 1, -1), (at / total - mean).unsqueeze(1))


def _fill_inner_slopes(out: Tensor, index: Tensor, gradient: Tensor) -> None:
    """At both ends of the element's bin; at a border, where there is no slope to learn, the other end's once more."""
    out.zero_()
    below, above = gradient
    first, last = index[0] == 0, index[0] == len(out)
    ends = torch.stack((torch.where(first, above, below), torch.where(last, below, above)))
    rows = torch.cat((index - 1, index)).clamp_(0, len(out) - 1)
    out.scatter_(0, rows[:1], ends[:1]).scatter_(0, rows[1:], ends[1:])


def _evaluate_turned(parameters: Tensor, x: Tensor, *, inverse: bool) -> tuple:
    """The same of an angle, which is turned by the last parameter after (in the inverse before)."""
    *_, shift = parameters
    x = x - shift if inverse else x
    inside = wrapped(x)
    turns = (x - inside).detach()
    out, log_slope, saved = _evaluate(parameters[:-1], inside, bound=math.pi, inverse=inverse)
    return out + turns if inverse else out + turns + shift, log_slope, saved


def _backward_turned(saved: tuple, g_out: Tensor, g_log: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
    bins = saved[6].shape[1]
    gradient, g_x = _backward(saved, g_out, g_log, bound=math.pi, inverse=inverse, slopes=bins)
    return torch.cat([gradient, (-g_x if inverse else g_out).unsqueeze(0)]), g_x
