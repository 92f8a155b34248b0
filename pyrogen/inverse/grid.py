"""The noise levels that the methods of this room use unless told otherwise."""

from __future__ import annotations

import torch

from pyrogen.numerics.grids import Grid, LogSNRGrid
from pyrogen.numerics.schedules import Schedule

_LAST_NOISE = 0.01  # in data units, over alpha


def default_grid(schedule: Schedule, steps: int) -> Grid:
    """Uniform in the log-SNR, from the largest noise to 0.01 data units or the least that the schedule has."""
    with torch.no_grad():
        last = schedule.time(-2 * torch.tensor(_LAST_NOISE, dtype=torch.float64).log()).item()
    return LogSNRGrid(steps, end=min(max(last, 0.0), 0.5))
