"""Dependence: which sites of a program are computed from which others, and which parts of a site are independent.

It is found by one run of the program with values that remember where they come from: the value of each latent site is
marked with its name, and the ``log_prob`` of a site has the marks of all that its distribution was computed from. Where
a program cannot run on such values, every site is taken to depend on all latent sites before it.

Whether sites depend on what the program was called with is seen by gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor

from .run import Program, Record, isolated
from .site import Plate, Site, is_site, is_statement

Draw = Callable[[TorchDistributionMixin], Tensor]
Origin = Callable[[TorchDistributionMixin], frozenset[str]]


@dataclass(frozen=True)
class Dependence:
    """Which sites of a program depend on which.

    Attributes:
        sites: The sites of one run by name, in the order of the program.
        parents: By site, the latent sites from whose values its distribution was computed; by computed statement,
            those from whose values it was.
        indices: The rows that each plate took, by the name of the plate.
        traced: Whether the parents were found; else every site is taken to depend on all latent sites before it.
    """

    sites: dict[str, Site]
    parents: dict[str, frozenset[str]]
    indices: dict[str, Tensor]
    traced: bool

    def ancestors(self, name: str) -> frozenset[str]:
        """All latent sites that a site depends on, directly or through others."""
        found: set[str] = set()
        waiting = list(self.parents[name])
        while waiting:
            parent = waiting.pop()
            if parent not in found and parent != name:
                found.add(parent)
                waiting.extend(self.parents[parent])
        return frozenset(found)


@torch.no_grad()
def dependence(
    program: Program,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    draws: Mapping[str, Draw] | None = None,
    origins: Mapping[str, Origin] | None = None,
) -> Dependence:
    """Finds which sites of a program depend on which, in one run, apart from the handlers and plates around it.

    Args:
        program: A Pyro model or guide.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        draws: By site, what gives it a value in place of its ``sample``.
        origins: By site, what gives the marks of its distribution in place of its ``log_prob``.
    """
    for tracker in (_Marks(draws or {}, origins or {}), _Order(draws or {})):
        try:
            with isolated(), pyro.validation_enabled(False), tracker:
                program(*args, **(kwargs or {}))
            break
        except (TypeError, RuntimeError, NotImplementedError, AttributeError):
            if not tracker.traced:
                raise
            # A value with marks is no plain tensor.
    sites = {site.name: site for site in tracker.sites}
    return Dependence(sites, tracker.parents, tracker.indices, tracker.traced)


class _Order(Record):
    """Records the sites; every site depends on all latent sites before it."""

    traced = False

    def __init__(self, draws: Mapping[str, Draw]) -> None:
        super().__init__()
        self.draws = draws
        self.parents: dict[str, frozenset[str]] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.draws and msg["value"] is None:
            msg["value"], msg["done"] = self.draws[msg["name"]](msg["fn"]), True

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if is_statement(msg):
            self.parents[msg["name"]] = self._parents(msg)
        super()._pyro_post_sample({**msg, "value": detach_provenance(msg["value"])})

    def _parents(self, msg: dict[str, Any]) -> frozenset[str]:
        return frozenset(site.name for site in self.sites if not site.observed)


class _Marks(_Order):
    """The same with marks: each site depends on what its distribution was computed from."""

    traced = True

    def __init__(self, draws: Mapping[str, Draw], origins: Mapping[str, Origin]) -> None:
        super().__init__(draws)
        self.origins = origins

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        super()._pyro_post_sample(msg)
        if is_site(msg) and not msg["is_observed"]:
            msg["value"] = track_provenance(detach_provenance(msg["value"]), frozenset({msg["name"]}))

    def _parents(self, msg: dict[str, Any]) -> frozenset[str]:
        if not is_site(msg):
            return get_provenance(msg["value"])
        if msg["name"] in self.origins:
            return self.origins[msg["name"]](msg["fn"])
        return get_provenance(msg["fn"].log_prob(msg["value"])) - {msg["name"]}


def independent_sites(record: Record, names: Collection[str], inputs: Sequence[Tensor]) -> list[str]:
    """Those of the named sites whose distribution, where they first ran, does not depend on what was put in.

    A guide that computes it from the data makes the site one of these data.

    Args:
        record: A run of guide and model on the inputs, with gradients.
        names: The names of the sites.
        inputs: Tensors that require gradients.
    """
    first = {site.name: site for site in reversed(record.sites)}
    log_probs = {name: site.distribution.log_prob(site.value.detach()) for name, site in first.items() if name in names}
    return [name for name in names if not _has_gradient(log_probs.get(name), inputs)]


def loose_sites(sites: Iterable[Site], plates: Sequence[Plate], inputs: Sequence[Tensor]) -> list[str]:
    """The names of the observed sites outside the data plates that depend on what was put in, and are not scaled.

    Args:
        sites: What ran on the inputs, with gradients.
        plates: The data plates.
        inputs: Tensors that require gradients.
    """
    outside = (site for site in sites if site.observed and not site.inside(plates))
    plain = (site for site in outside if not isinstance(site.scale, Tensor) and site.scale == 1)
    return [site.name for site in plain if _has_gradient(site.log_prob_if_any(), inputs)]


def _has_gradient(log_prob: Tensor | None, inputs: Sequence[Tensor]) -> bool:
    if not inputs or log_prob is None or not log_prob.requires_grad:
        return False
    gradients = torch.autograd.grad(log_prob.sum(), inputs, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)
