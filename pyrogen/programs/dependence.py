"""Dependence: which sites of a program are computed from which others, and which parts of a site are independent.

One run of the program with values that remember where they come from finds out: the value of each latent site is marked
with its name, and the ``log_prob`` of a site bears the marks of all that its distribution was computed from. Where a
program cannot run on such values, every site is taken to depend on all latent sites before it.

A site in plates that hold every measurement of it is many independent problems, one for each index of those plates.
Inference methods work on tensors of shape ``(P, N, D)``: particles, problems, and the numbers of one problem in a row.
Dimensions of the site that are not such plates belong to the numbers of a problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .run import Program, isolated
from .site import Site, is_site, site_of

Draw = Callable[[TorchDistributionMixin], Tensor]
Origin = Callable[[TorchDistributionMixin], frozenset[str]]


@dataclass(frozen=True)
class Dependence:
    """Which sites of a program depend on which.

    Attributes:
        sites: The sites of one run by name, in the order of the program.
        parents: By site, the latent sites from whose values its distribution was computed.
        indices: The rows that each plate took, by the name of the plate.
        traced: Whether this was found out; else every site is taken to depend on all latent sites before it.
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
    try:
        return _tracked(_Marks(draws or {}, origins or {}), program, args, kwargs)
    except (
        TypeError,
        RuntimeError,
        NotImplementedError,
        AttributeError,
    ):  # a value that bears marks is no plain tensor
        return _tracked(_Order(draws or {}), program, args, kwargs)


class _Order(Messenger):
    """Notes the sites; every site depends on all latent sites before it."""

    traced = False

    def __init__(self, draws: Mapping[str, Draw]) -> None:
        super().__init__()
        self.draws = draws
        self.sites: dict[str, Site] = {}
        self.parents: dict[str, frozenset[str]] = {}
        self.indices: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.draws and msg["value"] is None:
            msg["value"], msg["done"] = self.draws[msg["name"]](msg["fn"]), True

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self.indices[msg["name"]] = detach_provenance(msg["value"])
        elif is_site(msg):
            self.parents[msg["name"]] = self._parents(msg)
            self.sites[msg["name"]] = site_of({**msg, "value": detach_provenance(msg["value"])})
            if not msg["is_observed"]:
                self._mark(msg)

    def _parents(self, msg: dict[str, Any]) -> frozenset[str]:
        return frozenset(name for name, site in self.sites.items() if not site.observed)

    def _mark(self, msg: dict[str, Any]) -> None:
        pass


class _Marks(_Order):
    """The same with marks: each site depends on what its distribution was computed from."""

    traced = True

    def __init__(self, draws: Mapping[str, Draw], origins: Mapping[str, Origin]) -> None:
        super().__init__(draws)
        self.origins = origins

    def _parents(self, msg: dict[str, Any]) -> frozenset[str]:
        if msg["name"] in self.origins:
            return self.origins[msg["name"]](msg["fn"])
        return get_provenance(msg["fn"].log_prob(msg["value"])) - {msg["name"]}

    def _mark(self, msg: dict[str, Any]) -> None:
        msg["value"] = track_provenance(detach_provenance(msg["value"]), frozenset({msg["name"]}))


def _tracked(tracker: _Order, program: Program, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Dependence:
    with isolated(), pyro.validation_enabled(False), tracker:
        program(*args, **(kwargs or {}))
    return Dependence(tracker.sites, tracker.parents, tracker.indices, tracker.traced)


@dataclass(frozen=True)
class IndependentProblems:
    """How the batch dimensions of a site split into problems.

    Attributes:
        batch_shape: That of the site.
        event_shape: That of the site.
        dims: The batch dimensions, negative and ascending, along which problems are independent.
    """

    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    dims: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the independent dimensions."""
        return tuple(self.batch_shape[dim] for dim in self.dims)

    @property
    def count(self) -> int:
        """How many problems there are."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """How many numbers one problem has."""
        return prod(self.batch_shape) * prod(self.event_shape) // max(self.count, 1)

    def rows(self, values: Tensor, event_dim: int, leading: int = 0) -> Tensor:
        """One row for each problem.

        Args:
            values: Of shape ``(*leading, *batch, *event)`` with all independent dimensions in their places.
            event_dim: How many dimensions lie to the right of the batch.
            leading: How many dimensions to leave alone on the left.

        Shape:
            ``(*leading, N, numbers)``.
        """
        places = [dim - event_dim for dim in self.dims]
        moved = values.movedim(places, list(range(leading, leading + len(places))))
        return moved.reshape(*values.shape[:leading], self.count, -1)

    def whole(self, rows: Tensor) -> Tensor:
        """The site's values ``(*leading, *batch_shape, *event_shape)`` from rows ``(*leading, N, D)``."""
        leading = rows.dim() - 2
        free = [size for dim, size in zip(range(-len(self.batch_shape), 0), self.batch_shape, strict=True)
                if dim not in self.dims]  # fmt: skip
        split = rows.reshape(*rows.shape[:-2], *self.shape, *free, *self.event_shape)
        places = [dim - len(self.event_shape) for dim in self.dims]
        return split.movedim(list(range(leading, leading + len(places))), places)


def independent_problems(site: Site, scored: Iterable[Site]) -> IndependentProblems:
    """The plates of a site in which everything that is scored given it lies as well."""
    plates = {plate for plate in site.plates if plate.dim is not None}
    for other in scored:
        plates &= set(other.plates)
    sizes = tuple(site.distribution.batch_shape)
    dims = sorted(plate.dim for plate in plates if -plate.dim <= len(sizes))
    return IndependentProblems(sizes, tuple(site.distribution.event_shape), tuple(dims))
