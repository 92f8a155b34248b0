"""Names: dimensions and coordinates for the values of sites, from plates, event shapes and the user's choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyrogen.core.density import Density
from pyrogen.core.shapes import Shape

from .arrays import as_array
from .collection import Collection
from .sites import NamedSite
from .tree import NamedArray

Dims = Mapping[str, Sequence[str | None]]


class Names:
    """Turns values by site into variables with named dimensions.

    A plate gives its name to the batch dimension it makes; other dimensions are called ``site_dim_0`` and so on, as
    ArviZ does. A partly masked site has, instead of its batch dimensions, one of the entries that count.

    Args:
        collection: Values and sites.
        dims: The user's names by site.
        coords: The user's coordinates by dimension.
        chains: How many chains the posterior draws are.

    Attributes:
        coords: All coordinates that are known, by dimension.
    """

    def __init__(self, collection: Collection, dims: Dims, coords: Mapping[str, Any], chains: int) -> None:
        self.sites = collection.sites
        self.pointwise = collection.pointwise
        self.dims = dims
        self.chains = chains
        rows = {name: rows.cpu().numpy() for name, rows in collection.rows.items()}
        known = {**rows, **{name: as_array(values) for name, values in coords.items()}}
        self.coords = {_free_name(name): values for name, values in known.items()}

    def drawn(self, group: str, values: Mapping[str, Tensor]) -> dict[str, NamedArray]:
        """Variables of one group of draws."""
        chains = 1 if group.startswith("prior") else self.chains
        pointwise = group == "log_likelihood"
        return {name: self._drawn(name, v, chains, pointwise) for name, v in values.items() if self._counts(name)}

    def observed(self) -> dict[str, NamedArray]:
        """The data."""
        variables = {}
        for name, site in self.sites.items():
            if site.kind == "observed" and self._counts(name):
                value, dims = self._present(name, site.value, self._dims(name, site.shape), lead=0)
                variables[name] = NamedArray(dims, as_array(value))
        return variables

    def constant(self, values: Mapping[str, Any]) -> dict[str, NamedArray]:
        """Further arrays."""
        arrays = {name: as_array(value) for name, value in values.items()}
        return {name: NamedArray(self._dims(name, array.shape), array) for name, array in arrays.items()}

    def statistics(self, values: Mapping[str, tuple[Tensor, Density]]) -> dict[str, NamedArray]:
        """Statistics of the posterior draws, each with what it means."""
        return {
            name: NamedArray(("chain", "draw"), as_array(value.reshape(self.chains, -1)), _density(density))
            for name, (value, density) in values.items()
        }

    def _drawn(self, name: str, value: Tensor, chains: int, pointwise: bool) -> NamedArray:
        shape = tuple(value.shape[1:])
        dims = self._pointwise_dims(name, shape) if pointwise else self._dims(name, shape)
        value, dims = self._present(name, value, dims, lead=1)
        value = value.reshape(chains, -1, *value.shape[1:]) if value.numel() else value[None]
        attrs = _density(self.sites[name].density) if pointwise else {}
        if pointwise and name in self.pointwise:
            attrs |= self.pointwise[name].attributes()
        return NamedArray(("chain", "draw", *dims), as_array(value), attrs)

    def _dims(self, name: str, shape: Shape) -> tuple[str, ...]:
        site = self.sites.get(name)
        batch = site.dims if site is not None and site.shape == tuple(shape) else ()
        given = tuple(self.dims.get(name, ()))
        event = (None,) * (len(shape) - len(batch))
        if given and len(given) == len(shape):
            batch, event = given, ()
        elif given and len(given) == len(event):
            event = given
        elif given:
            raise ValueError(
                f"`dims[{name!r}]` must name the {len(shape)} dimensions of a value of shape {tuple(shape)}"
                f"{f', or the {len(event)} of its event' if batch else ''}, got {given}"
            )
        names = (dim or f"{name}_dim_{position}" for position, dim in enumerate((*batch, *event)))
        return tuple(map(_free_name, names))

    def _pointwise_dims(self, name: str, shape: Shape) -> tuple[str, ...]:
        return self._dims(name, self.sites[name].shape)[: len(shape)]

    def _counts(self, name: str) -> bool:
        site = self.sites.get(name)
        return site is None or site.present is None or bool(site.present.any())

    def _present(self, name: str, value: Tensor, dims: tuple[str, ...], lead: int) -> tuple[Tensor, tuple[str, ...]]:
        """Only the entries that no mask hides, in one dimension; ``lead`` dimensions on the left are not the site's."""
        site = self.sites.get(name)
        if site is None or site.kind != "observed" or site.present is None:
            return value, dims
        batch = dims[: site.present.dim()]
        chosen = site.present.nonzero(as_tuple=True)
        dim = f"{name}_{'_'.join(batch)}"
        self.coords[dim] = self._entries(site, batch)
        return value[(slice(None),) * lead + chosen], (dim, *dims[site.present.dim() :])

    def _entries(self, site: NamedSite, batch: tuple[str, ...]) -> np.ndarray:
        """Where the entries that count are: by coordinate if the batch has one dimension, by number if it has more."""
        present = site.present.numpy()
        if len(batch) == 1 and batch[0] in self.coords:
            return self.coords[batch[0]][present]
        return np.flatnonzero(present)


def _free_name(dim: str) -> str:
    """A plate may be called ``"draw"``, but that dimension is ArviZ's."""
    return f"{dim}_dim" if dim in ("chain", "draw") else dim


def _density(density: Density) -> dict[str, str]:
    return {} if density == "exact" else {"density": str(density)}
