"""Provenance: which sites a value was computed from, also through networks that cannot carry its marks.

``pyro.infer.inspect`` runs a program on tensors that are marked with the sites they come from, and finds in the
``log_prob`` of each site which sites it depends on. Such tensors have a tuple for a shape, and lose their marks in
functions written outside of torch. So networks and distributions get plain tensors here, and the marks are put on the
distributions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any

from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution, TorchDistributionMixin
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.distributions import Independent


def tracks() -> bool:
    """Whether a handler records where values come from."""
    return any(isinstance(handler, TrackProvenance) for handler in _PYRO_STACK)


def tracked(distribution: TorchDistributionMixin, provenance: frozenset) -> TorchDistributionMixin:
    """A shallow copy of a distribution whose ``log_prob`` is marked with what its context and its value come from."""
    twin = copy.copy(distribution)
    if not isinstance(twin, _Tracked):
        twin.__class__ = _tracked_class(type(twin))
    twin.provenance = provenance
    return twin


def provenance_of(distribution: TorchDistributionMixin) -> frozenset:
    """Where the context of a distribution, wrapped by Pyro or not, comes from; empty where that is not tracked."""
    while not isinstance(distribution, _Tracked):
        if not isinstance(distribution, Independent | MaskedDistribution | ExpandedDistribution):
            return frozenset()
        distribution = distribution.base_dist
    return distribution.provenance


class _Tracked:
    """Mixed into the class of a distribution while it is recorded where values come from."""

    provenance: frozenset = frozenset()

    def log_prob(self, value: Tensor) -> Tensor:
        score = super().log_prob(detach_provenance(value))
        return track_provenance(score, get_provenance(value) | self.provenance)

    def expand(self, batch_shape: Iterable[int], _instance: Any = None) -> TorchDistributionMixin:
        return tracked(super().expand(batch_shape, _instance), self.provenance)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistributionMixin:
        return tracked(super().to_event(reinterpreted_batch_ndims), self.provenance)


@cache
def _tracked_class(kind: type) -> type:
    return type(kind.__name__, (_Tracked, kind), {"__module__": kind.__module__})
