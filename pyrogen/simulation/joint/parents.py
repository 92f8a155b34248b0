"""Which sites of a program depend on which, also where values pass through NumPy.

Marks on tensors show what a distribution was computed from (:mod:`pyrogen.programs.dependence`), but they are lost
where a value leaves torch. So each independence that they claim is tried: the values of all sites that a site is said
not to depend on are changed, and nothing may change in it, be it its ``log_prob`` or its value on the same noise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from pyrogen.numerics.randomness import seeded
from pyrogen.programs.dependence import Dependence, Draw, Origin, dependence
from pyrogen.programs.run import Given, Program
from pyrogen.programs.site import Site

from .provenance import marks_held
from .runs import FailedRun, Runs, succeeding
from .signature import are_close, signature

_SEED = 1


def dependence_of(runs: Runs, sites: Mapping[str, Site]) -> Dependence:
    """Which sites of a program depend on which, where its observed sites are free.

    Args:
        runs: Runs of it.
        sites: Its statements in one run.
    """
    found = _marked(runs, sites)
    if not found.traced:
        return found
    names = list(runs.variables)
    parents = dict(found.parents)
    other: dict[str, Tensor] | None = None
    for place, name in enumerate(names):
        before = {each for each in names[:place] if not sites[each].computed}
        unrelated = before - parents[name]
        if unrelated:
            other = other or succeeding(lambda: runs.one({}, names))
            trial = _Trial(runs, sites, other, name, before)
            if trial.depends(unrelated):
                alone = {each for each in unrelated if trial.depends({each})}
                parents[name] |= alone or unrelated
    return replace(found, parents=parents)


def _marked(runs: Runs, sites: Mapping[str, Site]) -> Dependence:
    """What marks show; sites without a ``log_prob`` by the tensors that their distributions hold."""

    def freed(*args: Any, **kwargs: Any) -> Any:
        with Given({}, free=True):
            return runs.program(*args, **kwargs)

    silent = [name for name, site in sites.items() if not site.computed and site.log_prob_if_any() is None]
    draws: dict[str, Draw] = {name: _giving(sites[name].value) for name in silent}
    origins: dict[str, Origin] = dict.fromkeys(silent, marks_held)
    try:
        return succeeding(lambda: _marking(freed, runs, draws, origins))
    except FailedRun:
        return _in_order(runs, sites)


def _marking(program: Program, runs: Runs, draws: Mapping[str, Draw], origins: Mapping[str, Origin]) -> Dependence:
    try:
        return dependence(program, runs.args, runs.kwargs, draws=draws, origins=origins)
    except Exception as error:  # of a simulator that fails now and then, or of a program that takes no marked values
        raise FailedRun("with marked values", error, {}) from error


def _in_order(runs: Runs, sites: Mapping[str, Site]) -> Dependence:
    """Every statement depends on all sites before it."""
    parents: dict[str, frozenset[str]] = {}
    drawn: dict[str, Site] = {}
    for name in runs.variables:
        parents[name] = frozenset(drawn)
        if not sites[name].computed:
            drawn[name] = sites[name]
    return Dependence(drawn, parents, {}, traced=False)


def _giving(value: Tensor) -> Draw:
    return lambda distribution: value


class _Trial:
    """Changes what a site is said not to depend on."""

    def __init__(
        self, runs: Runs, sites: Mapping[str, Site], other: Mapping[str, Tensor], name: str, before: Collection[str]
    ) -> None:
        self.runs, self.sites, self.other, self.name, self.before = runs, sites, other, name, before
        self.first = self._seen({})

    def depends(self, names: Collection[str]) -> bool:
        """Whether anything changes with the values of these sites; yes, if it cannot be tried."""
        changed = self._seen({name: self.other[name] for name in names})
        if self.first is None or changed is None:
            return True
        return not all(map(are_close, self.first, changed))

    def _seen(self, changed: Mapping[str, Tensor]) -> list[Tensor] | None:
        given = {name: changed.get(name, self.sites[name].value) for name in self.before}
        own = self.sites[self.name]
        if not own.computed and own.log_prob_if_any() is not None:
            given[self.name] = own.value
        try:
            with seeded(_SEED):
                site = self.runs.sites_of_one(given, {self.name})[self.name]
        except FailedRun:
            return None
        return [tensor for tensor, _ in signature(site) or ()] if self.name in given else [site.value]
