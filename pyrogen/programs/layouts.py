"""Layouts: how a program runs for many draws at once, and where draws and data lie in what it leaves.

Draws are laid out in one of three ways:

- together, under one more plate outside all others. The programs are called as the user would call them, so that a
  plate of fixed size, a subsampled one and a guide with numbers for single rows mean what they mean;
- repeated, each datum as several rows of the data plate, for networks that take one batch dimension and no more;
- one by one.

Whether a layout fits a program is checked: its users run single draws again alone, and compare.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from .run import Program
from .site import Plate, Site

DRAWS = "_pyrogen_draws"


class LayoutMismatch(Exception):
    """What a program leaves under a layout of draws is not what single draws leave."""


class DrawLayout(ABC):
    """How several draws run at once.

    Attributes:
        draws: How many they are.
    """

    draws: int

    @abstractmethod
    def laid_out(self, program: Program) -> Program:
        """The program for all draws, called as for one; values given to it are as this layout gave them."""

    @abstractmethod
    def split(self, tensor: Tensor, events: int, dim: int | None) -> Tensor:
        """Draws first, rows second.

        Args:
            tensor: Of the batch shape of a site, with ``events`` more dimensions.
            events: How many dimensions are not of the batch.
            dim: The dimension of the data plate, counted from the right of the batch shape; ``None`` for no plate.

        Shape:
            ``(draws, rows, ...)``; one row without a plate.
        """

    def to_all_draws(self, tensor: Tensor, axis: int) -> Tensor:
        """A tensor of one draw, with its rows at ``axis`` from the right, in a shape that broadcasts to all draws."""
        return tensor

    def rows_in_plate(self, rows: int) -> int:
        """How many rows the data plate has where there are so many data."""
        return rows


@dataclass(frozen=True)
class OneDraw(DrawLayout):
    """One draw."""

    draws: int = field(default=1, init=False)

    def laid_out(self, program: Program) -> Program:
        return program

    def split(self, tensor: Tensor, events: int, dim: int | None) -> Tensor:
        return rows_first(tensor, events, dim)[None]


@dataclass(frozen=True)
class DrawsTogether(DrawLayout):
    """All draws under a plate outside ``width`` others."""

    draws: int
    width: int

    def laid_out(self, program: Program) -> Program:
        def under_a_plate(*args: Any, **kwargs: Any) -> Any:
            with pyro.plate(DRAWS, self.draws, dim=-self.width - 1):
                return program(*args, **kwargs)

        return under_a_plate

    def split(self, tensor: Tensor, events: int, dim: int | None) -> Tensor:
        if tensor.dim() - events != self.width + 1 or len(tensor) != self.draws:
            raise LayoutMismatch
        return tensor.unsqueeze(1) if dim is None else tensor.movedim(tensor.dim() - events + dim, 1)


@dataclass(frozen=True)
class RowsRepeated(DrawLayout):
    """Each of ``rows`` data as several rows of the data plate."""

    draws: int
    rows: int

    def laid_out(self, program: Program) -> Program:
        def on_repeated_rows(*args: Any, **kwargs: Any) -> Any:
            return program(*(select_rows(entry, self._index) for entry in args), **kwargs)

        return on_repeated_rows

    def split(self, tensor: Tensor, events: int, dim: int | None) -> Tensor:
        return rows_first(tensor, events, dim).unflatten(0, (self.draws, self.rows))

    def to_all_draws(self, tensor: Tensor, axis: int) -> Tensor:
        return tensor.index_select(axis, self._index.to(tensor.device))

    def rows_in_plate(self, rows: int) -> int:
        return self.draws * rows

    @property
    def _index(self) -> Tensor:
        return torch.arange(self.rows).repeat(self.draws)


@dataclass(frozen=True, kw_only=True)
class DrawnSite(Site):
    """A site of a program that ran for several draws.

    Attributes:
        layout: How the draws are laid out.
        dim: The dimension of the data plate, counted from the right of the batch shape; ``None`` where the data count
            as one datum.
    """

    layout: DrawLayout
    dim: int | None

    @property
    def data_plate(self) -> Plate:
        """The data plate."""
        return next(plate for plate in self.plates if plate.dim == self.dim)

    def split(self, tensor: Tensor, events: int = 0) -> Tensor:
        """A tensor of the site's batch shape, and so many more dimensions, with draws first and rows second."""
        return self.layout.split(tensor, events, self.dim)

    def to_all_draws(self, tensor: Tensor) -> Tensor:
        """A tensor of the shape that the value of one draw has, in one that broadcasts to the value of all."""
        return self.layout.to_all_draws(tensor, self.dim - self.distribution.event_dim)

    def values(self) -> Tensor:
        """The value, ``(draws, rows, ...)``."""
        return self.split(self.value, self.distribution.event_dim)

    def log_probs(self) -> Tensor:
        """Its log-probability, ``(draws, rows)``, in double precision: masked, but not scaled."""
        log_prob = self.split(self.log_prob()).double()
        return log_prob.reshape(*log_prob.shape[:2], -1).sum(-1)

    def value_of_draw(self, draw: int, like: DrawnSite) -> Tensor:
        """The value of one draw, in the shape that the site has alone, which is that of ``like``."""
        first = rows_first(like.value, like.distribution.event_dim, like.dim)
        return like._rows_back(self.values()[draw].reshape(first.shape))

    def value_of_rows(self, rows: Tensor) -> Tensor:
        """The value of some rows, where they are in the site's own shape."""
        value = rows_first(self.value, self.distribution.event_dim, self.dim)
        return self._rows_back(value[rows.to(value.device)])

    def _rows_back(self, value: Tensor) -> Tensor:
        if self.dim is None:
            return value[0]
        return value.movedim(0, value.dim() - self.distribution.event_dim + self.dim)


Sites = dict[str, DrawnSite]


def placed(
    sites: Mapping[str, Site],
    layout: DrawLayout,
    rows: int | None,
    what: str,
    way_out: str = "",
    *,
    plate: str | None = None,
) -> Sites:
    """Sites with the place of the data plate among their dimensions.

    Args:
        sites: What ran.
        layout: How the draws are laid out.
        rows: How many data there are; ``None`` if they count as one.
        what: What to call the program in a message.
        way_out: What else to do where a site lies outside the data plate.
        plate: The name of the data plate, where it is known; found by its length otherwise.

    Raises:
        ValueError: a site lies outside the data plate, or there is none, or more than one.
    """
    if rows is None or not sites:
        dims = dict.fromkeys(sites)
    else:
        names = shared_plates(sites.values(), layout.rows_in_plate(rows))
        names = [name for name in names if plate in (None, name)]
        if len(names) != 1:
            _refuse(list(sites.values()), layout.rows_in_plate(rows), what, way_out)
        dims = {name: site.plate(names[0]).dim for name, site in sites.items()}
    return {name: DrawnSite(**vars(site), layout=layout, dim=dims[name]) for name, site in sites.items()}


def shared_plates(sites: Iterable[Site], rows: int) -> list[str]:
    """The names of plates of so many rows around all sites; those that stand for more, if there are any."""
    fitting = [plate for plate in _shared(sites) if plate.rows == rows]
    return [plate.name for plate in [plate for plate in fitting if plate.size > plate.rows] or fitting]


def vectorized_plates(sites: Iterable[Site]) -> Iterator[Plate]:
    """The plates around sites that have a dimension; one of several sites comes several times."""
    return (plate for site in sites for plate in site.plates if plate.dim is not None)


def values_of(sites: Iterable[Site]) -> dict[str, Tensor]:
    """The values of sites by name, as their layout has them."""
    return {site.name: site.value for site in sites}


def parts_of(draws: int, at_once: int) -> list[int]:
    """So many draws in parts of no more than ``at_once``."""
    at_once = max(1, at_once)
    return [min(at_once, draws - start) for start in range(0, draws, at_once)]


def select_rows(entry: object, index: Tensor) -> object:
    """Some rows of a batch entry: those of a tensor, of a dict of tensors; anything else as it is."""
    if isinstance(entry, Mapping):
        return {key: select_rows(value, index) for key, value in entry.items()}
    return entry[index.to(entry.device)] if isinstance(entry, Tensor) and entry.dim() else entry


def rows_first(tensor: Tensor, events: int, dim: int | None) -> Tensor:
    """A tensor of one draw with its rows first; one row without a plate."""
    return tensor[None] if dim is None else tensor.movedim(tensor.dim() - events + dim, 0)


def _shared(sites: Iterable[Site]) -> list[Plate]:
    """The plates around all sites."""
    first, *others = sites
    plates = [plate for plate in vectorized_plates([first]) if plate.name != DRAWS]
    return [plate for plate in plates if all(site.plate(plate.name) for site in others)]


def _refuse(sites: list[Site], rows: int, what: str, way_out: str) -> None:
    """Raises the error of sites that have no data plate of so many rows."""
    shared = _shared(sites)
    own = next((plate for plate in shared if plate.rows < plate.size == rows), None)
    if own is not None:
        raise ValueError(
            f"`{what}` takes its own subsample of {own.rows} of the {rows} rows in plate {own.name!r}: call it with "
            "the rows in question, and give the plate `subsample_size=len(x)`"
        )
    outside = [site.name for site in sites if rows not in [plate.rows for plate in site.plates]]
    found = f"outside are {outside}" if outside else f"shared plates are {[plate.name for plate in shared]}"
    raise ValueError(
        f"`{what}` must have all its sites in one data plate of {rows} rows, so that data are independent; {found}"
        f"{way_out}"
    )
