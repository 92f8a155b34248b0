"""The numbers of a posterior, as ArviZ holds it: each with its draws, and what these are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyrogen.numerics.markov.convergence import (
    bulk_effective_sample_size,
    r_hat,
    r_hat_by_chance,
    separate_effective_sample_size,
    tail_effective_sample_size,
)

from .arrays import as_array

MIXED = 1.01
"""R-hat that is wanted, of Vehtari et al. 2021."""

ENOUGH = 400
"""Independent draws that are wanted, of Vehtari et al. 2021."""

FEWEST = 4
"""Draws of a chain that R-hat needs."""


@dataclass(frozen=True)
class Number:
    """One number of a posterior.

    Attributes:
        name: The site, and the place in it.
        draws: Of shape ``(chains, draws)``.
        r_hat: Of its chains and their halves; NaN where it is not known.
        bulk: What the draws are worth for its centre, in independent ones.
        tail: The same for its quantiles of 5 % and 95 %.
        separate: The same for its centre, as if all chains had the same.
    """

    name: str
    draws: np.ndarray
    r_hat: float
    bulk: float
    tail: float
    separate: float

    @property
    def worth(self) -> float:
        """The smaller of the two."""
        return min(self.bulk, self.tail)

    def r_hat_wanted(self, numbers: int) -> float:
        """That of Vehtari et al., or what chance makes of the largest of so many where draws are worth enough."""
        return max(MIXED, r_hat_by_chance(*self.draws.shape, max(self.separate, ENOUGH), numbers))

    def row(self) -> list[str]:
        """Its row of the summary."""
        low, high = np.quantile(self.draws, [0.05, 0.95])
        return [
            self.name,
            *(f"{value:.4g}" for value in (self.draws.mean(), self.draws.std(ddof=1))),
            "unknown" if np.isnan(self.r_hat) else f"{self.r_hat:.3f}",
            *("unknown" if np.isnan(worth) else f"{worth:.0f}" for worth in (self.bulk, self.tail)),
            *(f"{value:.4g}" for value in (low, high)),
        ]


def variables(tree: Any, group: str) -> dict[str, Any]:
    """The variables of a group of an InferenceData or DataTree; none where there is no such group."""
    return dict(tree[group].data_vars) if group in _groups(tree) else {}


def _groups(tree: Any) -> list[str]:
    found = tree.groups() if callable(tree.groups) else tree.groups  # a method of ArviZ 0.x, a property of xarray
    return [name.strip("/") for name in found]


def attributes_of(tree: Any) -> dict[str, Any]:
    """The attributes of a tree, and of its posterior."""
    return {**tree["posterior"].attrs, **tree.attrs}


def numbers_of(site: str, array: Any) -> list[Number]:
    """The numbers of a site."""
    draws = torch.as_tensor(np.asarray(array.values)).double()
    worth = (bulk_effective_sample_size, tail_effective_sample_size, separate_effective_sample_size)
    statistics = (r_hat, *worth)
    unknown = torch.full(draws.shape[2:], torch.nan)
    found = [statistic(draws) if draws.shape[1] >= FEWEST else unknown for statistic in statistics]
    columns = zip(*(values.flatten().tolist() for values in found), strict=True)
    return [
        Number(name, values, *column) for (name, values), column in zip(columns_of(site, array), columns, strict=True)
    ]


def columns_of(site: str, array: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each number of a site, with the coordinates of its place, and its draws ``(chains, draws)``."""
    labels = [array[dim].values.tolist() for dim in array.dims[2:]]
    values = np.asarray(array.values)
    for place in np.ndindex(*values.shape[2:]):
        name = ",".join(str(label[index]) for label, index in zip(labels, place, strict=True))
        yield (f"{site}[{name}]" if name else site), values[(..., *place)]


def by_number(values: Mapping[str, Any], chosen: list[Number], last: int = 0) -> dict[str, Any]:
    """Values by the names of numbers, from values by site; the numbers of a site are in their order.

    Args:
        values: By site, ``(*shape, ...)``.
        chosen: The numbers that are wanted; of a site the first ones.
        last: How many dimensions on the right of a value are no site's.
    """
    entries: dict[str, Any] = {}
    for site, value in values.items():
        names = [number.name for number in chosen if number.name.partition("[")[0] == site]
        array = as_array(value).astype(float)
        entries |= dict(zip(names, array.reshape(-1, *array.shape[array.ndim - last :]), strict=False))
    return entries
