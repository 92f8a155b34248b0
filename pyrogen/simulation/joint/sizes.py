"""Simulations of varying numbers of rows: exchangeable rows of a plate of which each simulation has the first few.

Rows that are exchangeable given the latent variables, and independent, do not depend on how many there are: the first n
of N rows are exactly a simulation of n rows. Absent rows are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import integer

from .reading import JointSites
from .variable import Variable

Sizes = dict[str, tuple[int, int]]


def checked_sizes(sizes: Any, reading: JointSites, obstacles: Mapping[str, str | None]) -> Sizes:
    """The least and the largest number of rows by the name of a plate.

    Raises:
        TypeError: it is no such dict.
        ValueError: there is no such plate around an observed site, its rows are not exchangeable, or bounds are out of
            range.
    """
    if sizes is None:
        return {}
    if not isinstance(sizes, Mapping):
        raise TypeError(f"`sizes` must be a dict of bounds by the names of plates, got {type(sizes).__name__}")
    rows = {
        plate.name: plate.rows
        for variable in reading.observed.values()
        for plate in variable.plates
        if plate.dim is not None
    }
    for name, bounds in sizes.items():
        if name not in rows:
            raise ValueError(f"`sizes` must name plates around observed sites, {list(rows)}, got {name!r}")
        _check_bounds(name, bounds, rows[name])
        if obstacles[name] is not None:
            raise ValueError(f"`sizes` must name plates whose rows are exchangeable, got {name!r}: {obstacles[name]}")
    return {name: (bounds[0], bounds[1]) for name, bounds in sizes.items()}


def _check_bounds(name: str, bounds: Any, rows: int) -> None:
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"`sizes[{name!r}]` must be the least and the largest number of rows, got {bounds!r}")
    least, most = (integer(bound, f"sizes[{name!r}]") for bound in bounds)
    if not least <= most <= rows:
        raise ValueError(f"`sizes[{name!r}]` must be two numbers in order, of at most the {rows} rows, got {bounds}")


def shortened(
    observed: Mapping[str, Tensor], variables: Mapping[str, Variable], sizes: Sizes, seed: int
) -> dict[str, Tensor]:
    """Observed values with random numbers of rows in some plates, the same for all sites in a plate.

    The logarithm of a number is uniform: from ten rows to a hundred a posterior changes no more than from one to ten.
    """
    found = dict(observed)
    generator = torch.Generator().manual_seed((seed + 1) % 2**63)
    for plate, (least, most) in sizes.items():
        share = torch.rand(len(next(iter(found.values()))), generator=generator, dtype=torch.double)
        counts = (least * ((most + 1) / least) ** share).long().clamp(max=most)
        for name, value in found.items():
            axis = variables[name].axis(plate)
            if axis is not None:
                found[name] = _cut(value, axis + 1, counts.to(value.device))
    return found


def _cut(value: Tensor, axis: int, counts: Tensor) -> Tensor:
    """NaN in place of the rows of each simulation beyond its count."""
    value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
    places = torch.arange(value.shape[axis], device=value.device)
    absent = (places >= counts[:, None]).reshape(len(counts), *(1,) * (axis - 1), -1)
    return value.masked_fill(absent.reshape(*absent.shape, *(1,) * (value.dim() - absent.dim())), torch.nan)
