r"""Ordinary differential equations, every row with its own steps.

A solver takes rows of a batch from ``start`` to ``end`` along dx/dt = f(t, x) and collects an integral on the way. A
row's path does not depend on its batch mates: it has its own times and its own errors, and leaves the batch once it has
arrived. A path remembers where each row was at each step; from that :mod:`pyrogen.numerics.adjoint` computes gradients.

References:
    Hairer, Norsett and Wanner 1993, "Solving Ordinary Differential Equations I", sections II.4 and II.5,
    https://doi.org/10.1007/978-3-540-78862-1
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrogen.arguments import integer, positive

from .rows import column
from .runge_kutta import DORMAND_PRINCE, RK4, Field, RungeKutta, Step

_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0
_PROPORTIONAL, _INTEGRAL = 0.7, 0.4
_ARRIVED, _NOT_FINITE, _TOO_SHORT, _TOO_MANY = range(4)
_REASONS = (
    "",
    "the slope or the rate is not finite",
    "the steps became too short for the precision of the numbers",
    "it needs more steps than `most_steps` allows",
)


@dataclass(frozen=True)
class Path:
    """Where rows went.

    Args:
        value: The rows at the end, ``(N, *event)``; NaN where a row failed.
        integral: The integral of the rate, ``(N,)``, or ``None``.
        error: The estimated error of each row, summed over its steps: of the integral or of the value (root mean
            square over the event), whichever is larger, ``(N,)``.
        times: When each row began its steps, and its last time below, ``(steps + 1, N)``; rows of fewer steps are
            padded with their last time.
        states: The rows at these times, ``(steps + 1, N, *event)``; ``None`` unless kept.
        outcome: Zero for rows that arrived, else a number for the reason, ``(N,)``.
    """

    value: Tensor
    integral: Tensor | None
    error: Tensor
    times: Tensor
    states: Tensor | None
    outcome: Tensor

    @property
    def failed(self) -> Tensor:
        """Which rows did not arrive, ``(N,)``."""
        return self.outcome != _ARRIVED

    @property
    def steps(self) -> Tensor:
        """How many steps each row took, ``(N,)``."""
        return (self.times.diff(dim=0) != 0).sum(0)

    def check(self) -> Path:
        """Itself.

        Raises:
            ValueError: a row failed; the message names the row, the time and the reason.
        """
        if bool(self.failed.any()):
            row = int(self.failed.nonzero()[0])
            raise ValueError(
                f"the differential equation cannot be followed: row {row} of {len(self.failed)} stops at time "
                f"{float(self.times[-1, row]):.6g} since {_REASONS[int(self.outcome[row])]} "
                f"({int(self.failed.sum())} rows fail)"
            )
        return self


class Solver(ABC):
    """Chooses the steps; subclasses define :meth:`follow`."""

    method: RungeKutta

    def solve(
        self,
        field: Field,
        x: Tensor,
        start: float,
        end: float,
        *,
        inputs: tuple[Tensor, ...] = (),
        integral: bool = False,
        keep: bool = False,
    ) -> Path:
        """The path of rows ``x`` from time ``start`` to ``end``; ``inputs`` hold one row each; ``keep`` the states."""
        record = _Record(x, start, integral, keep)
        if len(x) and start != end:
            self.follow(_Rows(field, self.method, x, start, inputs, integral), start, end, record)
        return record.path()

    @abstractmethod
    def follow(self, rows: _Rows, start: float, end: float, record: _Record) -> None:
        """Takes rows from ``start`` to ``end``, and records their steps and how each of them ends."""


@dataclass(frozen=True)
class AdaptiveSolver(Solver):
    """Steps as long as the tolerance allows, for each row its own.

    A step is accepted if its estimated error is at most ``tolerance * (1 + |x|)`` (root mean square over the event) and
    that of the integral at most ``tolerance``. The errors of all steps add up, so the error at the end is larger by
    about the square root of their number.

    Args:
        tolerance: Of one step, absolute and relative. Below what the precision of the numbers gives, that counts.
        method: With an error estimate.
        most_steps: How many steps, rejected ones included, a row may take before it fails.

    Raises:
        ValueError: ``tolerance`` is not positive.
    """

    tolerance: float = 1e-5
    method: RungeKutta = DORMAND_PRINCE
    most_steps: int = 1000

    def __post_init__(self) -> None:
        positive(self.tolerance, "tolerance")
        integer(self.most_steps, "most_steps")

    def follow(self, rows: _Rows, start: float, end: float, record: _Record) -> None:
        tolerance = max(self.tolerance, 20 * torch.finfo(rows.x.dtype).eps)
        h = self._first_step(rows, end, tolerance)
        before = torch.ones_like(h)  # the error of the last accepted step
        for _ in range(self.most_steps):
            last = (rows.t + 1.01 * h - end) * (end - start) >= 0
            t_next = torch.where(last, end, rows.t + h)
            h = t_next - rows.t
            step = rows.attempt(t_next)
            ratio, error = _ratio(step, rows.x, tolerance)
            accept = ratio <= 1
            record.add(rows, accept)
            rows.move(accept, t_next, step, error)
            h = h * self._factor(ratio, before, accept)
            before = torch.where(accept, ratio.clamp(min=1e-4), before)
            arrived = accept & last
            outcome = torch.where(h.abs() < 4 * torch.finfo(h.dtype).eps * rows.t.abs(), _TOO_SHORT, _ARRIVED)
            outcome = torch.where(rows.finite(), outcome, _NOT_FINITE).masked_fill(arrived, _ARRIVED)
            done = arrived | (outcome != _ARRIVED)
            if bool(done.any()):
                record.finish(rows, outcome, done)
                stay = (~done).nonzero().squeeze(1)
                if not len(stay):
                    return
                rows.keep(stay)
                h, before = h[stay], before[stay]
        record.finish(rows, torch.full_like(rows.numbers, _TOO_MANY))

    def _first_step(self, rows: _Rows, end: float, tolerance: float) -> Tensor:
        """The starting step of Hairer, Norsett and Wanner, section II.4, for every row."""
        t, x, slope = rows.t, rows.x, rows.first[0]
        way = end - t
        scale = tolerance * (1 + x.abs())
        size, speed = _rms(x / scale), _rms(slope / scale)
        h = torch.where((size > 1e-5) & (speed > 1e-5), 0.01 * size / speed, 1e-6)
        h = torch.minimum(h, way.abs()) * way.sign()
        ahead = rows.field(t + h, x + column(h, x) * slope, rows.inputs, False)[0]
        bend = _rms((ahead - slope) / scale) / h.abs()
        sharpest = torch.maximum(speed, bend).nan_to_num(torch.inf)
        guess = torch.where(sharpest > 1e-15, (0.01 / sharpest) ** (1 / (self.method.error_order)), 1e-3)
        return torch.minimum(torch.minimum(100 * h.abs(), guess.clamp(min=1e-8)), way.abs()) * way.sign()

    def _factor(self, ratio: Tensor, before: Tensor, accept: Tensor) -> Tensor:
        """By what to multiply the step: a proportional-integral controller; a rejected step only shrinks."""
        order = self.method.error_order
        ratio = ratio.nan_to_num(torch.inf, posinf=torch.inf).clamp(min=1e-10)
        smooth = _SAFETY * ratio ** (-_PROPORTIONAL / order) * before ** (_INTEGRAL / order)
        plain = _SAFETY * ratio ** (-1 / order)
        return torch.where(accept, smooth.clamp(_SHRINK, _GROW), plain.clamp(_SHRINK, 1.0))


@dataclass(frozen=True, eq=False)
class FixedSolver(Solver):
    """Steps at given times, the same for all rows: the cost is known beforehand, the error only afterwards.

    Args:
        steps: How many equal steps; or the times as shares of the way, a sequence that rises from 0 to 1.
        method: Euler, midpoint, Heun or the classic of order four.
        tolerance: The largest estimated error of a whole path with which a density is given, in nats.

    Raises:
        ValueError: there is no step, or the shares do not rise from 0 to 1.
    """

    steps: int | Sequence[float]
    method: RungeKutta = RK4
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        shares = self.shares
        if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or not bool((shares.diff() > 0).all()):
            raise ValueError(
                f"`steps` must be at least 1, or shares of the way that rise from 0 to 1, got {self.steps}"
            )

    @property
    def shares(self) -> Tensor:
        """The times as shares of the way, ``(steps + 1,)``."""
        if isinstance(self.steps, int):
            return torch.linspace(0, 1, max(self.steps, 0) + 1, dtype=torch.float64)
        return torch.as_tensor(self.steps, dtype=torch.float64)

    @property
    def name(self) -> str:
        """Its usual name: ``"10 steps of RK4"``."""
        count = len(self.shares) - 1
        return f"{count} step{'s' if count > 1 else ''} of {self.method.name}"

    def follow(self, rows: _Rows, start: float, end: float, record: _Record) -> None:
        everywhere = torch.ones_like(rows.numbers, dtype=torch.bool)
        for time in (start + (end - start) * self.shares).to(rows.x)[1:]:
            t_next = time.expand(len(rows.x))
            step = rows.attempt(t_next)
            record.add(rows, everywhere)
            rows.move(everywhere, t_next, step, _ratio(step, rows.x, 1.0)[1])
        record.finish(rows, torch.where(rows.finite(), _ARRIVED, _NOT_FINITE))


class _Rows:
    """_Rows on their way: where each is, and what it has collected.

    Args:
        field: What they follow.
        method: How a step is made.
        x: Where they begin, ``(N, *event)``.
        start: When.
        inputs: What else the field takes, one row each.
        integral: Whether the rate is integrated.
    """

    def __init__(
        self, field: Field, method: RungeKutta, x: Tensor, start: float, inputs: tuple[Tensor, ...], integral: bool
    ) -> None:
        self.field, self.method, self.inputs, self.x = field, method, inputs, x
        self.numbers = torch.arange(len(x), device=x.device)
        self.t = x.new_full((len(x),), start)
        self.first = field(self.t, x, inputs, integral)  # slope and rate at the start of the next step
        self.integral, self.error = torch.zeros_like(self.t), torch.zeros_like(self.t)

    def attempt(self, t_next: Tensor) -> Step:
        """A step to other times."""
        return self.method.attempt(self.field, self.t, t_next - self.t, self.x, self.inputs, self.first)

    def move(self, accept: Tensor, t_next: Tensor, step: Step, error: Tensor) -> None:
        """Takes the step where it is accepted."""
        (slope, rate), wide = self.first, column(accept, self.x)
        slope = torch.where(wide, step.last[0], slope)
        self.first = slope, None if rate is None else torch.where(accept, step.last[1], rate)
        if step.integral is not None:
            self.integral = torch.where(accept, self.integral + step.integral, self.integral)
        self.error = torch.where(accept, self.error + error, self.error)
        self.t, self.x = torch.where(accept, t_next, self.t), torch.where(wide, step.value, self.x)

    def keep(self, chosen: Tensor) -> None:
        """Leaves the others behind."""
        parts = self.numbers, self.t, self.x, self.integral, self.error
        self.numbers, self.t, self.x, self.integral, self.error = (part[chosen] for part in parts)
        self.inputs = tuple(part[chosen] for part in self.inputs)
        self.first = tuple(None if part is None else part[chosen] for part in self.first)

    def finite(self) -> Tensor:
        """Whether a row, its slope and its rate are finite."""
        parts = [part for part in (self.x, *self.first) if part is not None]
        return torch.stack([part.isfinite().reshape(len(part), -1).all(1) for part in parts]).all(0)


class _Record:
    """Collects the steps of rows that go their own ways, and where they end."""

    def __init__(self, x: Tensor, start: float, integral: bool, keep: bool) -> None:
        self.keep, self.with_integral = keep, integral
        self.legs: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        self.count = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.time = x.new_full((len(x),), start)
        self.value = x.clone()
        self.integral, self.error = torch.zeros_like(self.time), torch.zeros_like(self.time)
        self.outcome = torch.zeros_like(self.count)

    def add(self, rows: _Rows, accept: Tensor) -> None:
        """The beginnings of the steps that are accepted."""
        numbers, t, x = rows.numbers, rows.t, rows.x
        if not bool(accept.all()):
            chosen = accept.nonzero().squeeze(1)
            numbers, t, x = numbers[chosen], t[chosen], x[chosen]
        self.legs.append((self.count[numbers], numbers, t, x if self.keep else None))
        self.count[numbers] += 1

    def finish(self, rows: _Rows, outcome: Tensor, done: Tensor | slice = slice(None)) -> None:
        """The ends of those rows that are done."""
        numbers, outcome, x = rows.numbers[done], outcome[done], rows.x[done]
        self.time[numbers], self.error[numbers], self.outcome[numbers] = rows.t[done], rows.error[done], outcome
        lost = outcome != _ARRIVED
        self.value[numbers] = x.masked_fill(column(lost, x), torch.nan)
        self.integral[numbers] = rows.integral[done].masked_fill(lost, torch.nan)

    def path(self) -> Path:
        steps = int(self.count.max()) if len(self.count) else 0
        times = self.time.expand(steps + 1, *self.time.shape).clone()
        states = self.value.expand(steps + 1, *self.value.shape).clone() if self.keep else None
        for place, rows, t, x in self.legs:
            times[place, rows] = t
            if states is not None:
                states[place, rows] = x
        integral = self.integral if self.with_integral else None
        return Path(self.value, integral, self.error, times, states, self.outcome)


def _ratio(step: Step, x: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The error of a step relative to the tolerance, and the error itself, for every row."""
    error = _rms(step.error)
    ratio = _rms(step.error / (tolerance * (1 + torch.maximum(x.abs(), step.value.abs()))))
    if step.integral_error is None:
        return ratio, error
    of_integral = step.integral_error.abs()
    rounding = 20 * torch.finfo(x.dtype).eps * step.integral.abs()
    return torch.maximum(ratio, of_integral / rounding.clamp(min=tolerance)), torch.maximum(error, of_integral)


def _rms(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).square().mean(1).sqrt() if x.dim() > 1 else x.abs()
