"""What a program makes of the data it is called with: its data plate, what lies outside it, what belongs to one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .data_plate import candidates, data_of, observed_plates
from .rows import drawn_together, global_sites, row_parameters
from .run import Record
from .site import Plate, Site


@dataclass(frozen=True)
class Reading:
    """A run of a model and its guide, seen from the data they were called with.

    Attributes:
        rows: How many rows they were called with.
        plates: The data plate, if there is one; several are side by side, and mean the same rows.
        outside: The names of the latent sites outside it, which are those of all data.
        owned: The parameters, and the sites, that hold an entry for each row of the data plate. The entries are of use
            only to the rows that the programs were called with, unless these are named by number.
        sizes: The numbers of data that the programs may be said to stand for: the full size of the data plate, and the
            rows in it times their scale.
        loose: The names of the observed sites outside the data plate that depend on the data, where one has looked.
    """

    rows: int
    plates: tuple[Plate, ...]
    outside: list[str]
    owned: list[str]
    sizes: frozenset[int]
    loose: tuple[str, ...] = ()


def reading_of(
    record: Record, rows: int, numbers: Sequence[Tensor], parameters: Mapping[str, Tensor], plates: Sequence[Plate]
) -> Reading:
    """Reads what ran.

    Args:
        record: A run of model and guide, with gradients. One that observes nothing has no data, and nothing outside.
        rows: How many rows they were called with.
        numbers: Vectors of integers that they were called with, which may be the numbers of rows.
        parameters: Their parameters by name.
        plates: The data plates.
    """
    plates = tuple(plates)
    if not any(site.observed for site in record.sites):
        return Reading(rows, plates, [], [], frozenset())
    outside = global_sites(record.sites, *plates)
    owned: list[str] = []
    sizes: list[set[int]] = []
    for plate in plates:
        owned += row_parameters(record, plate, parameters, named=numbers) + drawn_together(record.sites, plate)
        sizes.append({data_of(plate, size, rows) for size in _sizes(record.sites, plate, outside)})
    return Reading(rows, plates, outside, owned, frozenset(set.intersection(*sizes) if sizes else ()))


def settled_data_plates(record: Record, rows: int, again: Callable[[], Record] | None = None) -> list[Plate]:
    """The data plate; where none or several are as long as the data, those that follow their number.

    Args:
        record: A run of the programs.
        rows: How many rows they were called with.
        again: Runs them on one row fewer.

    Raises:
        ValueError: several are, one inside the other.
    """
    found = candidates(record.sites, rows)
    if again is None or rows == 1 or len(found) == 1 or not observed_plates(record.sites):
        return _side_by_side(record, found, rows)
    lengths = {plate.name: plate.rows for site in _sites_of(again) if site.observed for plate in site.plates}
    following = [
        plate
        for plate in found or observed_plates(record.sites)
        if lengths.get(plate.name, 0) * rows == plate.rows * (rows - 1)
    ]
    return _side_by_side(record, following or found, rows)


def _side_by_side(record: Record, plates: list[Plate], rows: int) -> list[Plate]:
    for site in record.sites:
        around = [plate.name for plate in plates if site.plate(plate.name)]
        if len(around) > 1:
            raise ValueError(
                f"the data plate must be the only plate of {rows} rows around the site {site.name!r}, got "
                f"{sorted(around)}; "
                "call the program with another number of rows, another `batch_size` of `fit`"
            )
    return plates


def _sites_of(again: Callable[[], Record]) -> list[Site]:
    """The sites of programs on one row fewer; none if they fail on it, in whatever way."""
    try:
        return again().sites
    except Exception:
        return []


def _sizes(sites: Sequence[Site], plate: Plate, outside: Sequence[str]) -> set[int]:
    """Where the scale is not that of subsampling but ``poutine.scale``, it counts relative to what is outside."""
    base = {1.0, *(float(site.scale) for site in sites if site.name in outside and _is_number(site.scale))}
    inside = [site for site in sites if site.observed and _is_number(site.scale) and site.plate(plate.name)]
    return {plate.size, *(round(plate.rows * float(site.scale) / other) for site in inside for other in base if other)}


def _is_number(scale: float | Tensor) -> bool:
    return not isinstance(scale, Tensor) or scale.numel() == 1
