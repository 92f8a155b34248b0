r"""Explicit Runge-Kutta methods: one step of dx/dt = f(t, x), of its own length for every row.

A method with nodes :math:`c`, coefficients :math:`a`, weights :math:`b` and error weights :math:`e` makes of
:math:`x` at :math:`t` the value :math:`x'` at :math:`t + h`:

.. math::
    k_i = f\Big(t + c_i h,\; x + h \sum_{j<i} a_{ij} k_j\Big), \qquad x' = x + h \sum_i b_i k_i ,
    \qquad \text{error} \approx h \sum_i e_i k_i .

The last error weight belongs to :math:`f(t + h, x')`, which is the first slope of the next step and so costs nothing.
Along the way an integral of a *rate* :math:`r(t, x)` is collected, the divergence in a flow: it does not act back on
:math:`x`, so where a stage has neither weight nor error weight its rate is never evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .rows import column

Field = Callable[[Tensor, Tensor, tuple[Tensor, ...], bool], tuple[Tensor, Tensor | None]]
"""``field(t, x, inputs, with_rate) -> (slope, rate)``: for rows ``t`` ``(N,)``, ``x`` ``(N, *event)`` and further
``inputs`` with one row each, the slope like ``x`` and the rate ``(N,)``, or ``None`` where it is not wanted."""


@dataclass(frozen=True)
class RungeKutta:
    """An explicit method with an estimate of its own error.

    Args:
        name: Its usual name.
        order: The error of a whole path falls as this power of the step.
        error_order: The estimated error of one step falls as this power of the step.
        nodes: When in the step each stage is.
        coefficients: For each stage the shares of the slopes before it.
        weights: Shares of the stages' slopes in the step.
        error: Shares of the stages' slopes, and of the slope at the end, in the estimated error.
    """

    name: str
    order: int
    error_order: int
    nodes: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...]

    def __repr__(self) -> str:
        return f"RungeKutta({self.name!r})"

    def advance(
        self, field: Field, t: Tensor, h: Tensor, x: Tensor, inputs: tuple[Tensor, ...], with_rate: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The value at the end of one step, and the integral of the rate over it."""
        slopes, rates = self._stages(field, t, h, x, inputs, with_rate, None)
        return x + column(h, x) * _combine(self.weights, slopes), _integral(h, self.weights, rates, with_rate)

    def attempt(
        self,
        field: Field,
        t: Tensor,
        h: Tensor,
        x: Tensor,
        inputs: tuple[Tensor, ...],
        first: tuple[Tensor, Tensor | None],
    ) -> Step:
        """One step with its error, from the slope and rate ``first`` at its start; no rate there, none at all."""
        with_rate = first[1] is not None
        slopes, rates = self._stages(field, t, h, x, inputs, with_rate, first)
        value = x + column(h, x) * _combine(self.weights, slopes)
        last = field(t + h, value, inputs, with_rate)
        error = column(h, x) * _combine(self.error, [*slopes, last[0]])
        integral = _integral(h, self.weights, rates, with_rate)
        integral_error = _integral(h, self.error, [*rates, last[1]], with_rate)
        return Step(value, integral, error, integral_error, last)

    def _stages(
        self,
        field: Field,
        t: Tensor,
        h: Tensor,
        x: Tensor,
        inputs: tuple[Tensor, ...],
        with_rate: bool,
        first: tuple[Tensor, Tensor | None] | None,
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        slope, rate = field(t, x, inputs, with_rate) if first is None else first
        slopes, rates = [slope], [rate]
        wide = column(h, x)
        for index in range(1, len(self.nodes)):
            counts = self.weights[index] != 0 or self.error[index] != 0
            at = x + wide * _combine(self.coefficients[index], slopes)
            slope, rate = field(t + self.nodes[index] * h, at, inputs, with_rate and counts)
            slopes.append(slope)
            rates.append(rate)
        return slopes, rates


class Step(NamedTuple):
    """What one attempted step gives: value, integral, the errors of both, and slope and rate at its end."""

    value: Tensor
    integral: Tensor | None
    error: Tensor
    integral_error: Tensor | None
    last: tuple[Tensor, Tensor | None]


def _combine(shares: Sequence[float], slopes: Sequence[Tensor | None]) -> Tensor:
    total: Tensor | None = None
    for share, slope in zip(shares, slopes, strict=True):
        if share != 0 and slope is not None:
            total = share * slope if total is None else torch.add(total, slope, alpha=share)
    return total


def _integral(h: Tensor, shares: Sequence[float], rates: Sequence[Tensor | None], with_rate: bool) -> Tensor | None:
    return h * _combine(shares[: len(rates)], rates) if with_rate else None


EULER = RungeKutta("Euler", 1, 2, (0.0,), ((),), (1.0,), (0.5, -0.5))
"""One evaluation a step, order 1."""

MIDPOINT = RungeKutta("midpoint", 2, 3, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0), (-1 / 6, 1 / 3, -1 / 6))
"""Two evaluations a step, order 2; its error is estimated by Simpson's rule."""

HEUN = RungeKutta("Heun", 2, 2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5), (-0.5, 0.5, 0.0))
"""Two evaluations a step, order 2; its error estimate is that of Euler's method inside it, much too large."""

RK4 = RungeKutta(
    "RK4",
    4,
    4,
    (0.0, 0.5, 0.5, 1.0),
    ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    (0.0, 0.0, 0.0, 1 / 6, -1 / 6),
)
"""Four evaluations a step, order 4: the classic; its error is estimated by a third-order method inside it."""

DORMAND_PRINCE = RungeKutta(
    "Dormand-Prince",
    5,
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
"""Six evaluations a step, order 5, with an error estimate of order 4.

References:
    Dormand and Prince 1980, "A family of embedded Runge-Kutta formulae", https://doi.org/10.1016/0771-050X(80)90013-3
"""
