"""Sites: what a statement of a Pyro model is, and what the dimensions of its value are called.

A trace holds sample statements of several kinds: latent, observed, deterministic (``pyro.deterministic``), factors
(``pyro.factor``) and the rows a plate drew. A value has batch dimensions, named by the plates around its statement, and
event dimensions to the right of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.distributions import Delta, MaskedDistribution
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrogen.core.density import Density, density_of
from pyrogen.core.shapes import Shape

Kind = Literal["latent", "observed", "deterministic", "factor"]


@dataclass(frozen=True)
class Site:
    """One statement of a program.

    Attributes:
        name: Its name.
        kind: What it is.
        value: Its value in the run that was looked at.
        plates: For each batch dimension the plate it belongs to, or ``None``.
        present: Which entries of the batch count, if a mask hides some.
        density: What its ``log_prob`` means.
        enumerable: Whether inference may have summed it out.
        auxiliary: Whether it is a guide's own variable, none of the model's.
        point: Whether its distribution is a point mass.
    """

    name: str
    kind: Kind
    value: Tensor
    plates: tuple[str | None, ...]
    present: Tensor | None = None
    density: Density = "exact"
    enumerable: bool = False
    auxiliary: bool = False
    point: bool = False

    @property
    def shape(self) -> Shape:
        """Shape of a value."""
        return tuple(self.value.shape)

    @property
    def batch_shape(self) -> Shape:
        """The leading part of :attr:`shape` that plates (or unnamed batch dimensions) make."""
        return self.shape[: len(self.plates)]


def kind_of(message: Mapping[str, Any]) -> Kind | None:
    """What kind of site a statement makes; ``None`` for parameters, plates and the like."""
    if message["type"] != "sample" or site_is_subsample(message):
        return None
    if message["infer"].get("_deterministic") or (message["is_observed"] and _is_silent_point(message["fn"])):
        return "deterministic"
    if tuple(message["fn"].event_shape) == (0,):  # the Unit distribution, whose only use is a factor
        return "factor"
    return "observed" if message["is_observed"] else "latent"


def _is_silent_point(distribution: Any) -> bool:
    """Whether it is the masked point mass by which Pyro's reparameterisations stand for a value computed elsewhere."""
    masked = isinstance(distribution, MaskedDistribution) and distribution._mask is False
    return masked and isinstance(distribution.base_dist, Delta)


def is_imputed(name: str, sites: Mapping[str, Site]) -> bool:
    """Whether a latent site is the part of an observation that its ``obs_mask`` hides, which Pyro draws."""
    return name.endswith("_unobserved") and name.removesuffix("_unobserved") + "_observed" in sites


def sites_of(trace: Trace) -> dict[str, Site]:
    """The sites of a trace, in the order of the program."""
    return {name: _site(name, kind, node) for name, node in trace.nodes.items() if (kind := kind_of(node))}


def rows_of(trace: Trace) -> dict[str, Tensor]:
    """The rows each plate of a trace stands for."""
    nodes = ((name, node) for name, node in trace.nodes.items() if node["type"] == "sample" and site_is_subsample(node))
    return {name: torch.as_tensor(node["value"]) for name, node in nodes}


def _site(name: str, kind: Kind, node: Mapping[str, Any]) -> Site:
    distribution, value = node["fn"], node["value"]
    plates = _plates(node, value, kind)
    return Site(
        name,
        kind,
        value,
        plates,
        present=_present(node, value.shape[: len(plates)]) if kind == "observed" else None,
        density=density_of(distribution) if kind != "deterministic" else "exact",
        enumerable=bool(getattr(distribution, "has_enumerate_support", False) or node["infer"].get("enumerate")),
        auxiliary=bool(node["infer"].get("is_auxiliary")),
        point=isinstance(distribution, Delta),
    )


def _plates(node: Mapping[str, Any], value: Tensor, kind: Kind) -> tuple[str | None, ...]:
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    event_dim = min(node["fn"].event_dim, value.dim())
    if kind == "deterministic" and event_dim == value.dim():
        event_dim = _event_dim_of_deterministic(frames, value)
    plates: list[str | None] = [None] * (value.dim() - event_dim)
    for frame in frames:
        if -frame.dim <= len(plates) and value.shape[frame.dim - event_dim] == frame.size:
            plates[frame.dim] = frame.name
    return tuple(plates)


def _event_dim_of_deterministic(frames: list, value: Tensor) -> int:
    """``pyro.deterministic`` calls all of a value its event; here, what the plates leave over on the right."""
    for event_dim in range(value.dim() if frames else 0):
        dims = [frame.dim - event_dim for frame in frames]
        if -min(dims) <= value.dim() and all(value.shape[d] == f.size for d, f in zip(dims, frames, strict=True)):
            return event_dim
    return value.dim()


def _present(node: Mapping[str, Any], batch_shape: Shape) -> Tensor | None:
    masks = [node["mask"]]
    if isinstance(node["fn"], MaskedDistribution):
        masks.append(node["fn"]._mask)
    masks = [torch.as_tensor(mask) for mask in masks if mask is not None and mask is not True]
    if not masks:
        return None
    present = torch.ones(batch_shape, dtype=torch.bool)
    for mask in masks:
        present = present & mask.cpu()
    return None if present.all() else present
