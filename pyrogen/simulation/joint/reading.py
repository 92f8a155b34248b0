"""Reading a program for simulation: its latent, nuisance and observed sites, and what cannot be simulated."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrogen.numerics.supports import is_same
from pyrogen.programs.dependence import Dependence
from pyrogen.programs.hidden_values import shown
from pyrogen.programs.run import Program
from pyrogen.programs.site import Site, is_site, is_statement, site_of

from .parents import dependence_of
from .runs import FailedRun, Runs, recorded, succeeding
from .signature import are_close, simulator_of
from .variable import Variable, variable_of


@dataclass(frozen=True)
class JointSites:
    """What a program is to learning.

    Attributes:
        latents: What is learned, in the order of the program.
        nuisance: Latent sites that are not.
        observed: What is observed.
        runs: Runs of it.
        sites: Its statements in one run.
        dependence: Which of its sites depend on which, observed ones free.
    """

    latents: dict[str, Variable]
    nuisance: dict[str, Variable]
    observed: dict[str, Variable]
    runs: Runs
    sites: dict[str, Site]
    dependence: Dependence


def read_program(
    program: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    observed: Sequence[str],
    nuisance: Sequence[str],
) -> JointSites:
    """Runs a program a few times and reads its sites.

    Raises:
        ValueError: names do not fit its sites, what is observed depends on no latent site, it has a factor, subsamples
            a plate, scales a site, masks an observed one, changes a value in place or has data for a site that is not
            named, or the support of a latent site depends on others.
        Exception: whatever it raises, when it does so again and again.
    """
    watch = _Watch()
    sites = _first_run(watch.watching(program), args, kwargs)
    _check_names(sites, observed, nuisance)
    _check_sites(sites, observed)
    _check_values(sites, watch.values)
    for name in watch.with_data:
        if name not in {*observed, *nuisance}:
            raise ValueError(f"`observed` must name all sites that the program has data for, got none named {name!r}")
    kept = {name: variable_of(site) for name, site in sites.items() if not site.computed or name in observed}
    latents = {name: each for name, each in kept.items() if name not in {*observed, *nuisance}}
    if not latents:
        raise ValueError(
            f"`program` must have a latent site to learn, got {list(kept)}, all of them observed or nuisance"
        )
    width = max(len(variable.batch_shape) for variable in kept.values())
    runs = Runs(program, args, kwargs, kept, width)
    _check_supports(runs, sites, latents)
    parts = ({name: kept[name] for name in kept if name in part} for part in (nuisance, observed))
    dependence = dependence_of(runs, sites)
    if not any(dependence.ancestors(name) & latents.keys() for name in observed):
        raise ValueError(
            f"`observed` must name a site that depends on a latent one to learn, got {list(observed)}, which depend on "
            f"none of {list(latents)}"
        )
    _warn_of_whole_results(sites, latents, {name: dependence.ancestors(name) for name in observed})
    return JointSites(latents, *parts, runs, sites, dependence)


def _warn_of_whole_results(
    sites: Mapping[str, Site], latents: Mapping[str, Variable], ancestors: Mapping[str, Collection[str]]
) -> None:
    """Warns where parts of what a simulator gave are observed, and the whole would be learned."""
    for name in latents:
        parts = [part for part, found in ancestors.items() if sites[part].computed and name in found]
        if parts and simulator_of(sites[name]) is not None:
            warnings.warn(
                f"site {name!r} of a Simulator is latent, while {parts} computed from it are observed: its values will "
                f"be learned, too. If they are not wanted, give `nuisance={name!r}`",
                UserWarning,
                stacklevel=4,
            )


def _first_run(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Site]:
    try:
        return succeeding(lambda: recorded(program, args, kwargs, {}))
    except FailedRun as failed:
        failed.error.add_note(f"It was raised by `program` {failed.place}, as others were in all runs before.")
        raise failed.error from None


def _check_names(sites: Mapping[str, Site], observed: Sequence[str], nuisance: Sequence[str]) -> None:
    if not observed:
        raise ValueError(f"`observed` must name at least one site of {list(sites)}, got none")
    for argument, names in (("observed", observed), ("nuisance", nuisance)):
        for name in names:
            if name not in sites:
                raise ValueError(f"`{argument}` must name sites of the program, {list(sites)}, got {name!r}")
            if sites[name].kind == "factor":
                raise ValueError(f"`{argument}` must name sites that have a value, got the factor {name!r}")
            if names.count(name) > 1:
                raise ValueError(f"`{argument}` must name each site once, got {name!r} again")
    for name in nuisance:
        if name in observed:
            raise ValueError(f"`nuisance` must name latent sites, got {name!r}, which is observed")
        if sites[name].computed:
            raise ValueError(f"`nuisance` must name latent sites, got {name!r}, which is computed")


def _check_sites(sites: Mapping[str, Site], observed: Sequence[str]) -> None:
    for name, site in sites.items():
        if site.kind == "factor":
            raise ValueError(f"`program` must have no factors, which cannot be simulated, got {name!r}")
        for plate in site.plates:
            if plate.rows < plate.size:
                raise ValueError(
                    f"`program` must not subsample its plates, got plate {plate.name!r} with {plate.rows} of "
                    f"{plate.size} rows around site {name!r}"
                )
        # Neither is followed by simulations, which would be of another joint distribution than the program's.
        if not site.computed and bool(torch.as_tensor(site.scale != 1).any()):
            raise ValueError(f"`program` must not scale its sites (`poutine.scale`), got site {name!r}")
        kept = site.mask if site.computed else shown(site.distribution, site.mask, site.distribution.event_dim)
        if name in observed and kept is not None and not bool(torch.as_tensor(kept).all()):
            raise ValueError(f"`program` must not mask its observed sites (`poutine.mask`), got site {name!r}")


def _check_values(sites: Mapping[str, Site], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        if not are_close(value, sites[name].value):
            raise ValueError(
                f"`program` must leave the values of its sites as they are, got site {name!r} changed in place (by "
                "`+=`, `value[...] =` or an array that shares its memory): change a copy, `value.clone()`"
            )


def _check_supports(runs: Runs, sites: Mapping[str, Site], latents: Mapping[str, Variable]) -> None:
    """Refuses a latent site whose support depends on other sites, by a further run, up to the last of them."""
    again = succeeding(lambda: recorded(runs.program, runs.args, runs.kwargs, {}, latents))
    for name in latents.keys() & again.keys():
        first, second = sites[name].support, again[name].support
        if not is_same(first, second):
            raise ValueError(
                f"`program` must have latent sites of fixed supports, got site {name!r} within {first} or {second}: "
                "sample something of fixed support, such as the share of the interval, and compute the rest "
                "from it; or name it in `nuisance`"
            )


class _Watch(Messenger):
    """Sees what a program does with its sites.

    Attributes:
        with_data: The names of those that it gives data to.
        values: Copies of the values that its statements had when they ran, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.with_data: list[str] = []
        self.values: dict[str, Tensor] = {}

    def watching(self, program: Program) -> Program:
        """The program; what it gives data to is noted before other handlers free it."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.values.clear()
            with self:
                return program(*args, **kwargs)

        return watched

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and is_site(msg) and site_of(msg).kind == "observed":
            self.with_data.append(msg["name"])

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if is_statement(msg):
            if msg["name"] in self.values:
                raise ValueError(f"`program` must have sites of different names, got {msg['name']!r} again")
            self.values[msg["name"]] = msg["value"].clone()
