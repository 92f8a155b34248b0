r"""Euler's and Heun's methods, and Heun's with churn.

In the coordinates of a rectified flow, :math:`z = x / (\alpha + \sigma)` and :math:`s = \sigma / (\alpha + \sigma)`,
the probability flow of every schedule is

.. math:: \frac{dz}{ds} = v = \hat\varepsilon - D,

which has no singularity at either end: with the denoised mean constant, :math:`v` is constant. So the methods step in
:math:`s`, whatever the schedule.

References:
    Karras, Aittala, Aila and Laine 2022, "Elucidating the design space of diffusion-based generative models",
    algorithms 1 and 2, https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import non_negative, positive
from pyrogen.numerics.grids import Grid
from pyrogen.numerics.schedules import Schedule

from .sampler import Look, Sampler, Scales


class Euler(Sampler):
    """Euler's method, of order one; with the same grid, the same draws as :class:`DDIM` without fresh noise.

    Args:
        grid: When to look.
    """

    def plan(self, scales: Scales, schedule: Schedule) -> list[Step]:
        return flow_steps(scales, scales)

    def walk(self, look: Look, plan: list[Step], x: Tensor) -> Iterator[Tensor]:
        for i, step in enumerate(plan):
            x = torch.add(x * step.keep, velocity(x, look.data(x, i), *step.start), alpha=step.move)
            yield x


class Heun(Sampler):
    """Heun's method, of order two: an Euler step, corrected by the slope at its end; two evaluations a step.

    The last step is Euler's, as in Karras et al. 2022.

    Args:
        grid: When to look; a grid of n steps costs 2 n - 1 evaluations.
    """

    def plan(self, scales: Scales, schedule: Schedule) -> list[Step]:
        return flow_steps(scales, scales)

    def walk(self, look: Look, plan: list[Step], x: Tensor) -> Iterator[Tensor]:
        for i, step in enumerate(plan):
            slope = velocity(x, look.data(x, i), *step.start)
            x = _heun(look, x, slope, i, step, i == len(plan) - 1)
            yield x


class Churn(Sampler):
    r"""Heun's method with churn: before each step a little noise is added and the time turned back accordingly.

    The fresh noise washes out errors of earlier steps. Algorithm 2 of Karras et al. 2022, under any schedule.

    Args:
        grid: When to look; a grid of n steps costs 2 n - 1 evaluations.
        churn: How much: each step raises the noise by at most the factor ``1 + min(churn / steps, sqrt(2) - 1)``.
        minimum: Churn only where :math:`\sigma / \alpha` is at least this, in data units,
        maximum: and at most this.
        inflation: Factor of the standard deviation of the fresh noise; above 1 it makes up for denoisers that remove
            too much.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        churn: float = 40.0,
        minimum: float = 0.05,
        maximum: float = 50.0,
        inflation: float = 1.0,
    ) -> None:
        super().__init__(grid)
        if not 0 <= minimum <= maximum:
            raise ValueError(f"`minimum` and `maximum` must satisfy 0 <= minimum <= maximum, got {minimum}, {maximum}")
        self.churn = non_negative(churn, "churn")
        self.inflation = positive(inflation, "inflation")
        self.minimum, self.maximum = minimum, maximum

    @torch.no_grad()
    def plan(self, scales: Scales, schedule: Schedule) -> tuple[Tensor, list[tuple[float, float]], list[Step]]:
        alpha, sigma = scales.alpha[:-1], scales.sigma[:-1]
        ratio = sigma / alpha
        raised = ratio * (1 + min(self.churn / len(ratio), math.sqrt(2) - 1))
        # Nothing is raised above the first noise of the schedule.
        churned = (ratio >= self.minimum) & (ratio <= self.maximum) & (raised <= ratio[0])
        times = schedule.time(-2 * torch.where(churned, raised, ratio).log()).clamp(0, 1)
        start = Scales(*schedule(times))
        added = (torch.where(churned, raised, ratio) ** 2 - ratio**2).sqrt()
        fresh = self.inflation * start.alpha * torch.where(churned, added, 0.0)
        churns = zip((start.alpha / alpha).tolist(), fresh.tolist(), strict=True)
        return times, list(churns), flow_steps(start, scales)

    def walk(
        self, look: Look, plan: tuple[Tensor, list[tuple[float, float]], list[Step]], x: Tensor
    ) -> Iterator[Tensor]:
        times, churns, steps = plan
        first_look = look.at(times)
        for i, (step, (scale, fresh)) in enumerate(zip(steps, churns, strict=True)):
            if fresh:
                x = torch.add(x * scale, torch.randn_like(x), alpha=fresh)
            slope = velocity(x, first_look.data(x, i), *step.start)
            x = _heun(look, x, slope, i, step, i == len(steps) - 1)
            yield x


class Step(NamedTuple):
    """One step along a straight line of the flow."""

    keep: float  # what multiplies x
    move: float  # what multiplies its slope
    start: tuple[float, float]  # what the slope is made of at the beginning: shares of the noisy and the denoised data
    end: tuple[float, float]  # and at the end


def flow_steps(start: Scales, scales: Scales) -> list[Step]:
    """The steps from ``start`` (the schedule where each begins) to all times of the grid but the first."""
    alpha, sigma = (value[: len(scales.alpha) - 1] for value in start)
    next_alpha, next_sigma = scales.alpha[1:], scales.sigma[1:]
    total, next_total = alpha + sigma, next_alpha + next_sigma
    keep, move = next_total / total, (next_sigma * alpha - sigma * next_alpha) / total
    columns = (keep, move, 1 / sigma, -1 - alpha / sigma, 1 / next_sigma, -1 - next_alpha / next_sigma)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Step(k, m, (a, b), (c, d)) for k, m, a, b, c, d in rows]


def velocity(x: Tensor, data: Tensor, noisy: float, denoised: float) -> Tensor:
    r"""The slope :math:`v = \hat\varepsilon - D` in the coordinates of a rectified flow."""
    return torch.add(x * noisy, data, alpha=denoised)


def _heun(look: Look, x: Tensor, slope: Tensor, i: int, step: Step, last: bool) -> Tensor:
    kept = x * step.keep
    euler = torch.add(kept, slope, alpha=step.move)
    if last:
        return euler
    end_slope = velocity(euler, look.data(euler, i + 1), *step.end)
    return torch.add(kept, slope + end_slope, alpha=0.5 * step.move)
