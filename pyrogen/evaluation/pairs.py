"""A model and its guide on data, for many draws at once: the log-probability of every site, by draw and by datum.

Draws are laid out in the first of the ways of :mod:`pyrogen.programs.layouts` that fits: two of the draws are scored
again alone, and where a log-probability differs, the next one is tried. So all of them give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pyrogen.arguments import real_tensor
from pyrogen.core.batch import rows as count_rows
from pyrogen.core.density import density_of
from pyrogen.programs.hidden_values import HiddenValues
from pyrogen.programs.layouts import (
    DrawLayout,
    DrawnSite,
    DrawsTogether,
    OneDraw,
    RowsRepeated,
    Sites,
    parts_of,
    placed,
    select_rows,
    shared_plates,
    values_of,
    vectorized_plates,
)
from pyrogen.programs.run import Program, run
from pyrogen.programs.site import Site

Values = Mapping[str, Tensor]
Measure = Callable[[Sites, Sites], dict[str, Tensor]]


@dataclass
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

    model: Program | None
    guide: Program
    batch: list
    rows: int | None
    way_out: str = ""
    plates: dict[str, str] = field(default_factory=dict)

    def guided(self, layout: DrawLayout, given: Values | None = None) -> Sites:
        """Runs the guide."""
        return self._run(self.guide, "guide", layout, given or {})

    def modelled(self, layout: DrawLayout, given: Values) -> Sites:
        """Runs the model with the given values of its latent sites; nothing where there is no model."""
        return {} if self.model is None else self._run(self.model, "model", layout, given)

    def run(self, layout: DrawLayout, given: Values | None = None) -> tuple[Sites, Sites]:
        """Runs the guide, and the model on what it drew."""
        drawn = self.guided(layout, given)
        return drawn, self.modelled(layout, values_of(drawn.values()))

    def layouts(self, draws: int, at_once: int) -> list[DrawLayout]:
        """Layouts for so many draws, no more than ``at_once`` in each."""
        alone = self.run(OneDraw())
        if draws == 1:
            self._require_repeatable(alone)
            return [OneDraw()]
        width = max((-plate.dim for sites in alone for plate in vectorized_plates(sites.values())), default=0)
        counts = parts_of(draws, at_once)
        if self._fits(DrawsTogether(counts[0], width), alone):
            return [DrawsTogether(count, width) for count in counts]
        if self.rows is not None:
            counts = parts_of(draws, min(at_once, self._most_repeats(alone)))
            if self._fits(RowsRepeated(counts[0], self.rows), alone):
                return [RowsRepeated(count, self.rows) for count in counts]
        self._require_repeatable(alone)
        return [OneDraw()] * draws

    def _run(self, program: Program, what: str, layout: DrawLayout, given: Values) -> Sites:
        try:
            sites = run(HiddenValues()(layout.laid_out(program)), self.batch, given=given).sites
        except Exception as error:
            error.add_note(f"It was raised by `{what}`, called with `batch`.")
            raise
        if self.rows is not None and what not in self.plates and len(sites):
            self.plates.update(self._named(program, what, sites))
        return placed(sites, layout, self.rows, what, self.way_out, plate=self.plates.get(what))

    def _named(self, program: Program, what: str, sites: dict[str, Site]) -> dict[str, str]:
        """The data plate: of several that are as long as the data, the one that follows their number."""
        fitting = shared_plates(sites.values(), self.rows)
        if len(fitting) > 1:
            twice = [select_rows(entry, torch.arange(self.rows).repeat(2)) for entry in self.batch]
            try:
                longer = shared_plates(run(program, twice).sites.values(), 2 * self.rows)
            except Exception:  # a program with a plate of fixed size may fail in any way on more rows
                longer = []
            fitting = [name for name in fitting if name in longer]
        return {what: fitting[0]} if len(fitting) == 1 else {}

    def _fits(self, layout: DrawLayout, alone: tuple[Sites, Sites]) -> bool:
        """Whether the first and the last draw have the log-probabilities that they have alone."""
        try:
            together = self.run(layout)
            return all(self._agrees(together, alone, draw) for draw in {0, layout.draws - 1})
        except Exception:  # a program may fail in any way on more draws than one
            return False

    def _agrees(self, together: tuple[Sites, Sites], alone: tuple[Sites, Sites], draw: int) -> bool:
        given = {name: site.value_of_draw(draw, alone[0][name]) for name, site in together[0].items()}
        again = self.run(OneDraw(), given)
        return all(
            _close(found[name].log_probs()[draw], site.log_probs()[0], site)
            for found, expected in zip(together, again, strict=True)
            for name, site in expected.items()
        )

    def _require_repeatable(self, alone: tuple[Sites, Sites]) -> None:
        again = self.run(OneDraw(), values_of(alone[0].values()))
        for found, expected, what in zip(alone, again, ("guide", "model"), strict=True):
            for name, site in expected.items():
                if not _close(found[name].log_probs(), site.log_probs(), site):
                    raise ValueError(
                        f"`{what}` must give the same draws and data the same log-probability each time, got two at "
                        f"site {name!r}: freeze noise in a log_prob, and where a plate takes rows at random, and the "
                        "program depends on which, pass it the rows as `subsample`"
                    )

    def _most_repeats(self, alone: tuple[Sites, Sites]) -> int:
        """How often each row fits into the data plate, where that stands for a limited number of rows."""
        plates = [plate for sites in alone for plate in vectorized_plates(sites.values()) if plate.rows == self.rows]
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
        _dry_run(pair, measure)
        parts = [measure(*pair.run(layout)) for layout in pair.layouts(draws, max(1, batch_size // (pair.rows or 1)))]
        yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _dry_run(pair: Pair, measure: Measure) -> None:
    """Runs the programs on one draw, where what is wrong with them shows."""
    try:
        measure(*pair.run(OneDraw()))
    except ValueError as error:  # Pyro's validation finds NaN where it ends up
        lost = _count_missing(pair.batch)
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
    rows, plates = checked_rows(batch), {}
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
        sites = wide.run(OneDraw())
        given = {name: site.value_of_rows(half) for name, site in sites[0].items()}
        again = narrow.run(OneDraw(), given)
    except Exception:  # a program with a plate of fixed size may fail in any way on fewer rows
        return False
    return all(
        _close(found[name].log_probs()[0, half], site.log_probs()[0], site)
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
    return placed(run(program, args, kwargs, given=given).sites, OneDraw(), rows, what, plate=plate)


def check_names(drawn: Sites, scored: Sites) -> None:
    """Raises a ValueError unless a model, run on what its guide drew, has the guide's latent sites and no others."""
    missing = [name for name, site in scored.items() if not site.observed and name not in drawn]
    if missing:
        raise ValueError(f"`guide` must draw every latent site of the model, missing are {missing}")
    surplus = [name for name, site in drawn.items() if name not in scored and not site.auxiliary]
    if surplus:
        raise ValueError(f"`model` must have every site of the guide, missing are {surplus}")


def require_density(site: DrawnSite, what: str, why: str) -> str:
    """What the ``log_prob`` of a site means: "exact" or "estimate".

    Raises:
        NotImplementedError: it is a bound, unnormalized or missing.
    """
    density = density_of(site.distribution)
    if density not in ("exact", "estimate"):
        raise NotImplementedError(f"site {site.name!r}{what} has density {density!r}: {why}")
    return density


def total(sites: Iterable[DrawnSite]) -> Tensor:
    """The log-probabilities of sites, summed for each draw and row; zero if there are none."""
    return sum((site.log_probs() for site in sites), torch.zeros((), dtype=torch.double))


def _close(found: Tensor, expected: Tensor, site: DrawnSite) -> bool:
    """Equal up to rounding, which grows with the size of networks and with the number of terms that may cancel."""
    tolerance = 1000 * torch.finfo(site.log_prob().dtype).eps
    terms = max(1, site.value.numel() // max(1, expected.shape[-1])) ** 0.5
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * terms, equal_nan=True)


def checked_rows(batch: tuple, *, name: str = "batch", least: int = 1) -> int:
    """How many rows of data a batch holds.

    Args:
        batch: What programs are called with: tensors with the data in rows, numbers, dicts of tensors or ``None``.
        name: Of the argument.
        least: The smallest number of rows that makes sense.

    Raises:
        TypeError: an entry is an array or a sequence, of which no rows can be taken.
        ValueError: there are too few rows, or a tensor has another number of them.
    """
    rows = count_rows(batch)
    entries = list(_entries(batch, name))
    tensors = [(place, entry) for place, entry in entries if isinstance(entry, Tensor) and entry.dim()]
    for place, entry in entries:
        if isinstance(entry, list | tuple | np.ndarray):
            raise TypeError(f"`{place}` must be a tensor, got {type(entry).__name__}; convert it by `torch.as_tensor`")
    for place, entry in tensors:
        real_tensor(entry, place)
        if len(entry) != rows:
            raise ValueError(f"`{place}` must have the {rows} rows of the data, got shape {tuple(entry.shape)}")
    if not tensors or rows < least:
        wanted = "one datum" if least == 1 else f"{least} data"
        raise ValueError(
            f"`{name}` must hold at least {wanted}, in rows of a tensor, got {rows if tensors else 'none'}"
        )
    return rows


def _count_missing(batch: Iterable) -> int:
    """How many NaN the tensors of a batch hold."""
    tensors = [entry for _, entry in _entries(batch, "batch") if isinstance(entry, Tensor)]
    return sum(int(entry.isnan().sum()) for entry in tensors)


def _entries(batch: Iterable, name: str) -> Iterator[tuple[str, object]]:
    for place, entry in enumerate(batch):
        if isinstance(entry, Mapping):
            yield from ((f"{name}[{place}][{key!r}]", part) for key, part in entry.items())
        else:
            yield f"{name}[{place}]", entry
