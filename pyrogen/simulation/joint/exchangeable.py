"""Plates whose rows are exchangeable given the latent variables outside: the observed values in them are a set.

Every site in such a plate depends on its own row alone, and has the same distribution in all rows once the values of
the sites inside it that it depends on are the same in all; and no site outside depends on one inside.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from pyrogen.programs.site import Site

from .drawing import FailedSimulations
from .reading import JointSites
from .runs import FailedRun, Runs, succeeding
from .signature import are_close, signature
from .trials import many_values, sites_at
from .variable import Variable


def unexchangeable_plates(reading: JointSites, *, together: bool) -> dict[str, str | None]:
    """For each plate around an observed site why its rows are not exchangeable; ``None`` if they are.

    Args:
        reading: What the program is.
        together: Whether many simulations run at once.
    """
    plates = (plate for each in reading.observed.values() for plate in each.plates)
    names = dict.fromkeys(plate.name for plate in plates if plate.dim is not None)
    return {name: _obstacle(reading, name, together) for name in names}


def _obstacle(reading: JointSites, plate: str, together: bool) -> str | None:
    inside = {name: each for name, each in reading.runs.variables.items() if each.axis(plate) is not None}
    learned = [name for name in inside if name in reading.latents]
    if learned:
        return f"the latent site {learned[0]!r} lies in it"
    computed = [name for name in inside if reading.sites[name].computed]
    if computed:
        return f"site {computed[0]!r} is computed, so that its rows may differ in anything"
    for name, parents in reading.dependence.parents.items():
        if name not in inside and name in reading.runs.variables and parents & inside.keys():
            return f"site {name!r} outside depends on the rows inside"
    return _differing(reading, plate, list(inside), together)


def rows_mix(runs: Runs, observed: Collection[str], plate: str, *, together: bool) -> bool:
    """Whether a site in a plate is computed from other rows than its own, or may be: seen by changing the first row.

    Args:
        runs: Runs of the program.
        observed: The names of the observed sites.
        plate: The name of the plate.
        together: Whether many simulations run at once.
    """
    inside = {name: each for name, each in runs.variables.items() if each.axis(plate) is not None}
    if len(inside) < 2:
        return False
    seen = [succeeding(lambda: runs.sites_of_one({}, runs.variables)) for _ in range(2)]
    names = [name for name, site in seen[0].items() if not site.computed]
    data = {name: torch.stack([sites[name].value for sites in seen]) for name in names if name in observed}
    given, other = (many_values(runs, names, data, together=together, seed=seed) for seed in (0, 1))
    count = min(len(values[names[0]]) for values in (given, other))
    given = {name: values[:count] for name, values in given.items()}
    changed = dict(given)
    for name in inside.keys() & given.keys():
        axis = inside[name].axis(plate) + 1
        rest = given[name].narrow(axis, 1, given[name].shape[axis] - 1)
        changed[name] = torch.cat([other[name][:count].narrow(axis, 0, 1), rest], axis)
    tried = sites_at(runs, given, changed, together=together)
    return any(
        _moves(before[name], after[name], each, plate) for before, after in tried for name, each in inside.items()
    )


def _moves(before: Site, after: Site, variable: Variable, plate: str) -> bool:
    """Whether a site's distribution changes in other rows than the first."""
    found = signature(before), signature(after)
    if None in found:
        return True
    dim = variable.axis(plate) - len(variable.batch_shape)
    for (ours, events), (theirs, _) in zip(*found, strict=True):
        place = dim - events
        has_rows = -place <= ours.dim() and ours.shape[place] > 1
        if not are_close(*(each[_after_first(place)] if has_rows else each for each in (ours, theirs))):
            return True
    return False


def _after_first(place: int) -> tuple:
    """What chooses all rows but the first, along a dimension counted from the right."""
    return (..., slice(1, None), *[slice(None)] * (-place - 1))


def _differing(reading: JointSites, plate: str, inside: list[str], together: bool) -> str | None:
    """Why sites differ between the rows of a plate where the values inside are those of the first row everywhere."""
    try:
        if rows_mix(reading.runs, reading.observed, plate, together=together):
            return "a site in it depends on other rows than its own"
        values = {name: site.value for name, site in reading.sites.items() if not site.computed}
        seen = {name: value[None] for name, value in values.items() if name in reading.observed}
        given = many_values(reading.runs, values, seen, together=together, seed=0)
        for name in inside:
            axis = reading.runs.variables[name].axis(plate) + 1
            given[name] = given[name].narrow(axis, 0, 1).expand_as(given[name])
        for (sites,) in sites_at(reading.runs, given, together=together):
            for name in inside:
                dim = next(each.dim for each in sites[name].plates if each.name == plate)
                if not _is_constant(sites[name], dim):
                    return f"site {name!r} differs from row to row"
    except (FailedRun, FailedSimulations) as failed:
        return f"the program fails {failed}"
    return None


def _is_constant(site: Site, dim: int) -> bool:
    found = signature(site)
    return found is not None and all(constant_along(tensor, dim - events) for tensor, events in found)


def constant_along(tensor: Tensor, dim: int) -> bool:
    """Whether a tensor is the same all along a dimension, counted from the right, as far as it has that."""
    return -dim > tensor.dim() or are_close(tensor, tensor.narrow(dim, 0, 1).expand_as(tensor))
