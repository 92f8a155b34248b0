"""The last step to ArviZ: named arrays as InferenceData (ArviZ 0.x) or DataTree (1.x).

It needs numpy and ArviZ only (xarray is how both lines hold their data), and no Pyro.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np


class NamedArray(NamedTuple):
    """An array with named dimensions, ``("chain", "draw", ...)`` for draws."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: dict[str, Any] = {}  # noqa: RUF012 - never written to


Groups = Mapping[str, Mapping[str, NamedArray]]


def to_tree(groups: Groups, coords: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> Any:
    """ArviZ's own object from groups of variables.

    Args:
        groups: For each group (``"posterior"``, ``"observed_data"``, ...) its variables by name.
        coords: Coordinate values by dimension; dimensions without get ``0, 1, ...``.
        attrs: Attributes of every group.

    Returns:
        An ``arviz.InferenceData`` where ArviZ has that class (the 0.x line), an ``xarray.DataTree`` where not.

    Raises:
        ValueError: a coordinate has another length than its dimension, or a dimension has two sizes in a group.
    """
    import xarray

    groups, coords = without_clashes(groups, coords)
    attrs = {"created_at": datetime.now(UTC).isoformat(), "creation_library": "pyrogen", **attrs}
    datasets = {
        group: xarray.Dataset(dict(variables), coords=_coordinates(group, variables, coords), attrs=attrs)
        for group, variables in groups.items()
        if variables
    }
    inference_data = _inference_data_class()
    if inference_data is not None:
        return inference_data(attrs=dict(attrs), **datasets)
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=attrs), **datasets})


def is_tree(value: Any) -> bool:
    """Whether it is what :func:`to_tree` gives."""
    import xarray

    kinds = (_inference_data_class(), vars(xarray).get("DataTree"))
    return isinstance(value, tuple(kind for kind in kinds if kind is not None))


def without_clashes(groups: Groups, coords: Mapping[str, np.ndarray]) -> tuple[Groups, dict[str, np.ndarray]]:
    """The same with ``"_dim"`` appended to dimensions that share their name with a variable, which xarray forbids."""
    taken = {name for variables in groups.values() for name in variables}

    def rename(dim: str) -> str:
        return f"{dim}_dim" if dim in taken else dim

    renamed = {
        group: {name: v._replace(dims=tuple(map(rename, v.dims))) for name, v in variables.items()}
        for group, variables in groups.items()
    }
    return renamed, {rename(dim): values for dim, values in coords.items()}


def _coordinates(group: str, variables: Mapping[str, NamedArray], coords: Mapping[str, np.ndarray]) -> dict:
    sizes: dict[str, int] = {}
    for name, variable in variables.items():
        for dim, size in zip(variable.dims, np.shape(variable.values), strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ValueError(
                    f"dimension `{dim}` of group {group!r} must have one size, got {sizes[dim]} and, at `{name}`, "
                    f"{size}; name the dimensions of one of them with `dims`"
                )
    result = {}
    for dim, size in sizes.items():
        values = np.asarray(coords[dim]) if dim in coords else np.arange(size)
        if values.shape != (size,):
            raise ValueError(f"`coords[{dim!r}]` must have {size} values, got shape {values.shape}")
        result[dim] = (dim, values)
    return result


def _inference_data_class() -> type | None:
    """``arviz.InferenceData``, or ``None`` on the 1.x line, which has no such class."""
    with warnings.catch_warnings():  # 0.23 announces the 1.x line once a day, on import
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        try:
            import arviz
        except ImportError:  # arviz-base alone is enough on the 1.x line
            return None
    return vars(arviz).get("InferenceData")  # an attribute look-up would meet the migration warning of 1.x
