"""Running Pyro programs on data for many draws at once: the log-probability of every site, by draw and by datum.

Draws are laid out in one of three ways, the first that fits:

- together, under one more plate outside all others. The programs are called as the user would call them, so that a
  plate of fixed size, a subsampled one and a guide with numbers for single rows mean what they mean;
- repeated, each datum as several rows of the data plate, for networks that take one batch dimension and no more;
- one by one.

Whether a layout fits is not taken on trust: two of the draws are scored again alone, and where a log-probability
differs, the next one is tried. So all of them give the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyrogen.core.density import Density, density_of
from pyrogen.programs.run import Program, Run, run
from pyrogen.programs.site import Plate, Site

from .arguments import count_missing, require_rows

DRAWS = "_pyrogen_draws"

Values = Mapping[str, Tensor]


class Layout(ABC):
    """How several draws run at once.

    Attributes:
        draws: How many they are.
    """

    draws: int

    @abstractmethod
    def run(self, program: Program, batch: list, given: Values, kwargs: Mapping[str, Any]) -> Run:
        """Runs a program for all draws; ``given`` holds values as this layout gave them."""

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

    def spread(self, tensor: Tensor, axis: int) -> Tensor:
        """A tensor of one draw, with its rows at ``axis`` from the right, in a shape that broadcasts to all draws."""
        return tensor

    def rows_in_plate(self, rows: int) -> int:
        """How many rows the data plate has where there are so many data."""
        return rows


@dataclass(frozen=True)
class Alone(Layout):
    """One draw."""

    draws: int = field(default=1, init=False)

    def run(self, program: Program, batch: list, given: Values, kwargs: Mapping[str, Any]) -> Run:
        return run(program, batch, kwargs, given=given)

    def split(self, tensor: Tensor, events: int, dim: int | None) -> Tensor:
        return _rows_first(tensor, events, dim)[None]


@dataclass(frozen=True)
class Together(Layout):
    """All draws under a plate outside ``width`` others."""

    draws: int
    width: int

    def run(self, program: Program, batch: list, given: Values, kwargs: Mapping[str, Any]) -> Run:
        def under_a_plate(*args: Any, **kwargs: Any) -> Any:
            with pyro.plate(DRAWS, self.draws, dim=-self.width - 1):
                return program(*args, **kwargs)

        return run(under_a_plate, batch, kwargs, given=given)

    def split(self, tensor: Tensor, events: int, dim: int | None) -> Tensor:
        if tensor.dim() - events != self.width + 1 or len(tensor) != self.draws:
            raise _DoesNotFit
        return tensor.unsqueeze(1) if dim is None else tensor.movedim(tensor.dim() - events + dim, 1)


@dataclass(frozen=True)
class Repeated(Layout):
    """Each of ``rows`` data as several rows of the data plate."""

    draws: int
    rows: int

    def run(self, program: Program, batch: list, given: Values, kwargs: Mapping[str, Any]) -> Run:
        return run(program, [select_rows(entry, self._index) for entry in batch], kwargs, given=given)

    def split(self, tensor: Tensor, events: int, dim: int | None) -> Tensor:
        return _rows_first(tensor, events, dim).unflatten(0, (self.draws, self.rows))

    def spread(self, tensor: Tensor, axis: int) -> Tensor:
        return tensor.index_select(axis, self._index.to(tensor.device))

    def rows_in_plate(self, rows: int) -> int:
        return self.draws * rows

    @property
    def _index(self) -> Tensor:
        return torch.arange(self.rows).repeat(self.draws)


@dataclass(frozen=True)
class DrawnSite:
    """A site of a program that ran for several draws.

    Args:
        site: What ran.
        layout: How the draws are laid out.
        dim: The dimension of the data plate, counted from the right of the batch shape; ``None`` where the data count
            as one datum.
    """

    site: Site
    layout: Layout
    dim: int | None

    @property
    def name(self) -> str:
        """Its name."""
        return self.site.name

    @property
    def value(self) -> Tensor:
        """Its value, as the layout has it."""
        return self.site.value

    @property
    def distribution(self) -> Distribution:
        """Its distribution, expanded to the plates."""
        return self.site.distribution

    @property
    def plate(self) -> Plate:
        """The data plate."""
        return next(plate for plate in self.site.plates if plate.dim == self.dim)

    @property
    def observed(self) -> bool:
        """Whether its value was given by the program as data."""
        return self.site.observed

    @property
    def auxiliary(self) -> bool:
        """Whether it only serves to build other sites of a guide."""
        return self.site.auxiliary

    @property
    def density(self) -> Density:
        """What its ``log_prob`` means."""
        return density_of(self.site.distribution)

    def split(self, tensor: Tensor, events: int = 0) -> Tensor:
        """A tensor of the site's batch shape, and so many more dimensions, with draws first and rows second."""
        return self.layout.split(tensor, events, self.dim)

    def spread(self, tensor: Tensor) -> Tensor:
        """A tensor of the shape that the value of one draw has, in one that broadcasts to the value of all."""
        return self.layout.spread(tensor, self.dim - self.distribution.event_dim)

    def values(self) -> Tensor:
        """The value, ``(draws, rows, ...)``."""
        return self.split(self.value, self.distribution.event_dim)

    def log_prob(self) -> Tensor:
        """Its log-probability, ``(draws, rows)``, in double precision: masked, but not scaled."""
        log_prob = self.split(self.site.log_prob()).double()
        return log_prob.reshape(*log_prob.shape[:2], -1).sum(-1)


Sites = dict[str, DrawnSite]
Measure = Callable[[Sites, Sites], dict[str, Tensor]]


class Pair:
    """A model and its guide on a batch of data.

    Args:
        model: A Pyro model; ``None`` where only the guide is of interest.
        guide: Its guide.
        batch: What both are called with.
        rows: How many rows the data plate has; ``None`` where the data count as one datum.
        way_out: What else to do where a site lies outside the data plate.
        plates: The names of the data plates of model and guide, as far as they are known.
    """

    def __init__(
        self,
        model: Program | None,
        guide: Program,
        batch: list,
        *,
        rows: int | None,
        way_out: str = "",
        plates: dict[str, str] | None = None,
    ) -> None:
        self.model = model
        self.guide = guide
        self.batch = batch
        self.rows = rows
        self.way_out = way_out
        self.plates = {} if plates is None else plates

    def guided(self, layout: Layout, given: Values | None = None) -> Sites:
        """Runs the guide."""
        return self._run(self.guide, "guide", layout, given or {})

    def modelled(self, layout: Layout, given: Values) -> Sites:
        """Runs the model with the given values of its latent sites; nothing where there is no model."""
        return {} if self.model is None else self._run(self.model, "model", layout, given)

    def run(self, layout: Layout, given: Values | None = None) -> tuple[Sites, Sites]:
        """Runs the guide, and the model on what it drew."""
        drawn = self.guided(layout, given)
        return drawn, self.modelled(layout, values_of(drawn.values()))

    def layouts(self, draws: int, at_once: int) -> list[Layout]:
        """Layouts for so many draws, no more than ``at_once`` in each."""
        alone = self.run(Alone())
        if draws == 1:
            self._require_repeatable(alone)
            return [Alone()]
        width = max((-plate.dim for sites in alone for plate in _vectorized(sites.values())), default=0)
        counts = _counts(draws, at_once)
        if self._fits(Together(counts[0], width), alone):
            return [Together(count, width) for count in counts]
        if self.rows is not None:
            counts = _counts(draws, min(at_once, self._most_repeats(alone)))
            if self._fits(Repeated(counts[0], self.rows), alone):
                return [Repeated(count, self.rows) for count in counts]
        self._require_repeatable(alone)
        return [Alone()] * draws

    def _run(self, program: Program, what: str, layout: Layout, given: Values) -> Sites:
        try:
            sites = layout.run(program, self.batch, given, {}).sites
        except Exception as error:
            error.add_note(f"It was raised by `{what}`, called with `batch`.")
            raise
        if self.rows is not None and what not in self.plates and len(sites):
            self.plates.update(self._named(program, what, sites))
        return placed(sites, layout, self.rows, what, self.way_out, plate=self.plates.get(what))

    def _named(self, program: Program, what: str, sites: dict[str, Site]) -> dict[str, str]:
        """The data plate: of several that are as long as the data, the one that follows their number."""
        fitting = _fitting(sites.values(), self.rows)
        if len(fitting) > 1:
            twice = [select_rows(entry, torch.arange(self.rows).repeat(2)) for entry in self.batch]
            try:
                longer = _fitting(run(program, twice).sites.values(), 2 * self.rows)
            except Exception:  # a program with a plate of fixed size may fail in any way on more rows
                longer = []
            fitting = [name for name in fitting if name in longer]
        return {what: fitting[0]} if len(fitting) == 1 else {}

    def _fits(self, layout: Layout, alone: tuple[Sites, Sites]) -> bool:
        """Whether the first and the last draw have the log-probabilities that they have alone."""
        try:
            together = self.run(layout)
            return all(self._agrees(together, alone, draw) for draw in {0, layout.draws - 1})
        except Exception:  # a program may fail in any way on more draws than one
            return False

    def _agrees(self, together: tuple[Sites, Sites], alone: tuple[Sites, Sites], draw: int) -> bool:
        given = {name: _one_of(site, alone[0][name], draw) for name, site in together[0].items()}
        again = self.run(Alone(), given)
        return all(
            _close(found[name].log_prob()[draw], site.log_prob()[0], site)
            for found, expected in zip(together, again, strict=True)
            for name, site in expected.items()
        )

    def _require_repeatable(self, alone: tuple[Sites, Sites]) -> None:
        again = self.run(Alone(), values_of(alone[0].values()))
        for found, expected, what in zip(alone, again, ("guide", "model"), strict=True):
            for name, site in expected.items():
                if not _close(found[name].log_prob(), site.log_prob(), site):
                    raise ValueError(
                        f"`{what}` must give the same draws and data the same log-probability each time, got two at "
                        f"site {name!r}: freeze noise in a log_prob, and where a plate takes rows at random, and the "
                        "program depends on which, pass it the rows as `subsample`"
                    )

    def _most_repeats(self, alone: tuple[Sites, Sites]) -> int:
        """How often each row fits into the data plate, where that stands for a limited number of rows."""
        plates = [plate for sites in alone for plate in _vectorized(sites.values()) if plate.rows == self.rows]
        return min((plate.size // self.rows for plate in plates if plate.size > plate.rows), default=2**62)


def measured(
    model: Program | None,
    guide: Program,
    batch: tuple,
    draws: int,
    measure: Measure,
    *,
    whole: bool = False,
    batch_size: int,
    way_out: str = "",
) -> Iterator[dict[str, Tensor]]:
    """What a function makes of the sites of a guide and of its model, for many draws and some data at a time.

    Args:
        model: A Pyro model, or ``None``.
        guide: Its guide.
        batch: What both are called with, rows first.
        draws: How many draws of the guide each datum gets.
        measure: From the sites of guide and model to tensors ``(draws, rows, ...)`` by name.
        whole: Whether the data count as one datum.
        batch_size: How many pairs of datum and draw are computed at once, where the programs allow it.
        way_out: What else to do where a site lies outside the data plate.

    Returns:
        Tensors ``(draws, some rows, ...)`` by name; together they have all rows.

    Raises:
        ValueError: a site lies outside the data plate, or the programs depend on chance beyond their draws.
    """
    for pair in pairs(model, guide, batch, whole=whole, batch_size=batch_size, way_out=way_out):
        _first_look(pair, measure)
        parts = [measure(*pair.run(layout)) for layout in pair.layouts(draws, max(1, batch_size // (pair.rows or 1)))]
        yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _first_look(pair: Pair, measure: Measure) -> None:
    """Runs the programs on one draw, where what is wrong with them shows."""
    try:
        measure(*pair.run(Alone()))
    except ValueError as error:  # Pyro's validation finds NaN where it ends up
        lost = count_missing(pair.batch)
        if lost:
            raise ValueError(f"`batch` holds {lost} NaN, which `model` and `guide` do not take: {error}") from error
        raise


def pairs(
    model: Program | None, guide: Program, batch: tuple, *, whole: bool = False, batch_size: int, way_out: str = ""
) -> Iterator[Pair]:
    """Model and guide on no more than ``batch_size`` data at a time, where rows can be taken out of the batch."""
    if whole:
        yield Pair(model, guide, list(batch), rows=None)
        return
    rows, plates = require_rows(batch), {}
    blocks = torch.arange(rows).split(batch_size)
    if len(blocks) > 1 and not _rows_stand_alone(model, guide, batch, torch.arange(max(batch_size, 2)), plates):
        blocks = [torch.arange(rows)]
    for block in blocks:
        part = list(batch) if len(block) == rows else [select_rows(entry, block) for entry in batch]
        yield Pair(model, guide, part, rows=len(block), way_out=way_out, plates=plates)


def _rows_stand_alone(
    model: Program | None, guide: Program, batch: tuple, block: Tensor, plates: dict[str, str]
) -> bool:
    """Whether the later half of the first rows has, in a call of its own, the log-probabilities it has among them."""
    half = block[len(block) // 2 :]
    wide, narrow = (
        Pair(model, guide, [select_rows(entry, rows) for entry in batch], rows=len(rows), plates=plates)
        for rows in (block, half)
    )
    try:
        sites = wide.run(Alone())
        given = {name: _rows_of(site, half) for name, site in sites[0].items()}
        again = narrow.run(Alone(), given)
    except Exception:  # a program with a plate of fixed size may fail in any way on fewer rows
        return False
    return all(
        _close(found[name].log_prob()[0, half], site.log_prob()[0], site)
        for found, expected in zip(sites, again, strict=True)
        for name, site in expected.items()
    )


def sites_of(
    program: Program,
    *args: object,
    rows: int | None,
    what: str,
    given: Values | None = None,
    plate: str | None = None,
    **kwargs: object,
) -> Sites:
    """Runs a program once and finds its sites in the data plate.

    Args:
        program: A Pyro model or guide.
        args: What it is called with.
        rows: How many rows the data plate must have; ``None`` if the data count as one datum.
        what: What to call the program in a message.
        given: Values of its latent sites.
        plate: The name of the data plate, where it is known.
        kwargs: What it is called with.

    Raises:
        ValueError: a site lies outside the data plate, or there is no plate of ``rows`` rows, or more than one.
    """
    return placed(run(program, args, kwargs, given=given).sites, Alone(), rows, what, plate=plate)


def values_of(sites: Iterable[DrawnSite]) -> dict[str, Tensor]:
    """The values of sites by name, as their layout has them."""
    return {site.name: site.value for site in sites}


def select_rows(entry: object, index: Tensor) -> object:
    """Some rows of a batch entry: those of a tensor, of a dict of tensors; anything else as it is."""
    if isinstance(entry, Mapping):
        return {key: select_rows(value, index) for key, value in entry.items()}
    return entry[index.to(entry.device)] if isinstance(entry, Tensor) and entry.dim() else entry


def check_names(drawn: Sites, scored: Sites) -> None:
    """Raises a ValueError unless a model, run on what its guide drew, has the guide's latent sites and no others."""
    missing = [name for name, site in scored.items() if not site.observed and name not in drawn]
    if missing:
        raise ValueError(f"`guide` must draw every latent site of the model, missing are {missing}")
    surplus = [name for name, site in drawn.items() if name not in scored and not site.auxiliary]
    if surplus:
        raise ValueError(f"`model` must have every site of the guide, missing are {surplus}")


def total(sites: Iterable[DrawnSite]) -> Tensor:
    """The log-probabilities of sites, summed for each draw and row; zero if there are none."""
    return sum((site.log_prob() for site in sites), torch.zeros((), dtype=torch.double))


class _DoesNotFit(Exception):
    """A site has another shape than the layout of the draws says."""


def placed(
    sites: dict[str, Site],
    layout: Layout,
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
        return {name: DrawnSite(site, layout, None) for name, site in sites.items()}
    fitting = _fitting(sites.values(), layout.rows_in_plate(rows))
    fitting = [name for name in fitting if plate in (None, name)]
    if len(fitting) != 1:
        _refuse(list(sites.values()), layout.rows_in_plate(rows), what, way_out)
    return {name: DrawnSite(site, layout, site.plate(fitting[0]).dim) for name, site in sites.items()}


def _shared(sites: Iterable[Site]) -> list[Plate]:
    """The plates around all sites."""
    first, *others = sites
    plates = [plate for plate in first.plates if plate.dim is not None and plate.name != DRAWS]
    return [plate for plate in plates if all(site.plate(plate.name) for site in others)]


def _fitting(sites: Iterable[Site], rows: int) -> list[str]:
    """The names of shared plates of so many rows; those that stand for more rows than they have, if there are any."""
    fitting = [plate for plate in _shared(sites) if plate.rows == rows]
    return [plate.name for plate in [plate for plate in fitting if plate.size > plate.rows] or fitting]


def _refuse(sites: list[Site], rows: int, what: str, way_out: str) -> None:
    """Says why sites have no data plate of so many rows."""
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


def _vectorized(sites: Iterable[DrawnSite]) -> Iterator[Plate]:
    return (plate for drawn in sites for plate in drawn.site.plates if plate.dim is not None)


def _rows_first(tensor: Tensor, events: int, dim: int | None) -> Tensor:
    return tensor[None] if dim is None else tensor.movedim(tensor.dim() - events + dim, 0)


def _one_of(drawn: DrawnSite, like: DrawnSite, draw: int) -> Tensor:
    """The value of one draw, in the shape that the site has alone."""
    rows_first = _rows_first(like.value, like.distribution.event_dim, like.dim)
    value = drawn.values()[draw].reshape(rows_first.shape)
    return _rows_back(value, like)


def _rows_of(drawn: DrawnSite, rows: Tensor) -> Tensor:
    """The value of some rows, where they are in the site's own shape."""
    value = _rows_first(drawn.value, drawn.distribution.event_dim, drawn.dim)
    return _rows_back(value[rows.to(value.device)], drawn)


def _rows_back(value: Tensor, drawn: DrawnSite) -> Tensor:
    if drawn.dim is None:
        return value[0]
    return value.movedim(0, value.dim() - drawn.distribution.event_dim + drawn.dim)


def _counts(draws: int, at_once: int) -> list[int]:
    at_once = max(1, at_once)
    return [min(at_once, draws - start) for start in range(0, draws, at_once)]


def _close(found: Tensor, expected: Tensor, site: DrawnSite) -> bool:
    """Equal up to rounding, which grows with the size of networks and with the number of terms that may cancel."""
    tolerance = 1000 * torch.finfo(site.site.log_prob().dtype).eps
    terms = max(1, site.value.numel() // max(1, expected.shape[-1])) ** 0.5
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * terms, equal_nan=True)
