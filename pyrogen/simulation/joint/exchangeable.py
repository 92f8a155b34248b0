"""Plates whose rows are exchangeable given the latent variables outside: the observed values in them are a set.

Every site in such a plate has the same distribution in all rows, once the values of the sites inside it that it depends
on are the same in all rows; and no site outside depends on one inside.
"""

from __future__ import annotations

from torch import Tensor

from pyrogen.programs.site import Site

from .drawing import FailedSimulations
from .reading import JointSites
from .runs import FailedRun
from .signature import are_close, signature
from .trials import many_values, sites_at


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


def _differing(reading: JointSites, plate: str, inside: list[str], together: bool) -> str | None:
    """Why sites differ between the rows of a plate where the values inside are those of the first row everywhere."""
    try:
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
