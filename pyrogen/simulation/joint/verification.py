"""Whether many simulations of a program may run at once: tested, never assumed.

A program that indexes ``theta[0]`` or sums over everything may run under one more plate and give something else. So a
few simulations run at once, and are compared with runs of single ones that are given the same values:

- every site must have the same ``log_prob`` in its row as it has alone; a simulator the same arguments. So it must
  have among hundreds, where what is rare happens in some, and also after the values of every other one are changed;
- a site that has neither, that a simulator draws many of at once, or that depends on noise that the program draws
  outside of its sites, runs again on the same noise
  while the values of all other simulations are changed, and nothing may change in its row; with the same values in all
  rows it must differ from row to row, if it is random;
- where it does change, as the noise of samplers by rejection does (binomial, gamma), its law in a row must be that of
  single runs, as far as sixty runs show;
- noise that the program draws outside of its sites must have a row for each simulation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyrogen.numerics.randomness import seeded
from pyrogen.programs.layouts import LayoutMismatch
from pyrogen.programs.run import Program
from pyrogen.programs.site import Site

from .drawing import FailedSimulations
from .reading import JointSites
from .runs import FailedRun, Values, succeeding
from .signature import are_close, signature, signatures, simulator_of
from .trials import many_values
from .variable import rows_of

_TRIES = 3
"""Runs until one succeeds."""
_RUNS, _ROWS = 60, 300
"""Samples that show a law: single runs, and simulations at once."""
_FAR = 2.7
"""Distance of two distribution functions, by that expected, from which on laws differ: by chance once in a million."""
_TRIALS = 8
"""Changes of the values of other simulations: one loop for all, until the last is done, often changes nothing."""


def obstacle_to_many(reading: JointSites) -> str | None:
    """Why simulations have to run one by one; ``None`` where many may run at once."""
    count = _count(reading)
    noise = _NoiseOutside(count)
    try:
        runs = replace(reading.runs, program=noise.watching(reading.runs.program))
        sites = succeeding(lambda: runs.sites_together(count, {}, runs.variables), _TRIES)
        if noise.shape is not None:
            return f"it draws noise of shape {noise.shape} outside of its sites, the same for {count} simulations"
        return _Comparison(reading, count, sites).differing()
    except (FailedRun, FailedSimulations) as failed:
        return f"it raises an exception {failed}"
    except LayoutMismatch as mismatch:
        return str(mismatch)
    except ValueError as error:
        return str(error)


def _count(reading: JointSites) -> int:
    """A number of simulations that no dimension of a site has."""
    sizes = {size for variable in reading.runs.variables.values() for size in variable.shape}
    return next(count for count in itertools.count(5, 2) if count not in sizes)


class _Comparison:
    def __init__(self, reading: JointSites, count: int, sites: Mapping[str, Site]) -> None:
        self.reading, self.runs, self.count, self.sites = reading, reading.runs, count, sites
        self.values = {name: self._rows(name, site.value) for name, site in sites.items()}
        self.places = sorted({0, count // 2, count - 1})

    def differing(self) -> str | None:
        """What differs from single runs."""
        unsure = [name for name, site in self.sites.items() if signature(site) is None or _draws_many(site)]
        unsure += self._noisy([name for name in self.sites if name not in unsure])
        sure = [name for name in self.sites if name not in unsure]
        for place in self.places if sure else ():
            given = {name: self.values[name][place] for name in sure}
            alone = self.runs.sites_of_one(given, sure)
            for name in sure:
                if not self._is_root(name) and not _agrees(self.sites[name], alone[name], place, self.count):
                    return _another_distribution(name)
        return self._differing_rarely(sure) or (self._mixing(sure, unsure) if unsure else None)

    def _differing_rarely(self, sure: list[str]) -> str | None:
        """What differs where simulations are so many that what is rare happens in some."""
        names = [name for name in self.values if not self.sites[name].computed]
        data = {name: self.values[name] for name in names if name in self.reading.observed}
        values, other = (many_values(self.runs, names, data, together=True, seed=seed) for seed in (0, 1))
        count = min(len(values[names[0]]), len(other[names[0]]))
        values = {name: each[:count] for name, each in values.items()}
        changed = {name: each[:count].clone() for name, each in other.items()}
        for name, each in changed.items():
            each[::2] = values[name][::2]
        told = [*sure, *(name for name in self.sites if self.sites[name].computed)]

        def seen(given: Values, seed: int) -> dict[str, Site]:
            with seeded(seed):
                return self.runs.sites_together(count, given, told)

        before, after, again = seen(values, 0), seen(changed, 0), seen(values, 1)
        told = [name for name in told if name in sure or _agree(_told(before[name]), _told(again[name]))]
        for name in told:
            if not _agree(_every_other(_told(before[name])), _every_other(_told(after[name]))):
                return _another_distribution(name)
        for place in (0, count // 2, count - 1):
            alone = self.runs.sites_of_one({name: each[place] for name, each in values.items()}, told)
            for name in told:
                if not self._is_root(name) and not _agrees(before[name], alone[name], place, count):
                    return _another_distribution(name)
        return None

    def _noisy(self, names: list[str]) -> list[str]:
        """Sites whose distribution depends on noise beside the values of sites."""
        if not names:
            return []
        given = {name: self.values[name][0] for name in names}
        once, again = (signatures(self.runs.sites_of_one(given, names)) for _ in range(2))
        return [name for name in names if not _agree(once[name], again[name])]

    def _rows(self, name: str, value: Tensor) -> Tensor:
        try:
            return self.runs.variables[name].rows(value, self.count)
        except LayoutMismatch as mismatch:
            raise LayoutMismatch(f"site {name!r} has {mismatch}") from None

    def _is_root(self, name: str) -> bool:
        """Whether a site depends on nothing, so that its plate alone makes its rows independent."""
        return self.reading.dependence.traced and not self.reading.dependence.parents[name]

    def _mixing(self, sure: list[str], unsure: list[str]) -> str | None:
        """Whether rows of sites that nothing tells share values or noise."""
        kept = {name: self.values[name] for name in sure}
        seed = self._seed_of_success(kept, unsure)
        first, again = self._on_noise(kept, unsure, seed), self._on_noise(kept, unsure, seed)
        if not all(are_close(first[name], again[name]) for name in unsure):
            return f"the noise of {unsure} follows no seed of torch, NumPy or Python, so that it cannot be tried"
        of_same_law: set[str] = set()
        for trial in range(_TRIALS):
            stay = slice(trial % 2, None, 2)
            seen = succeeding(lambda stay=stay: self._on_noise(self._others_changed(kept, stay), unsure, seed))
            for name in unsure:
                if name not in of_same_law and not are_close(first[name][stay], seen[name][stay]):
                    if self._differs_in_law(kept, unsure, name):
                        return f"site {name!r} changes in one simulation with the values of others"
                    of_same_law.add(name)
        same = {name: value[:1].expand_as(value) for name, value in kept.items()}
        one = self._on_noise(same, unsure, self._seed_of_success(same, unsure))
        two = self._on_noise(same, unsure, self._seed_of_success(same, unsure, seed + 1))
        for name in unsure:
            shared = (one[name] == one[name][:1]).all(0) & (one[name] != two[name]).all(0)
            if bool(shared.any()):
                return _same_noise(name)
        return self._same_noise_within(unsure, seed)

    def _same_noise_within(self, unsure: list[str], seed: int) -> str | None:
        """Whether the distribution of a site moves with noise that is the same in all simulations."""
        told = [
            name for name in unsure if signature(self.sites[name]) is not None and not _draws_many(self.sites[name])
        ]
        if not told:
            return None
        same = {name: value[:1].expand_as(value) for name, value in self.values.items()}
        seen = []
        for each in (seed, seed + 1):
            with seeded(each):
                seen.append(signatures(self.runs.sites_together(self.count, same, told)))
        for name in told:
            for (one, _), (two, _) in zip(seen[0][name], seen[1][name], strict=True):
                if bool((one == one[:1]).all() & (one != two).any()):
                    return _same_noise(name)
        return None

    def _differs_in_law(self, kept: Values, unsure: list[str], name: str) -> bool:
        """Whether a site has another law in one of many simulations than alone, or than among others."""

        def drawn(given: Values) -> Tensor:
            return succeeding(lambda: self.runs.together(rows, given, unsure))[name]

        rows = 2 * _ROWS + 1
        for place in range(self.count):
            own = {site: value[place] for site, value in kept.items()}
            alike = drawn({site: value.expand(rows, *value.shape) for site, value in own.items()})
            if place == 0:
                single = [succeeding(lambda own=own: self.runs.one(own, unsure))[name] for _ in range(_RUNS)]
                if _differ(alike, torch.stack(single)):
                    return True
            among = succeeding(lambda: self.runs.together(rows, {}, kept))
            for site, value in own.items():
                among[site][1::2] = value
            if _differ(drawn(among)[1::2], alike):
                return True
        return False

    def _others_changed(self, kept: Values, stay: slice) -> Values:
        changed = self.runs.together(self.count, {}, kept)
        for name, value in kept.items():
            changed[name][stay] = value[stay]
        return changed

    def _seed_of_success(self, given: Values, wanted: list[str], seed: int = 0) -> int:
        """The first seed, from one on, with which the program does not fail."""
        seeds = itertools.count(seed)

        def attempt() -> int:
            self._on_noise(given, wanted, found := next(seeds))
            return found

        return succeeding(attempt)

    def _on_noise(self, given: Mapping[str, Tensor], wanted: list[str], seed: int) -> Values:
        with seeded(seed):
            return self.runs.together(self.count, given, wanted)


def _draws_many(site: Site) -> bool:
    """Whether a function draws many simulations at once, which it might mix."""
    simulator = simulator_of(site)
    return simulator is not None and simulator.batched


def _agrees(many: Site, alone: Site, place: int, count: int) -> bool:
    """Whether a site has the distribution in a row of so many simulations that it has alone."""
    together, single = _told(many), _told(alone)
    if together is None or single is None or len(together) != len(single):
        return False
    return all(
        are_close(rows_of(rows, count, one.shape)[place], one)
        for (rows, _), (one, _) in zip(together, single, strict=True)
    )


def _told(site: Site) -> list[tuple[Tensor, int]] | None:
    """What tells a site from others; of a computed one without noise its value."""
    return [(site.value, 0)] if site.computed else signature(site)


def _every_other(told: list[tuple[Tensor, int]] | None) -> list[tuple[Tensor, int]] | None:
    return None if told is None else [(tensor[::2], place) for tensor, place in told]


def _another_distribution(name: str) -> str:
    return f"site {name!r} has another distribution in many simulations at once than in one"


def _same_noise(name: str) -> str:
    return f"site {name!r} has the same noise in all simulations"


def _agree(first: list[tuple[Tensor, int]] | None, second: list[tuple[Tensor, int]] | None) -> bool:
    if first is None or second is None or len(first) != len(second):
        return first is second
    return all(are_close(one, other) for (one, _), (other, _) in zip(first, second, strict=True))


def _differ(first: Tensor, second: Tensor) -> bool:
    """Whether two samples, rows first, have different laws in an element (Kolmogorov and Smirnov)."""
    first, second = (part.double().reshape(len(part), -1) for part in (first, second))
    far = _FAR * (1 / len(first) + 1 / len(second)) ** 0.5
    gaps = ((first <= point).double().mean(0) - (second <= point).double().mean(0) for point in second)
    return any(bool((gap.abs() > far).any()) for gap in gaps)


class _NoiseOutside(Messenger):
    """Sees noise that a program draws outside of its sites without a row for each simulation.

    Attributes:
        shape: That of the first such noise; ``None`` if there was none.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.shape: tuple[int, ...] | None = None
        self._inside = False

    def watching(self, program: Program) -> Program:
        """The program, watched."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self, _Operations(self._see):
                return program(*args, **kwargs)

        return watched

    def _see(self, result: Any) -> None:
        shapes = [tuple(tensor.shape) for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        if not self._inside and any(shape[:1] != (self.count,) for shape in shapes):
            self.shape = self.shape or shapes[0]

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        self._inside = True

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self._inside = False


class _Operations(TorchDispatchMode):
    """Shows the results of torch's random operations."""

    def __init__(self, see: Callable[[Any], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.see(result)
        return result
