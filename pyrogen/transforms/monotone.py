r"""Monotone maps without a closed-form inverse: a root finder, and a small neural network of one number.

:func:`invert` brackets the root by expanding steps, so that no value is clipped, and closes in by Newton steps that
fall back to bisection. Its derivatives are implicit: two more Newton steps, with a graph. The first makes first
derivatives right, the second those up to the third.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrogen.arguments import integer, positive
from pyrogen.numerics.autograd import is_functional, is_mapped

from .elements import Element

_STEPS = 100


def invert(function: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor, start: Tensor | None = None) -> Tensor:
    """Where an increasing function of each number takes the values ``y``.

    Args:
        function: From ``x`` to the values and the logarithms of the slopes there; onto the real line.
        y: The values.
        start: Where to begin, ``y`` itself by default.

    Shape:
        All have one shape.

    Returns:
        The numbers; NaN where a value is, or where those of the function are, as with a context that is NaN.
    """
    with torch.no_grad():
        root = _bracketed(function, y, y if start is None else start).detach()  # of forward mode, too
    if not torch.is_grad_enabled() and not is_functional((y,)):
        return root
    for _ in range(2):
        value, log_slope = function(root)
        root = root - (value - y) * (-log_slope).exp()
    return root


def _bracketed(function: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor, x: Tensor) -> Tensor:
    low, high = torch.full_like(y, -torch.inf), torch.full_like(y, torch.inf)
    tolerance = 4 * torch.finfo(y.dtype).eps
    x = x + torch.zeros_like(y)
    for step in range(_STEPS):
        value, log_slope = function(x)
        below = value < y
        low, high = torch.where(below, x, low), torch.where(below, high, x)
        newton = x - (value - y) * (-log_slope).exp()
        middle = torch.where(
            high.isinf(), low + 2.0**step, torch.where(low.isinf(), high - 2.0**step, (low + high) / 2)
        )
        # every third step is a bisection: Newton alone may creep
        good = (newton > low) & (newton < high) & newton.isfinite() & (step % 3 < 2)
        good = good & ((newton - x).abs() <= 2.0**step)
        new = torch.where(value == y, x, torch.where(good, newton, middle))
        moved, x = (new - x).abs(), new
        if torch.compiler.is_compiling() or is_mapped(moved):
            continue
        if bool((~(moved > tolerance * (1 + x.abs()))).all()):
            break
    return torch.where(value.isnan() | y.isnan(), torch.nan, x)  # where nothing is known, bisection ends anywhere


@dataclass(frozen=True)
class Sigmoids(Element):
    r"""A monotone network of one number: a mixture of sigmoids, sent back to the real line.

    .. math:: y = \operatorname{logit} \sum_j w_j\, \sigma(e^{a_j} x + b_j + o_j)

    with weights from a softmax and fixed offsets :math:`o_j` between -1 and 1, without which the units would learn
    alike. Zero parameters are close to the identity. The tails are straight, so the map is onto the real line.

    Args:
        units: How many sigmoids.
        log_slope_bound: The clip of :math:`a_j`.

    Raises:
        TypeError: ``units`` is no integer, or ``log_slope_bound`` no number.
        ValueError: there is no unit, or the clip is not positive.

    References:
        Huang, Krueger, Lacoste and Courville 2018, "Neural autoregressive flows", https://arxiv.org/abs/1804.00779
    """

    units: int = 8
    log_slope_bound: float = 3.0

    def __post_init__(self) -> None:
        integer(self.units, "units")
        positive(self.log_slope_bound, "log_slope_bound")

    @property
    def size(self) -> int:
        return 3 * self.units

    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift, logits = parameters.unflatten(0, (3, self.units))
        log_slope = raw / (1 + raw.abs() / self.log_slope_bound)
        offset = torch.linspace(-1, 1, self.units, dtype=x.dtype, device=x.device) if self.units > 1 else x.new_zeros(1)
        u = log_slope.exp() * x + shift + offset.reshape(-1, *(1,) * x.dim())
        log_weight = logits.log_softmax(0)
        up, down = logsigmoid(u), logsigmoid(-u)
        log_up, log_down = (log_weight + up).logsumexp(0), (log_weight + down).logsumexp(0)
        return log_up - log_down, (log_weight + log_slope + up + down).logsumexp(0) - log_up - log_down

    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = invert(lambda x: self.forward(parameters, x), y)
        return x, -self.forward(parameters, x)[1]
