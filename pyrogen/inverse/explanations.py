"""Explanations: values of the discrete sites of a Pyro model, and a search from one to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.supports import contains, element_of
from pyrogen.programs.run import run
from pyrogen.programs.site import Site

from .answer import Answer

_DRAWN = 64  # of the prior, where no values to start from are given
_POINTS = 16  # that a method starts from, at most

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Explanation:
    """Values of the discrete sites, and what follows from them.

    Attributes:
        values: Of the discrete sites, by name.
        log_joint: The log-probability of these and of the data, in nats.
        answer: The posterior of the other sites, given these.
    """

    values: Values
    log_joint: float
    answer: Answer = field(repr=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the other sites, by name."""
        return {name: tuple(value.shape[1:]) for name, value in self.answer.get_samples().items()}

    @property
    def draws(self) -> Values:
        """Of all sites, by name."""
        others = self.answer.get_samples()
        count = len(next(iter(others.values())))
        return {name: value.expand(count, *value.shape) for name, value in self.values.items()} | others

    @property
    def log_weights(self) -> Tensor:
        """Of its draws among those of all explanations."""
        count, weights = len(next(iter(self.answer.get_samples().values()))), self.answer.log_weights
        weights = torch.zeros(count) if weights is None else weights
        return self.log_joint + weights.double().log_softmax(0)


class Search:
    """The explanations found so far, and where to look next.

    Args:
        model: The Pyro model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        method: What gives the posterior of an explanation.
        sites: The sites that are searched, all discrete latent ones if ``None``.
        neighbours: Values of sites to begin from, for each explanation next to one, from draws of that; those that
            differ in one number if ``None``.

    Attributes:
        found: The explanations that were tried, in this order.
        failed: Values of the discrete sites at which the method failed, with its errors, in this order.

    Raises:
        ValueError: the model has no such sites.
    """

    def __init__(
        self,
        model: Callable,
        args: tuple,
        kwargs: Mapping[str, Any],
        method: Callable[..., Answer],
        sites: Sequence[str] | None,
        neighbours: Callable[[Values], Iterable[Values]] | None,
    ) -> None:
        self.model, self.args, self.kwargs, self.method = model, args, kwargs, method
        self._neighbours = neighbours or self._in_one_number
        self.found: list[Explanation] = []
        self.failed: list[tuple[Values, Exception]] = []
        self._met: dict[tuple, int | None] = {}  # the place among those found, none where there is no answer
        self._loose: set[int] = set()  # places of answers that no answer next to them was the beginning of
        self._around: set[int] = set()  # places that were looked around
        latent = {name: site for name, site in self._run({}).items() if site.kind == "latent"}
        discrete = [name for name, site in latent.items() if site.support.is_discrete and not site.is_point]
        self.sites = discrete if sites is None else list(sites)
        if not self.sites or set(self.sites) - set(discrete):
            wanted = f"have the discrete latent sites {self.sites}" if self.sites else "have a discrete latent site"
            raise ValueError(f"`model` must {wanted}, got {discrete} among {list(latent)}")
        self.continuous = [name for name, site in latent.items() if name not in discrete and not site.is_point]
        self.shapes = {name: latent[name].value.shape for name in self.sites}

    def begin(self, initial: Mapping[str, Tensor] | None, most: int) -> None:
        """Tries the explanations that are most frequent in given values, or in draws of the prior.

        Raises:
            ValueError: the values are not those of the sites, or none is possible.
        """
        if initial is None:
            drawn = [self._run({}) for _ in range(_DRAWN)]
            initial = {name: torch.stack([sites[name].value for sites in drawn]) for name in self.sites}
        self._check(initial, "`initial`")
        rows: dict[tuple, list[int]] = {}
        for row in range(len(initial[self.sites[0]])):
            rows.setdefault(_key({name: initial[name][row] for name in self.sites}), []).append(row)
        continuous = [name for name in self.continuous if name in initial]
        for places in sorted(rows.values(), key=len, reverse=True):
            if len(self.found) >= most:
                break
            points = {name: initial[name][places[:_POINTS]] for name in continuous}
            self._explain({name: initial[name][places[0]] for name in self.sites}, points)
        self._loose = set(range(len(self.found)))
        if self.failed and not self.found:
            raise self.failed[0][1]
        if not self.found:
            raise ValueError(f"`initial` must hold values of {self.sites} that are possible, got none")

    def _explain(self, values: Values, initial: Values) -> None:
        """Tries an explanation, unless it was met before or is impossible; the search survives if the method fails.

        One that the search began from is tried once more, from what was found next to it, and keeps the answer of the
        greater evidence: a method that follows one mode may have ended in a lesser one.
        """
        key = _key(values)
        place = self._met.get(key, len(self.found))
        if place is None or (place < len(self.found) and not (initial and place in self._loose)):
            return
        found = self._tried(values, initial)
        if place < len(self.found):
            self._loose.discard(place)
            if found and found.log_joint > self.found[place].log_joint:
                self.found[place] = found
                self._around.discard(place)
            return
        self._met[key] = place if found else None
        if found:
            self.found.append(found)

    def _tried(self, values: Values, initial: Values) -> Explanation | None:
        """The answer of an explanation; none where it is impossible or the method fails."""
        statements = self._run(values)
        if not all(_is_possible(statements[name]) for name in self.sites):
            return None
        model = poutine.condition(self.model, data=values)
        method = partial(self.method, initial=initial) if initial else self.method
        try:
            answer = method(model).run(*self.args, **self.kwargs)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            self.failed.append((values, error))
            return None
        found = Explanation(values, float(answer.log_evidence), answer)
        if self.found and self.found[0].shapes != found.shapes:
            raise ValueError(
                f"`model` must have the same latent sites given {self.found[0].values} and {values}, got "
                f"{self.found[0].shapes} and {found.shapes}"
            )
        return found

    def next(self, odds: float) -> int | None:
        """The place of the most probable explanation in the window that has not been looked around."""
        least = max(found.log_joint for found in self.found) - math.log(odds)
        waiting = [
            place for place, found in enumerate(self.found) if place not in self._around and found.log_joint >= least
        ]
        return max(waiting, key=lambda place: self.found[place].log_joint, default=None)

    def look_around(self, place: int, most: int) -> None:
        """Tries what is next to an explanation, until so many have been tried."""
        draws = self.found[place].draws
        points = {name: draws[name][:_POINTS] for name in (*self.sites, *self.continuous)}
        for near in self._neighbours(points):
            if len(self.found) >= most:
                return
            self._check(near, "what `neighbours` gives")
            continuous = {name: near[name] for name in self.continuous if name in near}
            self._explain({name: near[name][0] for name in self.sites}, continuous)
        self._around.add(place)

    def _in_one_number(self, points: Values) -> Iterator[Values]:
        """Values that differ in one number of a discrete site."""
        statements = self._run({name: points[name][0] for name in self.sites})
        for name in self.sites:
            for place, options in enumerate(_options(statements[name])):
                for option in options:
                    changed = points[name].reshape(len(points[name]), -1).clone()
                    changed[:, place] = option
                    yield {**points, name: changed.reshape(points[name].shape)}

    def _check(self, initial: Mapping[str, Tensor], what: str) -> None:
        counts = {name: len(value) for name, value in initial.items() if name in (*self.sites, *self.continuous)}
        found = {name: tuple(initial[name].shape[1:]) for name in self.sites if name in initial}
        wanted = {name: tuple(shape) for name, shape in self.shapes.items()}
        if found != wanted or len(set(counts.values())) > 1:
            raise ValueError(
                f"{what} must hold equally many values of the sites {wanted}, got {found} and numbers {counts}"
            )

    def _run(self, values: Values) -> dict[str, Site]:
        with torch.no_grad():
            return run(self.model, self.args, self.kwargs, given=values, validate=False).sites


def _key(values: Values) -> tuple:
    return tuple((name, *value.flatten().tolist()) for name, value in values.items())


def _is_possible(site: Site) -> bool:
    return bool(contains(site.support, site.value).all()) and bool(site.log_prob().sum() > -math.inf)


def _options(site: Site) -> list[list[int]]:
    """What each number of a site could be instead: all in its range, or where that has no end, the next ones."""
    support, now = element_of(site.support), site.value
    if isinstance(support, type(constraints.boolean)):
        low, high = torch.zeros_like(now), torch.ones_like(now)
    elif isinstance(support, constraints.integer_interval):
        low, high = (torch.as_tensor(end).expand(now.shape) for end in (support.lower_bound, support.upper_bound))
    elif isinstance(support, type(constraints.nonnegative_integer)):
        low, high = (now - 1).clamp(min=support.lower_bound), now + 1
    else:
        raise NotImplementedError(
            f"values of the site {site.name!r} cannot be searched, since they are no integers in a range, but in "
            f"{site.support}; write it as integers, or leave it out of `sites`"
        )
    ranges = zip(*(end.flatten().long().tolist() for end in (low, high, now)), strict=True)
    return [[number for number in range(least, most + 1) if number != here] for least, most, here in ranges]
