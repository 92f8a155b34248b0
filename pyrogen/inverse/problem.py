"""Inverse problems: a Pyro model with its arguments, for the latent site whose posterior is to be found.

Latent sites on which the prior of the site depends are *upstream*, its context; those on which measurements depend
without being upstream are *downstream*, such as a noise scale, or what lies between the site and the data. Latent sites
on which no measurement depends are predictions and of no concern.

Given all other latent sites, what depends on the site directly is its likelihood, be it observed or downstream: in a
chain x, z, y the site x is measured through z alone.

The posterior of the site given all others is a :class:`~pyrogen.inverse.target.Target`.
The model runs with all latent sites given, under ``torch.func.vmap`` over particles, so that it is written for one
value as usual: no plate is added, and no dimension moves. A model whose control flow depends on values cannot be
mapped; it runs particle by particle instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import is_identically_one, is_validation_enabled
from pyro.ops.provenance import detach_provenance, get_provenance
from torch import Tensor

from pyrogen.core.provenance import provenance_of
from pyrogen.distributions.abilities import abilities_of
from pyrogen.programs.dependence import dependence
from pyrogen.programs.problems import independent_problems
from pyrogen.programs.run import run
from pyrogen.programs.site import Site

from .observation import check_data, is_hidden, shown_data
from .target import MeasuredSites, Target


class InverseProblem:
    """A model with its arguments, and what stands where in it; runs the model once.

    Args:
        model: The Pyro model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        site: The latent site whose posterior is wanted.

    Attributes:
        upstream: Latent sites on which the site's prior depends.
        downstream: Other latent sites on which a measurement depends.
        scored: Sites that depend on the site directly, and so are scored given it: observed, or in ``downstream``.
        problems: How the site splits into independent problems.
        values: A value of every latent site from one run, the site itself included, and the rows that plates took.

    Raises:
        ValueError: there is no such latent site, or it is masked or scaled; nothing that depends on it is observed, or
            data are missing, impossible or of another shape.
    """

    def __init__(self, model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str) -> None:
        self.model, self.args, self.kwargs, self.site = model, args, kwargs, site
        found = dependence(model, args, kwargs, draws={site: _typical}, origins={site: _origin})
        sites = found.sites
        check_latent(sites, site)
        check_plain(sites[site])
        observed = [name for name in sites if sites[name].observed]
        for name in observed:
            check_data(sites[name], support=is_validation_enabled() and found.traced)
            check_plates(sites[name])
        ancestors = {name: found.ancestors(name) for name in sites}
        if not any(site in ancestors[name] for name in observed):
            raise ValueError(f"`model` must observe a site that depends on {site!r}, got observed sites {observed}")
        latent = [name for name in sites if not sites[name].observed and name != site]
        wanted = frozenset().union(*(ancestors[name] for name in observed))
        self.upstream = tuple(name for name in latent if name in ancestors[site])
        self.downstream = tuple(name for name in latent if name in wanted and name not in self.upstream)
        counted = {*observed, *self.downstream}
        self.scored = tuple(name for name in sites if name in counted and site in found.parents[name])
        self.problems = independent_problems(sites[site], [sites[name] for name in self.scored])
        self.values = {name: sites[name].value for name in (*latent, site)} | found.indices
        self._others = [sites[name] for name in self.others]
        self._observed = [sites[name] for name in observed if sites[name].kind == "observed"]

    @property
    def data(self) -> dict[str, Tensor]:
        """The observed values by site, zero where they are hidden."""
        return {site.name: shown_data(site) for site in self._observed}

    @property
    def others(self) -> tuple[str, ...]:
        """The other latent sites on which data depend."""
        return self.upstream + self.downstream

    def check_plain(self) -> None:
        """Refuses masks and scales around the other latent sites, for methods that start from draws of them."""
        for site in self._others:
            check_plain(site)

    def sites(self, values: Mapping[str, Tensor]) -> dict[str, Site]:
        """The sites of a run of the model with given values of latent sites."""
        return run(self.model, self.args, self.kwargs, given=values, validate=False).sites

    def prior(self, values: Mapping[str, Tensor]) -> TorchDistribution:
        """The distribution at the site, given values of all latent sites."""
        return self.sites(values)[self.site].distribution

    def target(self, values: Mapping[str, Tensor], likelihood: MeasuredSites | None = None) -> Target:
        """The posterior of the site given values of the other sites.

        Args:
            values: Of all latent sites.
            likelihood: What is measured of rows of unknowns; if not given, of those of the site alone.

        Raises:
            ValueError: the prior of the site has no denoiser.
        """
        prior = self.prior(values)
        if not abilities_of(prior).has_denoiser:
            raise ValueError(
                f"`site` must have a distribution with a denoiser, such as Diffusion; {self.site!r} is "
                f"{type(prior).__name__}. Under other priors use NUTS or SVI; under one that is a map of noise, "
                "NoiseMCMC or NoiseVI."
            )
        if prior.support.is_discrete:
            raise ValueError(f"`site` must have a prior over real numbers, got one over integers at {self.site!r}")
        likelihood = likelihood or MeasuredSites(
            lambda row: self.sites({**values, self.site: self.problems.whole(row)}),
            self.scored,
            self.problems,
            self.problems.rows(values[self.site], len(self.problems.event_shape)),
        )
        return Target(abilities_of(prior), likelihood)


def check_latent(sites: Mapping[str, Site], site: str) -> None:
    """Raises a ValueError unless the model has such a latent site."""
    if site not in sites or sites[site].observed:
        state = "it is observed" if site in sites else "there is none"
        raise ValueError(f"`site` must be a latent site of the model, got {site!r}: {state}; sites: {sorted(sites)}")


def check_plain(site: Site) -> None:
    """Refuses a mask or a scale around a latent site, whose density then is not that of what is drawn."""
    if is_hidden(site) or not is_identically_one(site.scale):
        raise ValueError(f"`model` must have no mask and no scale around the latent site {site.name!r}")


def check_plates(site: Site) -> None:
    """Refuses a minibatch: its posterior is not that of the data."""
    for plate in site.plates:
        if plate.rows < plate.size:
            raise ValueError(
                f"`model` must observe all data, got a plate {plate.name!r} with {plate.rows} of {plate.size} rows "
                f"around {site.name!r}; call it with all rows, without a subsample"
            )


def _typical(prior: TorchDistribution) -> Tensor:
    """A value of the prior: its denoised mean at the largest noise, else a draw."""
    diffusion = abilities_of(prior)
    if not diffusion.has_denoiser:
        return prior.sample()
    denoiser = diffusion.denoiser
    parameter = next(iter([*denoiser.parameters(), *denoiser.buffers()]), torch.zeros(()))
    noise = torch.zeros(prior.shape(), dtype=parameter.dtype if parameter.is_floating_point() else None)
    context = detach_provenance(diffusion.context)
    return denoiser(noise.to(parameter.device), torch.ones((), dtype=noise.dtype), context).detach()


def _origin(prior: TorchDistribution) -> frozenset[str]:
    """The sites that the context comes from: a module takes it without marks, and puts them on the distribution."""
    return get_provenance(abilities_of(prior).context) | provenance_of(prior)
