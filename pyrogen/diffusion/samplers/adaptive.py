r"""Adaptive sampling: every datum with steps of its own.

The probability flow in the coordinates of a rectified flow (see :mod:`.runge_kutta`) is handed to the integrator of
:mod:`pyrogen.numerics.ode`, which controls the error of every row by itself: a draw does not depend on its batch mates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyrogen.core.shapes import batch_shape_of, flatten_batch
from pyrogen.networks.context import by_name, context_rows
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.grids import FlowGrid, Grid
from pyrogen.numerics.ode import AdaptiveSolver, Solver
from pyrogen.numerics.schedules import Schedule

from .sampler import GridDenoiser, Sampler


class Adaptive(Sampler):
    """An embedded Runge-Kutta pair with the error of every row under control.

    The grid only says where a trajectory is shown; one step, from noise to data, is the default.

    Args:
        grid: Where to show the trajectory.
        tolerance: Of one step, absolute and relative to the size of the datum.
        solver: The integrator; if given, ``tolerance`` is not used.

    Raises:
        ValueError: at a call, if the equation cannot be followed; the message says which row stops when.
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
