r"""Particle Gibbs: other latent sites, updated between filters.

A sweep leaves the joint posterior of the site :math:`x` and the other latent sites invariant:

1. A conditional filter, which keeps the current path as one of its particles, draws a new path of :math:`x`. Its
   evidence :math:`\hat p(y \mid u)` goes with the new path.
2. Each *upstream* site :math:`u` (a label on which the prior depends) is proposed anew, from its own prior or by a
   random walk, a fresh filter runs, and the move is accepted with probability :math:`\min\{1, \hat p(y \mid u') q' /
   \hat p(y \mid u) q\}` (particle marginal Metropolis-Hastings); its path then takes the place of the old one. The
   density of the diffusion, of which only a bound is known, does not enter.
3. Each *downstream* site (a noise scale, a kernel, what lies between :math:`x` and the data) is drawn given :math:`x`:
   number by number by slice sampling in unconstrained coordinates, or by enumeration if it is discrete. Those that
   depend on :math:`x` directly are part of its likelihood in the filters.

References:
    Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo methods",
    https://doi.org/10.1111/j.1467-9868.2009.00736.x
    Neal 2003, "Slice sampling", https://doi.org/10.1214/aos/1056562461
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import biject_to

from pyrogen.programs.site import Site

from .answer import Results
from .filter import Cloud, Filter
from .observation import observed
from .particle_diagnostics import diagnostics_of
from .problem import InverseProblem

_WIDTH = 1.0  # of the first slice, in unconstrained coordinates
_STEPS_OUT = 20


class Sweeps:
    """Particle Gibbs over the site and the other latent sites of a model.

    Args:
        problem: The model and its sites.
        run_filter: The filter.
        sweeps: How many sweeps to keep.
        warmup: How many to drop before.
    """

    def __init__(self, problem: InverseProblem, run_filter: Filter, sweeps: int, warmup: int) -> None:
        self.problem, self.filter, self.sweeps, self.warmup = problem, run_filter, sweeps, warmup
        self.values = dict(problem.values)
        self.steps = dict.fromkeys(problem.upstream, 1.0)
        self.accepted = {name: [] for name in problem.upstream}

    def __call__(self) -> Results:
        """Runs all sweeps: the draws of all sites, one of each sweep, and what happened."""
        cloud = self._filter(self.values, None)
        self.path, self.log_evidence = cloud.path, cloud.log_evidence
        kept, evidences = [], []
        for sweep in range(-self.warmup, self.sweeps):
            self._take(self._filter(self.values, self.path))
            for name in self.problem.upstream:
                self._propose(name, adapt=sweep < 0)
            for name in self.problem.downstream:
                self.values[name] = self._draw(name)
            if sweep >= 0:
                kept.append(dict(self.values))
                evidences.append(self.log_evidence)
        acceptance = {name: sum(flags[-self.sweeps :]) / self.sweeps for name, flags in self.accepted.items()}
        names = (self.problem.site, *self.problem.others)
        evidence = {"log_evidence": torch.stack(evidences), "acceptance": acceptance}
        return Results(
            {name: torch.stack([values[name] for values in kept]) for name in names},
            diagnostics_of(self.cloud, self.target, self.filter.twist, **evidence),
            log_weights=torch.zeros(len(kept)),
        )

    def _filter(self, values: dict[str, Tensor], retained: Tensor | None) -> Cloud:
        self.target = self.problem.target(values)
        return self.filter(self.target, values[self.problem.site], retained=retained, trace=True)

    @torch.no_grad()
    def _sites(self, values: dict[str, Tensor]) -> dict[str, Site]:
        """The sites of a run of the model with all latent sites given."""
        return self.problem.sites(values)

    def _take(self, cloud: Cloud) -> None:
        """The path of a filter becomes the current one."""
        self.cloud, self.path, self.log_evidence = cloud, cloud.path, cloud.log_evidence
        self.values[self.problem.site] = self.problem.problems.whole(cloud.path[-1])

    def _propose(self, name: str, *, adapt: bool) -> None:
        """Particle marginal Metropolis-Hastings for one upstream site."""
        fn = self._sites(self.values)[name].distribution
        proposed = {**self.values, name: self._candidate(fn, name)}
        cloud = self._filter(proposed, None)
        proposed[self.problem.site] = self.problem.problems.whole(cloud.path[-1])
        now, then = self._log_joint(self.values, name), self._log_joint(proposed, name)
        # A draw from the site's own prior cancels that prior; a random walk is symmetric in unconstrained coordinates.
        gained = cloud.log_evidence.sum() - self.log_evidence.sum() + then - now
        accept = bool(torch.rand(()).log() < gained)
        if accept:
            self.values = proposed
            self._take(cloud)
        self.accepted[name].append(float(accept))
        if adapt:
            self.steps[name] *= math.exp(0.3 * (accept - 0.3))

    def _candidate(self, fn: Any, name: str) -> Tensor:
        if _discrete(fn):
            return fn.sample()
        transform = biject_to(fn.support)
        free = transform.inv(self.values[name])
        return transform(free + self.steps[name] * torch.randn_like(free))

    def _log_joint(self, values: dict[str, Tensor], name: str) -> Tensor:
        """The log-probability of all sites but the diffusion and what is scored given it, which is in the evidence.

        A discrete site that was drawn from its own prior is left out as well.
        """
        sites = self._sites(values)
        own = sites[name].distribution
        left_out = {self.problem.site, *self.problem.scored} | ({name} if _discrete(own) else set())
        total = self._total(other for other in sites.values() if other.name not in left_out)
        return total if _discrete(own) else total + _volume(own, values[name])

    def _total(self, sites: Iterable[Site]) -> Tensor:
        """The log-probability of those of the sites that are observed or updated."""
        counted = [site for site in sites if site.observed or site.name in self.problem.others]
        with pyro.validation_enabled(False):
            return sum((_log_prob(site).sum() for site in counted), torch.zeros(()))

    def _draw(self, name: str) -> Tensor:
        """One downstream site given everything else."""
        fn = self._sites(self.values)[name].distribution
        if _discrete(fn):
            return self._enumerate(name, fn)
        transform, value = biject_to(fn.support), self.values[name]
        free = transform.inv(value).detach()

        def log_density(point: Tensor) -> float:
            candidate = transform(point)
            volume = _volume(fn, candidate)
            return (self._conditional({**self.values, name: candidate}) + volume).item()

        for index in range(free.numel()):
            free = slice_sample(log_density, free, index)
        return transform(free)

    def _enumerate(self, name: str, fn: Any) -> Tensor:
        """Number by number: each value of the support, weighed by the joint log-probability."""
        support = fn.enumerate_support(expand=False)
        options = support.reshape(len(support), *support.shape[support.dim() - fn.event_dim :])
        value = self.values[name].clone()
        places = value.reshape(-1, *fn.event_shape)
        for index in range(len(places)):
            scores = []
            for option in options:
                places[index] = option
                scores.append(self._conditional({**self.values, name: value.clone()}))
            places[index] = options[torch.distributions.Categorical(logits=torch.stack(scores)).sample()]
        return value

    def _conditional(self, values: dict[str, Tensor]) -> Tensor:
        """The joint log-probability of all sites but the diffusion."""
        return self._total(self._sites(values).values()).nan_to_num(-torch.inf, torch.inf, -torch.inf)


def slice_sample(log_density: Callable[[Tensor], float], point: Tensor, index: int) -> Tensor:
    """One coordinate of a point by slice sampling with stepping out and shrinkage (Neal 2003, figures 3 and 5).

    Args:
        log_density: Unnormalized, in nats.
        point: The current point.
        index: The coordinate, counted over the flattened point.
    """

    def moved(shift: float) -> Tensor:
        result = point.clone()
        result.view(-1)[index] += shift
        return result

    height = log_density(point) + torch.rand(()).log().item()
    left = -_WIDTH * torch.rand(()).item()
    right = left + _WIDTH
    left_steps = int(_STEPS_OUT * torch.rand(()).item())
    for _ in range(left_steps):
        if log_density(moved(left)) <= height:
            break
        left -= _WIDTH
    for _ in range(_STEPS_OUT - 1 - left_steps):
        if log_density(moved(right)) <= height:
            break
        right += _WIDTH
    while right - left > 1e-9:
        shift = left + (right - left) * torch.rand(()).item()
        if log_density(moved(shift)) > height:
            return moved(shift)
        left, right = (shift, right) if shift < 0 else (left, shift)
    return point


def _discrete(fn: Any) -> bool:
    return bool(fn.support.is_discrete)


def _log_prob(site: Site) -> Tensor:
    found = observed(site)
    return found.log_prob() * found.weight


def _volume(fn: Any, value: Tensor) -> Tensor:
    """The log-determinant from unconstrained coordinates to values."""
    transform = biject_to(fn.support)
    free = transform.inv(value)
    return transform.log_abs_det_jacobian(free, value).sum()
