"""The noise levels that the methods of this room use unless told otherwise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.numerics.grids import Grid, LogSNRGrid
from pyrogen.numerics.schedules import Schedule

from .chain import Chain, Denoise

_FIRST_NOISE = 5.0  # in norms of the data, over alpha
_LAST_NOISE = 0.01  # in data units, over alpha
_PILOT = 20  # steps that tell the norm of the data


def default_grid(schedule: Schedule, steps: int, *, norm: float = math.inf) -> Grid:
    """Uniform in the log-SNR, from a noise of five times the norm of the data to 0.01 data units.

    Under more noise than that hardly a datum can be told from another, and a network's errors are all there is to
    follow: they count times the variance of the noise. A schedule that does not reach so far is used whole.

    Args:
        schedule: The path from data to noise.
        steps: How many steps.
        norm: The norm of the data, root mean square; begins with the schedule if infinite.
    """
    ends = torch.tensor([max(_FIRST_NOISE * norm, 1.0), _LAST_NOISE], dtype=torch.float64)
    with torch.no_grad():
        first, last = schedule.time(-2 * ends.log()).tolist()
    return LogSNRGrid(steps, start=min(1.0, first), end=min(max(last, 0.0), 0.5))


def data_norm(schedule: Schedule, denoise: Denoise, shape: tuple[int, int], like: Tensor) -> float:
    """The norm of the data, root mean square, by a short run of the prior; arguments as for ``Chain.calibrate``."""
    draws = Chain(schedule, default_grid(schedule, _PILOT)).calibrate(denoise, shape, like)
    return draws.square().sum(-1).mean().sqrt().item()
