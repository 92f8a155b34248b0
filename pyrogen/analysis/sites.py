"""Sites whose batch dimensions have names.

A value has batch dimensions, named by the plates around its statement, and event dimensions to the right of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor

from pyrogen.core.density import Density, density_of
from pyrogen.core.shapes import Shape
from pyrogen.programs.site import Plate, Site


@dataclass(frozen=True, kw_only=True)
class NamedSite(Site):
    """A site, or a computed statement, with names for the batch dimensions of its value.

    Attributes:
        dims: For each batch dimension the plate it belongs to, or ``None``.
        present: Which entries of the batch count, if a mask hides some of an observed site.
    """

    dims: tuple[str | None, ...]
    present: Tensor | None = None

    @property
    def shape(self) -> Shape:
        """Shape of a value."""
        return tuple(self.value.shape)

    @property
    def batch_shape(self) -> Shape:
        """The leading part of :attr:`shape` that plates (or unnamed batch dimensions) make."""
        return self.shape[: len(self.dims)]

    @property
    def density(self) -> Density:
        """What its ``log_prob`` means."""
        return "exact" if self.computed else density_of(self.distribution)

    @property
    def enumerable(self) -> bool:
        """Whether inference may have summed it out."""
        return self.enumerated or self.distribution.has_enumerate_support

    @property
    def plate_names(self) -> set[str]:
        """The plates that a dimension of its value belongs to."""
        return set(self.dims) - {None}


def named_sites(statements: Iterable[Site]) -> dict[str, NamedSite]:
    """Statements by name, with names for their batch dimensions."""
    return {site.name: _named(site) for site in statements}


def _named(site: Site) -> NamedSite:
    dims = _dims(site)
    present = _present(site, site.value.shape[: len(dims)]) if site.kind == "observed" else None
    return NamedSite(**vars(site), dims=dims, present=present)


def _dims(site: Site) -> tuple[str | None, ...]:
    value, plates = site.value, [plate for plate in site.plates if plate.dim is not None]
    event_dim = min(site.distribution.event_dim, value.dim())
    if site.computed and event_dim == value.dim():
        event_dim = _event_dim_of_computed(plates, value)
    dims: list[str | None] = [None] * (value.dim() - event_dim)
    for plate in plates:
        if -plate.dim <= len(dims) and value.shape[plate.dim - event_dim] == plate.rows:
            dims[plate.dim] = plate.name
    return tuple(dims)


def _event_dim_of_computed(plates: list[Plate], value: Tensor) -> int:
    """``pyro.deterministic`` calls all of a value its event; here, what the plates leave over on the right."""
    for event_dim in range(value.dim() if plates else 0):
        dims = [plate.dim - event_dim for plate in plates]
        if -min(dims) <= value.dim() and all(value.shape[d] == p.rows for d, p in zip(dims, plates, strict=True)):
            return event_dim
    return value.dim()


def _present(site: Site, batch_shape: Shape) -> Tensor | None:
    masks = [site.mask, site.distribution._mask if isinstance(site.distribution, MaskedDistribution) else None]
    masks = [torch.as_tensor(mask) for mask in masks if mask is not None and mask is not True]
    if not masks:
        return None
    present = torch.ones(batch_shape, dtype=torch.bool)
    for mask in masks:
        present = present & mask.cpu()
    return None if present.all() else present
