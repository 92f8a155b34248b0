r"""Euler's and Heun's methods, Heun's with churn, and adaptive steps.

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
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import non_negative, orderable, positive
from pyrogen.core.shapes import batch_shape_of, flatten_batch
from pyrogen.networks.context import by_name, context_rows
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.grids import FlowGrid, Grid
from pyrogen.numerics.ode import AdaptiveSolver, Solver
from pyrogen.numerics.schedule import Schedule

from .sampler import GridDenoiser, Sampler


class Euler(Sampler):
    """Euler's method, of order one; with the same grid, the same draws as :class:`DDIM` without fresh noise.

    Args:
        grid: The times of the steps.
    """

    _corrected = False

    def plan(self, path: GaussianPath, schedule: Schedule) -> list[_FlowStep]:
        return _flow_steps(*path.steps())

    def walk(self, denoise: GridDenoiser, plan: list[_FlowStep], x: Tensor) -> Iterator[Tensor]:
        for i, step in enumerate(plan):
            slope = step.start_slope(x, denoise(x, i))
            x = step.advance(x, slope, denoise, i + 1 if self._corrected and step is not plan[-1] else None)
            yield x


class Heun(Euler):
    """Heun's method, of order two: an Euler step, corrected by the slope at its end; two evaluations a step.

    The last step is Euler's, as in Karras et al. 2022.

    Args:
        grid: The times of the steps; a grid of n steps costs 2 n - 1 evaluations.
    """

    _corrected = True


class Churn(Sampler):
    r"""Heun's method with churn: before each step a little noise is added and the time turned back accordingly.

    The fresh noise washes out errors of earlier steps. Algorithm 2 of Karras et al. 2022, under any schedule.

    Args:
        grid: The times of the steps; a grid of n steps costs 2 n - 1 evaluations.
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
        if not 0 <= orderable(minimum, "minimum") <= orderable(maximum, "maximum"):
            raise ValueError(f"`minimum` and `maximum` must satisfy 0 <= minimum <= maximum, got {minimum}, {maximum}")
        self.churn = non_negative(churn, "churn")
        self.inflation = positive(inflation, "inflation")
        self.minimum, self.maximum = minimum, maximum

    @torch.no_grad()
    def plan(self, path: GaussianPath, schedule: Schedule) -> tuple[Tensor, list[tuple[float, float]], list[_FlowStep]]:
        before, end = path.steps()
        ratio = before.ratio
        raised = ratio * (1 + min(self.churn / len(ratio), math.sqrt(2) - 1))
        # Nothing is raised above the first noise of the schedule.
        churned = (ratio >= self.minimum) & (ratio <= self.maximum) & (raised <= ratio[0])
        times = schedule.time(-2 * torch.where(churned, raised, ratio).log()).clamp(0, 1)
        start = schedule(times)
        added = (torch.where(churned, raised, ratio) ** 2 - ratio**2).sqrt()
        fresh = self.inflation * start.alpha * torch.where(churned, added, 0.0)
        churns = zip((start.alpha / before.alpha).tolist(), fresh.tolist(), strict=True)
        return times, list(churns), _flow_steps(start, end)

    def walk(
        self, denoise: GridDenoiser, plan: tuple[Tensor, list[tuple[float, float]], list[_FlowStep]], x: Tensor
    ) -> Iterator[Tensor]:
        times, churns, steps = plan
        denoise_raised = denoise.at(times)
        for i, (step, (scale, fresh)) in enumerate(zip(steps, churns, strict=True)):
            if fresh:
                x = torch.add(x * scale, torch.randn_like(x), alpha=fresh)
            slope = step.start_slope(x, denoise_raised(x, i))
            x = step.advance(x, slope, denoise, None if step is steps[-1] else i + 1)
            yield x


class Adaptive(Sampler):
    """An embedded Runge-Kutta pair with the error of every row under control: no draw depends on its batch mates.

    The grid only sets where a trajectory is shown; one step, from noise to data, is the default.

    Args:
        grid: Where to show the trajectory.
        tolerance: Of one step, absolute and relative to the size of the datum.
        solver: The integrator; if given, ``tolerance`` is not used.

    Raises:
        ValueError: at a call, if the equation cannot be followed; the message names the row and the time.
    """

    def __init__(self, grid: Grid = FlowGrid(1), *, tolerance: float = 1e-3, solver: Solver | None = None) -> None:
        super().__init__(grid)
        self.solver = AdaptiveSolver(tolerance=tolerance) if solver is None else solver

    def plan(self, path: GaussianPath, schedule: Schedule) -> tuple[list[float], list[float]]:
        return path.flow_time.tolist(), path.total.tolist()

    def walk(self, denoise: GridDenoiser, plan: tuple[list[float], list[float]], x: Tensor) -> Iterator[Tensor]:
        denoiser, context = denoise.denoiser, denoise.context
        flow_times, totals = plan
        batch = batch_shape_of(x, denoiser.event_shape, "x")
        entries = by_name(context_rows(context, denoiser.context_shape, batch))  # one row for each datum

        def velocity(s: Tensor, z: Tensor, rows: tuple[Tensor, ...], with_rate: bool) -> tuple[Tensor, None]:
            own = dict(zip(entries, rows, strict=True))
            t = denoiser.schedule.time(2 * (torch.log1p(-s) - s.log())).clamp(0, 1)
            path = denoiser.path(z, t)
            x = z * path.total
            data = denoiser(x, t, own if isinstance(context, Mapping) else own.get(""))
            return (x - path.total * data) / path.sigma, None

        state = flatten_batch(x, denoiser.event_shape) / totals[0]
        for start, end, total in zip(flow_times, flow_times[1:], totals[1:], strict=False):
            path = self.solver.solve(velocity, state, start, end, inputs=tuple(entries.values()))
            state = path.check().value
            yield (state * total).reshape(x.shape)


class _FlowStep(NamedTuple):
    """One step along a straight line of the flow."""

    keep: float  # what multiplies x
    move: float  # what multiplies its slope
    start: tuple[float, float]  # what the slope is made of at the beginning: shares of the noisy and the denoised data
    end: tuple[float, float]  # and at the end

    def start_slope(self, x: Tensor, data: Tensor) -> Tensor:
        r"""The slope :math:`v = \hat\varepsilon - D` at the beginning."""
        return torch.add(x * self.start[0], data, alpha=self.start[1])

    def advance(self, x: Tensor, slope: Tensor, denoise: GridDenoiser, end: int | None) -> Tensor:
        """The noisy data at the end, by Euler's method; with the number of the time there by Heun's."""
        kept = x * self.keep
        euler = torch.add(kept, slope, alpha=self.move)
        if end is None:
            return euler
        end_slope = torch.add(euler * self.end[0], denoise(euler, end), alpha=self.end[1])
        return torch.add(kept, slope + end_slope, alpha=0.5 * self.move)


def _flow_steps(start: GaussianPath, end: GaussianPath) -> list[_FlowStep]:
    """The steps from each place of ``start`` to the same of ``end``."""
    keep, move = end.total / start.total, (end.sigma * start.alpha - start.sigma * end.alpha) / start.total
    columns = (keep, move, 1 / start.sigma, -1 - start.alpha / start.sigma, 1 / end.sigma, -1 - end.alpha / end.sigma)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [_FlowStep(k, m, (a, b), (c, d)) for k, m, a, b, c, d in rows]
