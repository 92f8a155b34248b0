"""Slopes of a mountain range, from an elevation model that matplotlib ships: angles beside other numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import checked, integer

_METRES = 111_200.0
"""A degree of latitude."""
_SHOWN = 0.75  # of the width of the map, from the left, is for training


class Terrain(NamedTuple):
    """Points of the land, one a row.

    Attributes:
        aspect: The direction of steepest descent, radians from east to north, ``(N,)``.
        steepness: The angle of the land against the horizontal, radians, positive, ``(N,)``.
        elevation: Metres above the sea, ``(N,)``.
    """

    aspect: Tensor
    steepness: Tensor
    elevation: Tensor

    @property
    def rows(self) -> Tensor:
        """All three as one event, ``(N, 3)``."""
        return torch.stack(self, -1)


@checked(stride=integer)
def slopes(*, stride: int = 2) -> tuple[Terrain, Terrain]:
    """Slopes at the Jacksboro fault, in the Appalachian mountains of Tennessee, for training and for test.

    Steep slopes face east or west more often than north or south, and south rarely. Training points lie in the western
    three quarters of the map. Neighbouring points are alike: they are fewer than they seem.

    Args:
        stride: Every how many points of the grid, of about 80 metres, one is taken.

    Returns:
        Points for training and for test; those of level ground, which has no aspect, are left out.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> train, test = slopes()
        >>> train.rows.shape[1]
        3
    """
    from matplotlib.cbook import get_sample_data

    with get_sample_data("jacksboro_fault_dem.npz") as shipped:
        elevation = torch.tensor(shipped["elevation"], dtype=torch.float64)
        across = _METRES * float(shipped["dx"]) * math.cos(math.radians(float(shipped["ymin"])))
        up = _METRES * float(shipped["dy"])
    elevation = _smoothed(elevation)
    south, east = torch.gradient(elevation, spacing=(up, across))
    cut = int(_SHOWN * elevation.shape[1])
    columns = slice(None, cut), slice(cut, None)
    return tuple(_at(elevation[:, part], east[:, part], -south[:, part], stride) for part in columns)


def _smoothed(elevation: Tensor) -> Tensor:
    """Means of three by three points: elevations are whole metres, whose slopes would be few."""
    return torch.nn.functional.avg_pool2d(elevation[None, None], 3, stride=1)[0, 0]


def _at(elevation: Tensor, east: Tensor, north: Tensor, stride: int) -> Terrain:
    grids = (part[::stride, ::stride].flatten() for part in (elevation, east, north))
    elevation, east, north = grids
    rise = torch.hypot(east, north)
    found = Terrain(torch.atan2(-north, -east), rise.atan(), elevation)
    return Terrain(*(part[rise > 0].float() for part in found))
