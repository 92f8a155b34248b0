"""Parameters that belong to single rows of the data, and what of a program lies outside the data plate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from pyro.distributions import Delta
from torch import Tensor

from .run import Record
from .site import Plate, Site


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
    mass inside it hands each site its part.
    """
    sites = list(sites)
    auxiliary = [site.plate(plate.name) is not None for site in sites if site.auxiliary]
    if not auxiliary or any(auxiliary):
        return []
    inside = (site for site in sites if not site.observed and site.plate(plate.name))
    return list(dict.fromkeys(site.name for site in inside if isinstance(site.distribution, Delta)))


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
