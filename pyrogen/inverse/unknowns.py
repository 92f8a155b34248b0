r"""All unknowns of a problem in rows: the numbers of the site, and after them those of other latent sites.

Other latent sites are such as a noise scale or a blur: measurements depend on them, the site does not, nor do they
depend on the site. They are free coordinates (:mod:`~pyrogen.inverse.free_sites`), real numbers of which their values
are functions, so that a row is a point of a space without bounds. With them all is one problem, since they may be
shared by what a plate holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pyrogen.programs.run import run
from pyrogen.programs.site import Site

from .free_sites import FreeSites, transform_of
from .observation import observed
from .problem import InverseProblem
from .target import MeasuredSites


class Unknowns:
    """The unknowns of a problem in rows ``(N, D + k)``.

    Args:
        problem: The model with its arguments.

    Attributes:
        problems: How they split into independent problems: not at all where there are other latent sites.
        target: The prior of the site, and the measurements of a row.
        typical: One row.
        others: How many numbers of other sites there are, :math:`k`.

    Raises:
        NotImplementedError: another latent site is one on which the site depends, depends on the site, or is discrete.
    """

    def __init__(self, problem: InverseProblem) -> None:
        self._problem, self._names = problem, problem.others
        self.problems = replace(problem.problems, dims=()) if self._names else problem.problems
        sites = problem.sites(problem.values)
        self._check(sites)
        free = {name: self._free(sites[name]) for name in self._names}
        self._shapes = {name: value.shape for name, value in free.items()}
        self.others = sum(value.numel() for value in free.values())
        data = self.problems.rows(problem.values[problem.site], len(self.problems.event_shape))
        flat = [value.reshape(1, -1).to(data).expand(len(data), -1) for value in free.values()]
        self.typical = torch.cat([data, *flat], -1)
        scored = [name for name, site in sites.items() if site.observed] if self._names else problem.scored
        likelihood = MeasuredSites(lambda row: self._run(row)[0], tuple(scored), self.problems, self.typical)
        self.target = problem.target(problem.values, likelihood)

    @property
    def data(self) -> dict[str, Tensor]:
        """The observed values by site."""
        return self._problem.data

    def draw(self, count: int) -> Tensor:
        """Draws of the other sites by the model, without its data, ``(count, N, k)``."""
        given = {self._problem.site: self._problem.values[self._problem.site]}
        rows = []
        for _ in range(count if self.others else 0):
            sites = self._problem.sites(given)
            rows.append(torch.cat([self._free(sites[name]).reshape(1, -1) for name in self._names], -1))
        return torch.stack(rows).to(self.typical) if rows else self.typical.new_zeros(count, len(self.typical), 0)

    def by_site(self, rows: Tensor) -> dict[str, Tensor]:
        """The numbers of each site, free coordinates of others, each ``(P, N, ...)``, from rows ``(P, N, D + k)``."""
        sizes = [self.problems.size, *(shape.numel() for shape in self._shapes.values())]
        return dict(zip((self._problem.site, *self._names), rows.split(sizes, -1), strict=True))

    def values(self, rows: Tensor) -> dict[str, Tensor]:
        """The values of all sites, each of shape ``(P, *shape)``, from rows ``(P, N, D + k)``."""
        data = {self._problem.site: self.problems.whole(rows[..., : self.problems.size])}
        return data | (self.target.over_particles(self._others, rows) if self._names else {})

    def log_prior(self, rows: Tensor) -> Tensor:
        """The log-density of the free coordinates of the other sites, ``(P, N)``."""
        return self.target.over_particles(self._log_prior, rows).nan_to_num(-torch.inf, torch.inf, -torch.inf)

    def _check(self, sites: Mapping[str, Site]) -> None:
        problem = self._problem
        reasons = {
            "on which it depends": problem.upstream,
            "that depend on it": [name for name in problem.downstream if name in problem.scored],
            "that are discrete": [name for name in self._names if sites[name].distribution.support.is_discrete],
        }
        for reason, names in reasons.items():
            if names:
                raise NotImplementedError(
                    f"split Gibbs moves of {problem.site!r} do not serve other latent sites {reason}, got "
                    f"{list(names)}; condition on them, or use TwistedSMC"
                )

    @staticmethod
    def _free(site: Site) -> Tensor:
        return transform_of(site.name, site.distribution).inv(site.value)

    def _others(self, row: Tensor) -> dict[str, Tensor]:
        sites, _ = self._run(row)
        return {name: sites[name].value for name in self._names}

    def _log_prior(self, row: Tensor) -> Tensor:
        sites, volumes = self._run(row)
        found = [observed(sites[name]) for name in self._names]
        densities = [(site.log_prob() * site.weight).sum() for site in found]
        return sum(densities + [volume.sum() for volume in volumes.values()]).reshape(1)

    def _run(self, row: Tensor) -> tuple[dict[str, Site], dict[str, Tensor]]:
        """The sites of a run of the model with the unknowns of a row, and log-determinants of other sites."""
        problem = self._problem
        free = FreeSites(self._coordinates(row))

        def model(*args: object, **kwargs: object) -> object:
            with free:
                return problem.model(*args, **kwargs)

        given = {**problem.values, problem.site: self.problems.whole(row[..., : self.problems.size])}
        given = {name: value for name, value in given.items() if name not in self._names}
        return run(model, problem.args, problem.kwargs, given=given, validate=False).sites, free.volumes

    def _coordinates(self, row: Tensor) -> dict[str, Tensor]:
        if not self._names:
            return {}
        parts = row[0, self.problems.size :].split([shape.numel() for shape in self._shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
