"""Sites: what stands where in a Pyro model, seen from the one whose posterior is wanted.

One run of the model with values that know where they come from finds which sites depend on which. Latent sites of which
the prior depends are *upstream*, its context; those on which measurements depend without being upstream are
*downstream*, such as a noise scale, or what lies between the site and the data. Latent sites on which no measurement
depends are predictions and of no concern.

Given all other latent sites, what depends on the site directly is its likelihood, be it observed or downstream: in a
chain x, z, y the site x is seen through z alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.distributions.util import is_validation_enabled
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrogen.core.origin import provenance_of
from pyrogen.distributions.abilities import abilities_of
from pyrogen.programs.site import Site, is_site, site_of

from .likelihood import sites_given
from .observation import check_data
from .problems import Problems

Links = dict[str, frozenset[str]]


@dataclass(frozen=True)
class Layout:
    """The sites of a model, seen from one latent site.

    Attributes:
        problems: How the site splits into independent problems.
        upstream: Latent sites on which the site's prior depends.
        downstream: Other latent sites on which a measurement depends.
        scored: Sites that depend on the site directly, and so are scored given it: observed, or in ``downstream``.
        values: A value of every latent site from one run, the site itself included, and the rows that plates took.
    """

    problems: Problems
    upstream: tuple[str, ...]
    downstream: tuple[str, ...]
    scored: tuple[str, ...]
    values: dict[str, Tensor]


def prior_of(
    model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str, values: Mapping[str, Tensor]
) -> TorchDistribution:
    """The distribution at the site, given values of all others."""
    return sites_given(model, args, kwargs, values)[site].distribution


def check_latent(sites: Mapping[str, Site], site: str) -> None:
    """Raises a ValueError unless the model has such a latent site."""
    if site not in sites or sites[site].observed:
        state = "it is observed" if site in sites else "there is none"
        raise ValueError(f"`site` must be a latent site of the model, got {site!r}: {state}; sites: {sorted(sites)}")


def look(model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str) -> Layout:
    """Runs the model once and sorts its sites.

    Raises:
        ValueError: there is no such latent site, nothing that depends on it is observed, or data are missing,
            impossible or of another shape.
    """
    validates = is_validation_enabled()
    with torch.no_grad():
        tracker = _run(model, args, kwargs, site)
    sites = tracker.sites
    check_latent(sites, site)
    observed = [name for name in sites if sites[name].observed]
    for name in observed:
        check_data(sites[name], support=validates and tracker.marks)
        _check_plates(sites[name])
    ancestors = {name: _closure(name, tracker.links) for name in sites}
    if not any(site in ancestors[name] for name in observed):
        raise ValueError(f"`model` must observe a site that depends on {site!r}, got observed sites {observed}")
    latent = [name for name in sites if not sites[name].observed and name != site]
    upstream = tuple(name for name in latent if name in ancestors[site])
    wanted = frozenset().union(*(ancestors[name] for name in observed))
    downstream = tuple(name for name in latent if name in wanted and name not in upstream)
    scored = tuple(name for name in sites if site in tracker.links[name] and name in {*observed, *downstream})
    return Layout(
        problems=_problems(sites[site], [sites[name] for name in scored]),
        upstream=upstream,
        downstream=downstream,
        scored=scored,
        values={name: _plain(sites[name].value) for name in (*latent, site)} | tracker.indices,
    )


def _check_plates(site: Site) -> None:
    """Refuses a minibatch: its posterior is not that of the data."""
    for plate in site.plates:
        if plate.rows < plate.size:
            raise ValueError(
                f"`model` must observe all data, got a plate {plate.name!r} with {plate.rows} of {plate.size} rows "
                f"around {site.name!r}; call it with all rows, without a subsample"
            )


class _Tracker(Messenger):
    """Marks every value with the name of its site, and notes which names each distribution carries."""

    marks = True

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.sites: dict[str, Site] = {}
        self.links: Links = {}
        self.indices: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == self.site and msg["value"] is None:
            msg["value"], msg["done"] = _typical(msg["fn"]), True

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self.indices[msg["name"]] = _plain(msg["value"])
        elif is_site(msg):
            self.links[msg["name"]] = self._parents(msg)
            self.sites[msg["name"]] = site_of({**msg, "value": _plain(msg["value"])})
            if not msg["is_observed"]:
                self._mark(msg)

    def _parents(self, msg: dict[str, Any]) -> frozenset[str]:
        if msg["name"] == self.site:
            # A module takes its context without marks, and puts them on the distribution.
            return _origin(abilities_of(msg["fn"]).context) | provenance_of(msg["fn"])
        return _origin(msg["fn"].log_prob(msg["value"])) - {msg["name"]}

    def _mark(self, msg: dict[str, Any]) -> None:
        msg["value"] = track_provenance(_plain(msg["value"]), frozenset({msg["name"]}))


class _Ordered(_Tracker):
    """The same without marks: every site is taken to depend on all before it."""

    marks = False

    def _parents(self, msg: dict[str, Any]) -> frozenset[str]:
        return frozenset(name for name, site in self.sites.items() if not site.observed)

    def _mark(self, msg: dict[str, Any]) -> None:
        pass


def _run(model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str) -> _Tracker:
    tracker = _Tracker(site)
    try:
        return _tracked(tracker, model, args, kwargs)
    except (
        TypeError,
        RuntimeError,
        NotImplementedError,
        AttributeError,
    ):  # a value that bears marks is no plain tensor
        return _tracked(_Ordered(site), model, args, kwargs)


def _tracked(tracker: _Tracker, model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> _Tracker:
    with poutine.block(), pyro.validation_enabled(False), tracker:
        model(*args, **kwargs)
    return tracker


def _typical(prior: TorchDistribution) -> Tensor:
    """A value of the prior: its denoised mean at the largest noise, else a draw."""
    diffusion = abilities_of(prior)
    if not diffusion.has_denoiser:
        return prior.sample()
    denoiser = diffusion.denoiser
    parameter = next(iter([*denoiser.parameters(), *denoiser.buffers()]), torch.zeros(()))
    noise = torch.zeros(prior.shape(), dtype=parameter.dtype if parameter.is_floating_point() else None)
    context = _plain(diffusion.context)
    return denoiser(noise.to(parameter.device), torch.ones((), dtype=noise.dtype), context).detach()


def _origin(value: Any) -> frozenset[str]:
    if isinstance(value, Mapping):
        return frozenset().union(*(_origin(entry) for entry in value.values()))
    return frozenset() if value is None else frozenset(get_provenance(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return detach_provenance(value)


def _closure(name: str, links: Links) -> frozenset[str]:
    """All sites a site depends on, directly or through others."""
    found: set[str] = set()
    waiting = list(links.get(name, ()))
    while waiting:
        parent = waiting.pop()
        if parent not in found and parent != name:
            found.add(parent)
            waiting.extend(links.get(parent, ()))
    return frozenset(found)


def _problems(site: Site, scored: list[Site]) -> Problems:
    """The plates of the site in which everything that is scored given it lies as well."""
    plates = {plate for plate in site.plates if plate.dim is not None}
    for other in scored:
        plates &= set(other.plates)
    fn = site.distribution
    sizes = tuple(fn.batch_shape)
    dims = sorted(plate.dim for plate in plates if -plate.dim <= len(sizes))
    return Problems(sizes, tuple(fn.event_shape), tuple(dims))
