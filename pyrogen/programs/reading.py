"""What a program makes of the data it is called with: its data plate, what lies outside it, what belongs to one row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .data_plate import data_of, observed_plates, possible_data_plates
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
        sizes: The numbers of data that the programs may stand for: the full size of the data plate, and the
            rows in it times their scale.
        loose: The names of the observed sites outside the data plate that depend on the data; empty where that was not
            checked.
        twice: The names of the data plates that stand for more rows than they have, and whose rows are scaled up to as
            many once more by ``poutine.scale``.
    """

    rows: int
    plates: tuple[Plate, ...]
    outside: list[str]
    owned: list[str]
    sizes: frozenset[int]
    loose: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()


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
    twice = tuple(plate.name for plate in plates if _scaled_twice(record.sites, plate, outside))
    return Reading(rows, plates, outside, owned, frozenset(set.intersection(*sizes) if sizes else ()), twice=twice)


def settled_data_plates(record: Record, rows: int, again: Callable[[], Record]) -> list[Plate]:
    """The data plate; where none or several are as long as the data, those that follow their number.

    Args:
        record: A run of the programs.
        rows: How many rows they were called with.
        again: Runs them on one row fewer.

    Raises:
        ValueError: several are, one inside the other.
    """
    found = possible_data_plates(record.sites, rows)
    if rows == 1 or len(found) == 1 or not observed_plates(record.sites):
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
    return {plate.size, *(round(plate.rows * scale) for scale in _relative_scales(sites, plate, outside))}


def _scaled_twice(sites: Sequence[Site], plate: Plate, outside: Sequence[str]) -> bool:
    """Whether rows are scaled up by the size of the plate, and by ``poutine.scale`` to the same size again."""
    twice = plate.size**2 / plate.rows
    return plate.size > plate.rows and round(twice) in {
        round(plate.rows * scale) for scale in _relative_scales(sites, plate, outside)
    }


def _relative_scales(sites: Sequence[Site], plate: Plate, outside: Sequence[str]) -> Iterator[float]:
    """The scales of what is observed in the plate, by themselves and over those of the sites outside."""
    base = {1.0, *_numbers(site for site in sites if site.name in outside)}
    for scale in _numbers(site for site in sites if site.observed and site.plate(plate.name)):
        yield from (scale / other for other in base if other)


def _numbers(sites: Iterable[Site]) -> Iterator[float]:
    """The scales of sites as far as each is the same for all its rows."""
    for site in sites:
        scale = torch.as_tensor(site.scale).detach().flatten()
        if len(scale) and bool((scale == scale[0]).all()):
            yield float(scale[0])


def global_sites(sites: Iterable[Site], *plates: Plate) -> list[str]:
    """The names of the latent sites outside the data plates, which belong to no single row.

    A guide's auxiliary sites are named where there are no others: elsewhere they are how it draws these.
    """
    outside = [site for site in sites if not site.observed and not site.inside(plates)]
    own = [site.name for site in outside if not site.auxiliary]
    return list(dict.fromkeys(own or [site.name for site in outside]))


def drawn_together(sites: Iterable[Site], plate: Plate) -> list[str]:
    """The names of the latent sites inside the data plate that a guide draws as one vector with those of other rows.

    Pyro's ``AutoContinuous`` guides do: an auxiliary site outside the plate, and none inside, is the draw, and a point
    mass inside it gives each site its part.
    """
    sites = list(sites)
    auxiliary = [site.plate(plate.name) is not None for site in sites if site.auxiliary]
    if not auxiliary or any(auxiliary):
        return []
    inside = (site for site in sites if not site.observed and site.plate(plate.name))
    return list(dict.fromkeys(site.name for site in inside if site.is_point))


def row_parameters(
    record: Record, plate: Plate, parameters: Mapping[str, Tensor], *, named: Iterable[Tensor] = ()
) -> list[str]:
    """The names of the parameters that hold an entry for each row of the data plate, as those of ``AutoNormal`` do.

    What happens in a row of the plate then depends on the entry of that row and on no other. An embedding of labels, or
    a network that happens to be as wide as the minibatch is long, is not such.

    Args:
        record: A run of the programs, with gradients.
        plate: The data plate.
        parameters: The parameters by name.
        named: Numbers of rows that the programs were called with. A parameter whose entries are found by them belongs
            to the right rows in every minibatch, and is left out.
    """
    order = torch.arange(plate.rows)
    taken = torch.as_tensor(record.indices.get(plate.name, order)).cpu()
    numbers = [vector.cpu().long() for vector in named]
    unnamed = [entries for entries in (order, taken) if not any(torch.equal(entries, known) for known in numbers)]
    if plate.rows > 1:
        return _by_gradient(record.sites, plate, parameters, unnamed)
    # Of a single row nothing shows but that ``pyro.param`` has the dimension of the plate.
    by_number = plate.size > 1 and all(entries is not taken for entries in unnamed)
    return [] if by_number else list(dict.fromkeys(record.parameters.get(plate.name, ())))


def _by_gradient(
    sites: Sequence[Site], plate: Plate, parameters: Mapping[str, Tensor], places: Sequence[Tensor]
) -> list[str]:
    """The parameters of which every row depends on one entry, at one of these places for each row."""
    lengths = {plate.rows, plate.size}
    wanted = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.requires_grad and lengths & set(parameter.shape)
    }
    rows = _rows(sites, plate) if wanted and plate.dim is not None else None
    if rows is None:
        return []
    checked = sorted({0, 1, plate.rows - 1})
    found = [
        torch.autograd.grad(rows[row], list(wanted.values()), retain_graph=True, allow_unused=True) for row in checked
    ]
    return [
        name
        for name, *gradients in zip(wanted, *found, strict=True)
        if any(_belong(gradients, entries[checked].tolist(), lengths) for entries in places)
    ]


def _rows(sites: Iterable[Site], plate: Plate) -> Tensor | None:
    """A number for each row of the plate that depends on whatever its sites depend on."""
    total = None
    for site in sites:
        own = site.plate(plate.name)
        if own is None or own.dim is None:
            continue
        for tensor, dim in _shown(site, own.dim):
            if tensor.requires_grad and -dim <= tensor.dim() and tensor.shape[dim] == plate.rows:
                row = tensor.movedim(dim, 0).flatten(1).sum(1) if tensor.dim() > 1 else tensor
                total = row if total is None else total + row
    return total


def _shown(site: Site, dim: int) -> Iterable[tuple[Tensor, int]]:
    """What shows the parameters behind a site, and where its rows are."""
    if site.value.is_floating_point():
        yield site.value, dim - site.distribution.event_dim
    log_prob = site.log_prob_if_any()
    if log_prob is not None:
        yield log_prob, dim


def _belong(gradients: Sequence[Tensor | None], entries: Sequence[int], lengths: set[int]) -> bool:
    """Whether along some dimension each of these gradients is confined to its entry."""
    if any(gradient is None or not gradient.any() for gradient in gradients):
        return False
    return any(
        all(_confined(gradient, dim, entry) for gradient, entry in zip(gradients, entries, strict=True))
        for dim in range(gradients[0].dim())
        if gradients[0].shape[dim] in lengths
    )


def _confined(gradient: Tensor, dim: int, entry: int) -> bool:
    if entry >= gradient.shape[dim]:
        return False
    elsewhere = gradient.index_fill(dim, torch.tensor([entry], device=gradient.device), 0)
    return not elsewhere.any()
