"""Sites: the random statements of a Pyro program, as one run of it left them.

A ``pyro.sample`` statement is a site: it has a name, a distribution, a value, and the plates around it. Sites are
latent or observed; ``pyro.factor`` is an observed one. What ``pyro.deterministic`` computes, the rows that a plate
takes, and the silent point masses that stand for a value computed elsewhere (Pyro's reparameterisations) are no sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import site_is_subsample
from torch import Tensor


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
    """A random statement of a program, as one run left it.

    Attributes:
        name: Its name.
        distribution: Its distribution.
        value: Its value in the run.
        plates: The plates around it.
        observed: Whether its value was given by the program as data.
        scale: The factor in front of its log-probability, from subsampled plates and ``poutine.scale``.
        mask: Pyro's mask, if there is one.
        auxiliary: Whether it is a guide's own variable, none of the model's.
    """

    name: str
    distribution: TorchDistributionMixin
    value: Tensor
    plates: tuple[Plate, ...]
    observed: bool
    scale: float | Tensor
    mask: Tensor | bool | None
    auxiliary: bool = False

    def plate(self, name: str) -> Plate | None:
        """The plate of that name around the site, if there is one."""
        return next((plate for plate in self.plates if plate.name == name), None)

    def log_prob(self) -> Tensor:
        """The log-probability of the value, one number an entry of the batch; masked, not scaled."""
        return scale_and_mask(self.distribution.log_prob(self.value), mask=self.mask)


def is_site(message: Mapping[str, Any]) -> bool:
    """Whether a statement, or a node of a trace, is a site."""
    if message["type"] != "sample" or site_is_subsample(message) or message["infer"].get("_deterministic"):
        return False
    return not (message["is_observed"] and _is_silent(message["fn"]))


def site_of(message: Mapping[str, Any]) -> Site:
    """The site that a statement, or a node of a trace, is."""
    return Site(
        name=message["name"],
        distribution=message["fn"],
        value=message["value"],
        plates=tuple(map(plate_of, message["cond_indep_stack"])),
        observed=message["is_observed"],
        scale=message["scale"],
        mask=message["mask"],
        auxiliary=bool(message["infer"].get("is_auxiliary")),
    )


def plate_of(frame: CondIndepStackFrame) -> Plate:
    """The plate that a frame of Pyro's stack is."""
    return Plate(frame.name, frame.dim, frame.size, frame.full_size or frame.size)


def _is_silent(distribution: Any) -> bool:
    masked = isinstance(distribution, MaskedDistribution) and distribution._mask is False
    return masked and isinstance(distribution.base_dist, Delta)
