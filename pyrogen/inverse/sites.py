"""Sites: what stands where in a Pyro model, seen from the one whose posterior is wanted.

One run of the model with values that know where they come from tells which sites depend on which. Latent sites of which
the prior depends are *upstream*, its context; those on which measurements depend without being upstream are
*downstream*, such as a noise scale. Latent sites on which no measurement depends are predictions and of no concern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .likelihood import run
from .problems import Problems

Links = dict[str, frozenset[str]]


@dataclass(frozen=True)
class Layout:
    """The sites of a model, seen from one latent site.

    Attributes:
        problems: How the site splits into independent problems.
        upstream: Latent sites on which the site's prior depends.
        downstream: Other latent sites on which a measurement depends.
        observed: Observed sites that depend on the site.
        values: A value of every latent site from one run, the site itself included.
    """

    problems: Problems
    upstream: tuple[str, ...]
    downstream: tuple[str, ...]
    observed: tuple[str, ...]
    values: dict[str, Tensor]


def ability(distribution: Any, name: str) -> Any:
    """An attribute of a distribution or of what it wraps; ``None`` if none has it."""
    while distribution is not None:
        if hasattr(distribution, name):
            return getattr(distribution, name)
        distribution = getattr(distribution, "base_dist", None)
    return None


def is_latent(node: Mapping[str, Any]) -> bool:
    """Whether a node of a trace is a latent site."""
    return node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)


def prior_of(
    model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str, values: Mapping[str, Tensor]
) -> TorchDistribution:
    """The distribution at the site, given values of all others."""
    return run(model, args, kwargs, values).nodes[site]["fn"]


def look(model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str) -> Layout:
    """Runs the model once and sorts its sites.

    Raises:
        ValueError: there is no such latent site, or nothing that depends on it is observed.
    """
    with torch.no_grad():
        tracker = _run(model, args, kwargs, site)
    nodes = {name: node for name, node in tracker.nodes.items() if not site_is_subsample(node)}
    if site not in nodes or nodes[site]["is_observed"]:
        raise ValueError(f"`site` must be a latent site of the model, got {site!r}; sites: {sorted(nodes)}")
    ancestors = {name: _closure(name, tracker.links) for name in nodes}
    observed = [name for name, node in nodes.items() if node["is_observed"]]
    measured = tuple(name for name in observed if site in ancestors[name])
    if not measured:
        raise ValueError(f"`model` must observe a site that depends on {site!r}, got observed sites {observed}")
    latent = [name for name, node in nodes.items() if not node["is_observed"] and name != site]
    upstream = tuple(name for name in latent if name in ancestors[site])
    wanted = frozenset().union(*(ancestors[name] for name in observed))
    downstream = tuple(name for name in latent if name in wanted and name not in upstream)
    return Layout(
        problems=_problems(nodes[site], [nodes[name] for name in measured]),
        upstream=upstream,
        downstream=downstream,
        observed=measured,
        values={name: _plain(nodes[name]["value"]) for name in (*latent, site)},
    )


class _Tracker(Messenger):
    """Marks every value with the name of its site, and notes which names each distribution carries."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.nodes: dict[str, dict[str, Any]] = {}
        self.links: Links = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == self.site and msg["value"] is None:
            msg["value"], msg["done"] = _typical(msg["fn"]), True

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        name, fn = msg["name"], msg["fn"]
        if name == self.site:
            self.links[name] = _origin(ability(fn, "context"))
        elif not site_is_subsample(msg):
            self.links[name] = _origin(fn.log_prob(msg["value"]))
        self.nodes[name] = {**msg, "value": msg["value"]}
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["value"] = track_provenance(_plain(msg["value"]), frozenset({name}))


class _Ordered(_Tracker):
    """The same without marks: every site is taken to depend on all before it."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        earlier = [name for name, node in self.nodes.items() if not node["is_observed"]]
        self.links[msg["name"]] = frozenset(earlier)
        self.nodes[msg["name"]] = {**msg}


def _run(model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str) -> _Tracker:
    for tracker in (_Tracker(site), _Ordered(site)):
        try:
            run(model, args, kwargs, {}, tracker)
        except (TypeError, RuntimeError, NotImplementedError):
            if isinstance(tracker, _Ordered):
                raise
            continue
        return tracker
    raise AssertionError("unreachable")


def _typical(prior: TorchDistribution) -> Tensor:
    """A value of the prior: its denoised mean at the largest noise, else a draw."""
    denoiser = ability(prior, "denoiser")
    if denoiser is None:
        return prior.sample()
    parameter = next(iter([*denoiser.parameters(), *denoiser.buffers()]), torch.zeros(()))
    noise = torch.zeros(prior.shape(), dtype=parameter.dtype if parameter.is_floating_point() else None)
    context = _plain(ability(prior, "context"))
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


def _problems(node: dict[str, Any], measured: list[dict[str, Any]]) -> Problems:
    """The plates of the site in which every measurement lies as well."""
    frames = {frame for frame in node["cond_indep_stack"] if frame.vectorized}
    for other in measured:
        frames &= set(other["cond_indep_stack"])
    fn = node["fn"]
    sizes = tuple(fn.batch_shape)
    dims = sorted(frame.dim for frame in frames if -frame.dim <= len(sizes))
    return Problems(sizes, tuple(fn.event_shape), tuple(dims))
