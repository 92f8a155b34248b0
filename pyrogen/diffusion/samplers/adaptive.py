r"""Adaptive sampling: every datum with steps of its own.

The probability flow in the coordinates of a rectified flow (see :mod:`.runge_kutta`) is handed to the integrator of
:mod:`pyrogen.numerics.ode`, which controls the error of every row by itself: a draw does not depend on its batch mates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyrogen.core.shapes import Context, ContextShape, flatten_batch
from pyrogen.numerics.grids import FlowGrid, Grid
from pyrogen.numerics.ode import Adaptive as Steps
from pyrogen.numerics.schedules import Schedule

from ..denoiser import Denoiser
from .sampler import Look, Sampler, Scales


class Adaptive(Sampler):
    """An embedded Runge-Kutta pair with the error of every row under control.

    The grid only says where a trajectory is shown; one step, from noise to data, is the default.

    Args:
        grid: Where to show the trajectory.
        tolerance: Of one step, absolute and relative to the size of the datum.
        steps: The integrator; if given, ``tolerance`` is not used.

    Raises:
        ValueError: at a call, if the equation cannot be followed; the message says which row stops when.
    """

    def __init__(self, grid: Grid = FlowGrid(1), *, tolerance: float = 1e-3, steps: Steps | None = None) -> None:
        super().__init__(grid)
        self.steps = Steps(tolerance=tolerance) if steps is None else steps

    def plan(self, scales: Scales, schedule: Schedule) -> tuple[list[float], list[float]]:
        total = scales.alpha + scales.sigma
        return (scales.sigma / total).tolist(), total.tolist()

    def walk(self, look: Look, plan: tuple[list[float], list[float]], x: Tensor) -> Iterator[Tensor]:
        shape, event_shape = x.shape, look.denoiser.event_shape
        flow_times, totals = plan
        rows = _Rows(look.denoiser, look.context, shape[: x.dim() - len(event_shape)])
        state = flatten_batch(x, event_shape) / totals[0]
        for step in range(len(totals) - 1):
            path = self.steps.solve(rows.field, state, flow_times[step], flow_times[step + 1], inputs=rows.inputs)
            state = path.check().value
            yield (state * totals[step + 1]).reshape(shape)


class _Rows:
    """The probability flow of rows, with one row of context for each."""

    def __init__(self, denoiser: Denoiser, context: Context, batch: torch.Size) -> None:
        self.denoiser = denoiser
        self.keys, self.inputs = _context_rows(context, denoiser.context_shape, batch)

    def field(self, s: Tensor, z: Tensor, inputs: tuple[Tensor, ...], with_rate: bool) -> tuple[Tensor, None]:
        denoiser = self.denoiser
        t = denoiser.schedule.time(2 * (torch.log1p(-s) - s.log())).clamp(0, 1)
        alpha, sigma = (denoiser.spread(value) for value in denoiser.schedule(t))
        x = z * (alpha + sigma)
        data = denoiser(x, t, self._context(inputs))
        return (x - (alpha + sigma) * data) / sigma, None

    def _context(self, inputs: tuple[Tensor, ...]) -> Context:
        if self.keys is None:
            return inputs[0] if inputs else None
        return dict(zip(self.keys, inputs, strict=True))


def _context_rows(
    context: Context, shape: ContextShape, batch: torch.Size
) -> tuple[tuple[str, ...] | None, tuple[Tensor, ...]]:
    """The names of the context's tensors, if it is a dict, and the tensors with one row for each datum."""
    if context is None:
        return None, ()
    if isinstance(context, Mapping):
        return tuple(context), tuple(_rows(context[key], shape[key], batch) for key in context)
    return None, (_rows(context, shape, batch),)


def _rows(value: Tensor, shape: tuple[int, ...], batch: torch.Size) -> Tensor:
    return flatten_batch(value.expand(batch + torch.Size(shape)), shape)
