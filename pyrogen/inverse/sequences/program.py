"""A Pyro program around a site of sequences: its prior, the problems it holds, and the score of whole sequences.

All observed sites are scored, whatever the program computes on the way: a rule may leave tensors, parse a string, call
another library. Other latent sites are drawn by the program itself, with values of their own for every particle: those
that come before the site before its first symbol, so that its prior may depend on them, the rest in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrogen.autoregressive.distribution import AutoregressiveDistribution
from pyrogen.autoregressive.prefixes import require_one_order
from pyrogen.autoregressive.stacked import stacked
from pyrogen.distributions.abilities import abilities_of
from pyrogen.programs.problems import independent_problems
from pyrogen.programs.run import Record, Until, isolated, run

from ..observation import check_data
from ..problem import check_latent, check_plain, check_plates
from ..scores import ParticleMap, log_likelihood, require_mapped


class SequenceProgram:
    """A model with its arguments, seen from the site of sequences; runs the model once.

    Args:
        model: The Pyro model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        site: The latent site whose posterior is wanted.

    Attributes:
        problems: How the site splits into independent problems: not at all where there are other latent sites.
        others: The other latent sites.
        map: How whole sequences are scored.

    Raises:
        ValueError: there is no such latent site; one is masked or scaled; nothing is observed, or data are missing,
            impossible or of another shape.
        NotImplementedError: the distribution at the site is not autoregressive, or in several orders or random ones.
    """

    def __init__(self, model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str) -> None:
        self.model, self.args, self.kwargs, self.site = model, args, kwargs, site
        self._sites = run(_Filled(site)(model), args, kwargs).sites
        check_latent(self._sites, site)
        scored = [found for found in self._sites.values() if found.observed]
        if not scored:
            raise ValueError(
                f"`model` must observe a site or hold a factor, got latent sites {sorted(self._sites)} only"
            )
        for found in scored:
            check_data(found, support=False)
            check_plates(found)
        self.others = tuple(name for name, found in self._sites.items() if not found.observed and name != site)
        for name in (site, *self.others):  # all are drawn as the program draws them
            check_plain(self._sites[name])
        self._before = set(self.others).intersection(list(self._sites)[: list(self._sites).index(site)])
        problems = independent_problems(self._sites[site], scored)
        self.problems = replace(problems, dims=()) if self.others else problems
        self.map = ParticleMap()

    def start(self, particles: int) -> tuple[AutoregressiveDistribution, dict[str, Tensor]]:
        """The prior of so many particles, ``(P N M,)``, and values ``(P, ...)`` of latent sites before the site."""
        prior, values = _prior(self._sites[self.site].distribution), {}
        batch = prior.batch_shape
        if self._before:
            starts = [self._start() for _ in range(particles)]
            prior = stacked([prior for prior, _ in starts])
            values = {name: torch.stack([found[name] for _, found in starts]) for name in self._before}
        flat = self._index(batch).flatten()  # which row of a batch each sequence of each problem is
        rows = torch.arange(particles, device=flat.device).unsqueeze(1) * len(flat) + flat
        return prior.expand((particles, *batch)).select(rows.flatten()), values

    def shape(self, particles: int) -> tuple[int, int, int]:
        """How many particles, problems, and sequences of a problem there are."""
        return particles, *self._index(_prior(self._sites[self.site].distribution).batch_shape).shape

    def values(self, sequences: Tensor) -> Tensor:
        """Values of the site, ``(P, *shape)``, from sequences ``(P, N, M, L, *symbol)``."""
        events = _prior(self._sites[self.site].distribution).layout.unflatten(sequences)
        return self.problems.whole(events.flatten(2))

    def score(self, values: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The log-likelihood of particles ``(P, N)``, and values of the latent sites that are drawn in the end."""
        return self.map(self._score, dict(values))

    def _score(self, values: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        sites = run(self.model, self.args, self.kwargs, given=values, validate=False).sites
        scores = {name: log_likelihood([found], self.problems) for name, found in sites.items() if found.observed}
        for name, score in scores.items():
            require_mapped(score, name)
        return sum(scores.values()).double(), {name: sites[name].value for name in self.others if name not in values}

    def _start(self) -> tuple[AutoregressiveDistribution, dict[str, Tensor]]:
        """A run of the model up to the site: its prior there, and the values of latent sites before."""
        with isolated(), Record() as record, _Filled(self.site), Until([self.site]):
            self.model(*self.args, **self.kwargs)
        sites = {found.name: found for found in record.sites}
        return _prior(sites[self.site].distribution), {name: sites[name].value for name in self._before}

    def _index(self, batch: torch.Size) -> Tensor:
        """Which row of the flattened batch of the prior each sequence of each problem is, ``(N, M)``."""
        device = self._sites[self.site].value.device
        extra = len(batch) - len(self.problems.batch_shape)
        return self.problems.rows(torch.arange(batch.numel(), device=device).reshape(batch), extra)


class _Filled(Messenger):
    """Gives the site a value of its support instead of a draw, which would take as long as a particle."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == self.site and not msg["is_observed"]:
            msg["value"], msg["done"] = _prior(msg["fn"]).filler(), True


def _prior(distribution: TorchDistribution) -> AutoregressiveDistribution:
    """The autoregressive distribution that a distribution is or wraps, with a batch of all its sequences."""
    prior = abilities_of(distribution)
    require_one_order(prior)
    shape = distribution.shape()
    return prior.expand(shape[: len(shape) - len(prior.event_shape)])
