r"""One row of an observed site: what a learned likelihood or ratio is about.

The rows of the plates around an observed site are independent given what they depend on. So one row :math:`x_i`, given
the values :math:`\theta_i` of its *parents* as that row sees them, is all there is to learn: a simulation of :math:`n`
rows holds :math:`n` pairs :math:`(\theta_i, x_i)`, and what is learned serves any number of rows. Parents are the
latent sites that the distribution of :math:`x_i` is computed from, directly or through values computed between, and
observed sites before it. Of a parent in plates around the observed site as well, each row sees its own value; of one in
other plates it sees all of them.

A nuisance site is summed out, and its own parents stand in its place. That is right where each row has its own; a
nuisance that rows share makes them dependent, and is refused. So are rows that differ by what the program keeps fixed,
such as covariates: one distribution cannot serve them all. And so are rows that see other rows than their own, as where
the mean over a plate is subtracted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint

from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.networks.statistics import RefusedDataError, require_rows
from pyrogen.numerics.randomness import held, seed_all
from pyrogen.numerics.supports import contains, is_real, is_same, opened, point_inside
from pyrogen.programs.site import Plate, Site
from pyrogen.transforms.transform import Transform, as_transform

from ..joint.exchangeable import constant_along
from ..joint.joint import Joint
from ..joint.runs import FailedRun, recorded, undisturbed
from ..joint.signature import are_close, signature
from ..joint.variable import Variable

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Parent:
    """What a row of an observed site sees of a site that it depends on.

    Attributes:
        variable: The site.
        others: Its batch dimensions, negative and ascending, that are no plates around the row: the row sees all of
            them, in front of the event.
    """

    variable: Variable
    others: tuple[int, ...] = ()

    @property
    def shape(self) -> Shape:
        """The shape of what one row sees."""
        batch = self.variable.batch_shape
        return (*(batch[len(batch) + dim] for dim in self.others), *self.variable.event_shape)

    @property
    def support(self) -> Constraint:
        """Where the values of the site lie."""
        return self.variable.support

    def seen(self, value: Tensor) -> Tensor:
        """The value of the site with what each row sees on the right, and the rows' plates in their places.

        Args:
            value: ``(*any, *batch, *event)``.
        """
        if not self.others:
            return value
        event_dim, count = self.variable.event_dim, len(self.others)
        places = [dim - event_dim for dim in self.others]
        value = value.movedim(places, list(range(-event_dim - count, -event_dim)) if event_dim else [*range(-count, 0)])
        for dim in reversed(self.others):
            value = value.unsqueeze(dim - count - event_dim)
        return value


class Pairs(NamedTuple):
    """Rows of an observed site, each with what it sees of its parents; one axis in front for the simulations.

    Attributes:
        x: ``(N, *plates, *event)``.
        context: What rows see, ``(N, *plates, *shape)`` with ones for plates that a parent is not in.
        present: Which rows there are, ``(N, *plates)``; ``None``: all.
    """

    x: Tensor
    context: dict[str, Tensor]
    present: Tensor | None


@dataclass(frozen=True)
class ObservedRow:
    """One row of an observed site, and what it depends on.

    Attributes:
        variable: The observed site.
        parents: By site, what the row sees: of latent sites in the order of the program, then of observed ones.
        latent: The names of those that are latent.
    """

    variable: Variable
    parents: dict[str, Parent]
    latent: frozenset[str]

    @property
    def name(self) -> str:
        """The name of the observed site."""
        return self.variable.name

    @property
    def event_shape(self) -> Shape:
        """The shape of one row."""
        return self.variable.event_shape

    @property
    def context_shape(self) -> ContextShape:
        """Shapes of what the row sees, by the names of sites; of a single site its shape alone."""
        shapes = {name: parent.shape for name, parent in self.parents.items()}
        return shapes if len(shapes) > 1 else next(iter(shapes.values()))

    @property
    def to_support(self) -> Transform | None:
        """From real numbers to where the row lies; ``None`` if it may be any real numbers, or is discrete."""
        support = self.variable.support
        return None if support.is_discrete or is_real(support) else as_transform(biject_to(support))

    @property
    def free_shape(self) -> Shape:
        """The shape of one row as real numbers without bounds."""
        transform = self.to_support
        return self.event_shape if transform is None else tuple(transform.inverse_shape(torch.Size(self.event_shape)))

    def named(self, context: Context) -> dict[str, Tensor]:
        """A context by the names of sites."""
        return dict(context) if isinstance(context, Mapping) else {next(iter(self.parents)): context}

    def packed(self, entries: Values) -> Context:
        """What rows see, as a module takes it: a dict by the names of sites, or a tensor of a single one."""
        return dict(entries) if len(self.parents) > 1 else entries[next(iter(self.parents))]

    def context(self, values: Values) -> Context:
        """What the row sees of the values that sites have in a run of a program."""
        return self.packed({name: parent.seen(values[name]) for name, parent in self.parents.items()})

    def pairs(self, latents: Values, observed: Values) -> Pairs:
        """Rows with what they see, of simulations.

        Raises:
            ValueError: a site is missing, or a value has another shape.
        """
        x = self._entry(observed, self.variable, "observed")
        width = max(len(v.batch_shape) for v in (self.variable, *(p.variable for p in self.parents.values())))
        entries = {}
        for name, parent in self.parents.items():
            values, place = (latents, "latents") if name in self.latent else (observed, "observed")
            value = parent.variable.spread(self._entry(values, parent.variable, place), width)
            entries[name] = parent.seen(value)
        event_dim = self.variable.event_dim
        missing = x.isnan().reshape(*x.shape[: x.dim() - event_dim], -1).all(-1) if x.is_floating_point() else None
        absent = None if missing is None or not x.dim() > event_dim + 1 or not bool(missing.any()) else missing
        x = x if absent is None else self._filled(x, absent)
        spread = self.variable.spread(x, width)
        return Pairs(spread, entries, None if absent is None else ~absent.reshape(spread.shape[: width + 1]))

    def flat(self, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """The rows that there are one after the other, each with a context of its own."""
        batch = pairs.x.shape[: pairs.x.dim() - self.variable.event_dim]
        kept = slice(None) if pairs.present is None else pairs.present.flatten()
        x = pairs.x.reshape(-1, *self.event_shape)[kept]
        return x, {
            name: value.expand(*batch, *self.parents[name].shape).reshape(-1, *self.parents[name].shape)[kept]
            for name, value in pairs.context.items()
        }

    def simulations(self, pairs: Pairs) -> Tensor:
        """Of which simulation each of the rows of :meth:`flat` is."""
        plates = pairs.x.shape[1 : pairs.x.dim() - self.variable.event_dim]
        numbers = torch.arange(len(pairs.x)).repeat_interleave(prod(plates))
        return numbers if pairs.present is None else numbers[pairs.present.flatten().cpu()]

    def refuse(self, pairs: Pairs) -> None:
        """Refuses simulations of which rows hold NaN, or lie outside of where the program says.

        Raises:
            RefusedDataError: rows do.
        """
        self._refuse(pairs.x, self.variable.support, f"observed[{self.name!r}]")
        for name, value in pairs.context.items():
            place = "latents" if name in self.latent else "observed"
            self._refuse(value, self.parents[name].support, f"{place}[{name!r}]")

    def refuse_ends(self, x: Tensor, free: Tensor) -> None:
        """Refuses rows at an end of their support, of which a density knows nothing.

        Args:
            x: Rows, one after the other.
            free: What they are as real numbers without bounds.

        Raises:
            RefusedDataError: rows lie there.
        """
        support = self.variable.support
        inside = contains(opened(support), x).reshape(len(x), -1).all(-1) & free.isfinite().reshape(len(x), -1).all(-1)
        _require_all(
            inside,
            f"`observed[{self.name!r}]` must lie strictly within the support {support} (rows exactly at an end have no "
            "density: simulate noise that rounds nothing to it, or learn a ratio, which needs no density)",
        )

    @staticmethod
    def _refuse(value: Tensor, support: Constraint, name: str) -> None:
        require_rows(value.isfinite(), value, f"`{name}` must be finite")
        _require_all(contains(support, value), f"`{name}` must lie within the support {support}")

    def _filled(self, x: Tensor, absent: Tensor) -> Tensor:
        """The value with a row that is there in the place of those that are absent."""
        if bool(absent.all()):
            raise ValueError(f"`observed[{self.name!r}]` must hold rows, got NaN alone")
        shape = self.event_shape
        some = x.reshape(-1, *shape)[int((~absent).flatten().nonzero()[0])]
        return torch.where(absent.reshape(absent.shape + (1,) * len(shape)), some, x)

    @staticmethod
    def _entry(values: Values, variable: Variable, place: str) -> Tensor:
        if not isinstance(values, Mapping) or variable.name not in values:
            got = sorted(values) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"`{place}` must be a dict with an entry {variable.name!r}, got {got}")
        value = values[variable.name]
        if value.shape[1:] != variable.shape:
            raise ValueError(
                f"`{place}[{variable.name!r}]` must have shape (rows, {', '.join(map(str, variable.shape))}), "
                f"got {tuple(value.shape)}"
            )
        return value


def _require_all(inside: Tensor, demand: str) -> None:
    wrong = (~inside).reshape(len(inside), -1).any(-1)
    if bool(wrong.any()):
        raise RefusedDataError(demand, "others", wrong.nonzero().flatten().tolist())


def row_of(joint: Joint, site: str | None = None) -> ObservedRow:
    """One row of an observed site of a program.

    Args:
        joint: The program.
        site: The name of the observed site; may be left out where there is one alone.

    Raises:
        TypeError: ``joint`` is none.
        ValueError: there is no such observed site; its distribution depends on nothing, or is another in some rows;
            rows share a nuisance site; or its support is not fixed.
    """
    if not isinstance(joint, Joint):
        raise TypeError(f"`joint` must be a Joint, got {type(joint).__name__}")
    variable = _observed(joint, site)
    undeclared = _others(variable, {plate.dim for plate in variable.plates})
    if undeclared:
        raise ValueError(
            f"`site` {variable.name!r} must have all its batch dimensions in plates, got batch shape "
            f"{variable.batch_shape} in plates {[plate.name for plate in variable.plates]}: declare the others by "
            "`to_event`, or by plates"
        )
    names = _parents(joint, variable)
    if not names:
        raise ValueError(f"`site` must depend on latent sites, got {variable.name!r}, which depends on none")
    own = {plate.name for plate in variable.plates}  # two plates of one dimension may follow each other
    parents = {
        name: Parent(parent, _others(parent, {plate.dim for plate in parent.plates if plate.name in own}))
        for name, parent in {**joint.latents, **joint.observed}.items()
        if name in names
    }
    row = ObservedRow(variable, parents, frozenset(names & joint.latents.keys()))
    _refuse_unequal_rows(joint, row)
    return row


def _observed(joint: Joint, site: str | None) -> Variable:
    if site is None and len(joint.observed) == 1:
        return next(iter(joint.observed.values()))
    if site is None:
        raise ValueError(f"`site` must be one of the observed sites {list(joint.observed)}, got None")
    if site not in joint.observed:
        latent = " a latent site" if site in joint.latents else ""
        raise ValueError(f"`site` must be one of the observed sites {list(joint.observed)}, got{latent} {site!r}")
    return joint.observed[site]


def _others(variable: Variable, dims: set[int | None]) -> tuple[int, ...]:
    """The batch dimensions of more than one entry that are none of these."""
    batch = variable.batch_shape
    return tuple(dim for dim in range(-len(batch), 0) if dim not in dims and batch[dim] != 1)


def _parents(joint: Joint, variable: Variable) -> set[str]:
    """The names of the sites that one row depends on, with those of nuisance sites in the place of these."""
    found: set[str] = set()
    waiting = list(joint.dependence.parents[variable.name])
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in joint.nuisance:
            found.add(name)
            continue
        inside = {plate.name for plate in joint.nuisance[name].plates}
        shared = [plate.name for plate in variable.plates if plate.name not in inside]
        if shared:
            raise ValueError(
                f"`joint` must not have nuisance sites that the rows of an observed site share, got {name!r} outside "
                f"plate {shared[0]!r} of {variable.name!r}: given the rest the rows are dependent; learn {name!r} by "
                f"leaving it out of `nuisance`, or make the rows one event by `to_event`"
            )
        waiting.extend(joint.dependence.parents[name])
    return found


def _refuse_unequal_rows(joint: Joint, row: ObservedRow) -> None:
    """Refuses a site whose rows differ where their parents are equal, or see other rows, or whose support varies."""
    try:
        first, again, other = (_in_one_run(joint, row, seed, noise) for seed, noise in ((0, 0), (0, 1), (1, 0)))
        apart = _in_one_run(joint, row, 0, 0, equal=False)
    except FailedRun:  # it shows in simulations, where some may fail
        return
    if not is_same(first.support, other.support):
        raise ValueError(
            f"`site` must have a fixed support, got {row.name!r} within {first.support} or {other.support}: "
            "divide what is observed by its bounds, or declare a support that holds all of it"
        )
    shown, repeated = signature(first), signature(again)
    # Where two runs on the same values differ, noise was drawn outside of all sites, and rows differ by that.
    if shown is None or not all(torch.equal(a, b) for (a, _), (b, _) in zip(shown, repeated, strict=True)):
        return
    for plate in row.variable.plates:
        if plate.dim is not None and not all(constant_along(part, plate.dim - events) for part, events in shown):
            raise ValueError(
                f"`joint` must have equally distributed rows in plate {plate.name!r} of site {row.name!r}, got rows "
                "that differ where all that they depend on is equal, as fixed covariates make them: make the "
                "covariate an observed or a latent site, so that it is learned as well, put a latent site whose rows "
                "go with these in the same plate, or make the rows one event by `to_event`"
            )
    if not all(map(are_close, _first_rows(shown, row), _first_rows(signature(apart) or [], row))):
        raise ValueError(
            f"`joint` must have rows of site {row.name!r} that see their own rows of the sites in their plates, got "
            "rows that see others too, as where a mean over a plate is subtracted: make them one event by `to_event`"
        )


def _first_rows(shown: list[tuple[Tensor, int]], row: ObservedRow) -> Iterator[Tensor]:
    """What tells the distribution of the first row of all plates from others."""
    for part, events in shown:
        for plate in row.variable.plates:
            if plate.dim is not None and events - plate.dim <= part.dim():
                part = part.narrow(plate.dim - events, 0, 1)
        yield part


def _in_one_run(joint: Joint, row: ObservedRow, seed: int, noise: int, *, equal: bool = True) -> Site:
    """The observed site in one run, with noise of its own.

    Args:
        joint: The program.
        row: The row.
        seed: Of the values of what is learned.
        noise: The seed of all else.
        equal: Whether the rows of all its plates see what the first sees.
    """
    known = {**joint.latents, **{name: joint.observed[name] for name in row.parents if name not in row.latent}}
    with held(), undisturbed(joint.program):
        seed_all(seed)
        sites = recorded(joint.program, joint.args, joint.kwargs, {}, set(known))
        plates = row.variable.plates if equal else ()
        given = {name: _equal(sites[name].value, variable, plates) for name, variable in known.items()}
        value = torch.zeros(row.variable.shape, dtype=row.variable.dtype)
        given[row.name] = point_inside(row.variable.support, value)  # so that no simulator draws one
        seed_all(noise)
        return recorded(joint.program, joint.args, joint.kwargs, given, {row.name})[row.name]


def _equal(value: Tensor, variable: Variable, plates: Iterable[Plate]) -> Tensor:
    """A value whose rows along some plates are all the first."""
    for plate in plates:
        axis = variable.axis(plate.name)
        if axis is not None:
            value = value.narrow(axis, 0, 1).expand(value.shape)
    return value
