"""Sites: the random statements of a Pyro program, as one run of it left them.

A ``pyro.sample`` statement is a site: it has a name, a distribution, a value, and the plates around it. Sites are
latent or observed; ``pyro.factor`` is an observed one. What ``pyro.deterministic`` computes, and the silent point
masses that stand for a value computed elsewhere (Pyro's reparameterizations), are *computed*: statements, but no sites.
The rows that a plate takes are neither.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent
from torch.distributions.constraints import Constraint

Kind = Literal["latent", "observed", "computed", "factor"]


@dataclass(frozen=True)
class Plate:
    """A plate around a site.

    Attributes:
        name: Its name.
        dim: Its dimension, counted from the right of the batch shape; ``None`` for a plate that is iterated over.
        rows: How many rows it has in this run.
        size: How many it stands for: more than ``rows`` where it is subsampled.
    """

    name: str
    dim: int | None
    rows: int
    size: int


@dataclass(frozen=True)
class Site:
    """A random statement of a program, as one run left it; or a computed one.

    Attributes:
        name: Its name.
        distribution: Its distribution.
        value: Its value in the run.
        plates: The plates around it.
        observed: Whether its value was given by the program as data.
        scale: The factor in front of its log-probability, from subsampled plates and ``poutine.scale``.
        mask: Pyro's mask, if there is one.
        auxiliary: Whether it is a guide's own variable, none of the model's.
        computed: Whether its value was computed and not drawn.
        enumerated: Whether the program has inference sum over its values.
    """

    name: str
    distribution: TorchDistributionMixin
    value: Tensor
    plates: tuple[Plate, ...]
    observed: bool
    scale: float | Tensor
    mask: Tensor | bool | None
    auxiliary: bool = False
    computed: bool = False
    enumerated: bool = False

    @property
    def kind(self) -> Kind:
        """What it is."""
        if self.computed:
            return "computed"
        if tuple(self.distribution.event_shape) == (0,):  # the Unit distribution, whose only use is a factor
            return "factor"
        return "observed" if self.observed else "latent"

    @property
    def support(self) -> Constraint:
        """Where its values lie."""
        return self.distribution.support

    def plate(self, name: str) -> Plate | None:
        """The plate of that name around the site, if there is one."""
        return next((plate for plate in self.plates if plate.name == name), None)

    def inside(self, plates: Iterable[Plate]) -> bool:
        """Whether one of these plates is around it."""
        return any(self.plate(plate.name) for plate in plates)

    @property
    def is_point(self) -> bool:
        """Whether its distribution is a point mass, whose ``log_prob`` is no density."""
        distribution = self.distribution
        while isinstance(distribution, Independent | MaskedDistribution):
            distribution = distribution.base_dist
        return isinstance(distribution, Delta)

    def log_prob(self) -> Tensor:
        """The log-probability of the value, one number an entry of the batch; masked, not scaled."""
        log_prob = scale_and_mask(self.distribution.log_prob(self.value), mask=self.mask)
        shape = self.distribution.batch_shape  # a mask may have made one number of them
        return log_prob if log_prob.shape == shape else log_prob.expand(torch.broadcast_shapes(log_prob.shape, shape))

    def log_prob_if_any(self) -> Tensor | None:
        """The same; ``None`` where the distribution is implicit, or a mask hides a value that has none."""
        try:
            return self.log_prob()
        except (NotImplementedError, ValueError):
            return None


def is_site(message: Mapping[str, Any]) -> bool:
    """Whether a statement, or a node of a trace, is a site."""
    return is_statement(message) and not _is_computed(message)


def is_statement(message: Mapping[str, Any]) -> bool:
    """Whether a message, or a node of a trace, is a site or a computed statement."""
    return message["type"] == "sample" and not site_is_subsample(message)


def site_of(message: Mapping[str, Any]) -> Site:
    """The site, or the computed statement, that a message or a node of a trace is."""
    return Site(
        name=message["name"],
        distribution=message["fn"],
        value=message["value"],
        plates=tuple(map(plate_of, message["cond_indep_stack"])),
        observed=message["is_observed"],
        scale=message["scale"],
        mask=message["mask"],
        auxiliary=bool(message["infer"].get("is_auxiliary")),
        computed=_is_computed(message),
        enumerated=bool(message["infer"].get("enumerate")),
    )


def is_imputed(name: str, names: Container[str]) -> bool:
    """Whether a latent site is the part of an observation that its ``obs_mask`` hides, which Pyro draws.

    Args:
        name: Of the site.
        names: Of all sites.
    """
    return name.endswith("_unobserved") and name.removesuffix("_unobserved") + "_observed" in names


def statements_of(trace: Trace) -> dict[str, Site]:
    """The sites and computed statements of a trace, by name, in the order of the program."""
    return {name: site_of(node) for name, node in trace.nodes.items() if is_statement(node)}


def plate_of(frame: CondIndepStackFrame) -> Plate:
    """The plate that a frame of Pyro's stack is."""
    return Plate(frame.name, frame.dim, frame.size, frame.full_size or frame.size)


def _is_computed(message: Mapping[str, Any]) -> bool:
    if message["infer"].get("_deterministic"):
        return True
    return message["is_observed"] and (_is_silent(message["fn"]) or _is_at(message["fn"], message["value"]))


def _is_at(distribution: Any, value: Any) -> bool:
    """Whether it is the point mass of this very tensor, in place of which data would be another one."""
    return isinstance(distribution, Delta) and distribution.v is value


def _is_silent(distribution: Any) -> bool:
    masked = isinstance(distribution, MaskedDistribution) and distribution._mask is False
    return masked and isinstance(distribution.base_dist, Delta)
