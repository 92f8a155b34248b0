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
from pyrogen.programs.run import Given
from pyrogen.programs.site import Site

from .provenance import marks_held
from .runs import FailedRun, Runs
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
            other = other or _other_values(runs, names)
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
    return dependence(freed, runs.args, runs.kwargs, draws=draws, origins=origins)


def _giving(value: Tensor) -> Draw:
    return lambda distribution: value


def _other_values(runs: Runs, names: Collection[str]) -> dict[str, Tensor]:
    for _ in range(20):
        try:
            return runs.one({}, names)
        except FailedRun:
            continue
    return {}


class _Trial:
    """Changes what a site is said not to depend on."""

    def __init__(
        self, runs: Runs, sites: Mapping[str, Site], other: Mapping[str, Tensor], name: str, before: Collection[str]
    ) -> None:
        self.runs, self.sites, self.other, self.name, self.before = runs, sites, other, name, before
        self.first = self._seen({})

    def depends(self, names: Collection[str]) -> bool:
        """Whether anything changes with the values of these sites; yes, if it cannot be tried."""
        changed = self._seen({name: self.other[name] for name in names if name in self.other})
        if self.first is None or changed is None or not self.other:
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
