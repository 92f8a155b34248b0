"""What distinguishes the distribution of one site from that of another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyrogen.distributions.abilities import abilities_of
from pyrogen.programs.site import Site

from .provenance import holds_anything
from .simulator import Simulator


def signature(site: Site) -> list[tuple[Tensor, int]] | None:
    """Tensors that tell the distribution of a site, at its value, from others; ``None`` where nothing tells it.

    They are its ``log_prob``, or the arguments of a simulator whose function holds nothing else. Each comes with the
    number of its dimensions on the right of the batch.
    """
    if site.computed:
        return None
    log_prob = site.log_prob_if_any()
    if log_prob is not None:
        return [(log_prob, 0)]
    simulator = simulator_of(site)
    if simulator is None or holds_anything(simulator.function):
        return None
    batch = len(site.distribution.batch_shape)
    arguments = simulator.expanded_arguments(simulator.batch_shape)
    return [(argument, argument.dim() - batch) for argument in arguments]


def simulator_of(site: Site) -> Simulator | None:
    """The simulator that a site has for a distribution, if it is one."""
    found = abilities_of(site.distribution)
    return found if isinstance(found, Simulator) else None


def signatures(sites: Mapping[str, Site]) -> dict[str, list[tuple[Tensor, int]] | None]:
    """The signatures of sites, by name."""
    return {name: signature(site) for name, site in sites.items()}


def are_close(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same numbers up to rounding."""
    return first.shape == second.shape and torch.allclose(
        first.double(), second.double(), rtol=1e-4, atol=1e-5, equal_nan=True
    )
