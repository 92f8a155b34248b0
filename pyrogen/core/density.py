r"""What a ``log_prob`` means.

Every distribution answers ``log_prob(x)``, and not every answer is a normalised log-density. Its *density* says which
it is:

========================  =====================================================================
``"exact"``               the log-density, up to rounding (flows, autoregressive models)
``"estimate"``            the log-density up to a stated tolerance or unbiased noise (ODE flows)
``"lower bound"``         at most the log-density, in expectation (latent variables, diffusion)
``"unnormalized"``        the log-density plus an unknown constant (energies)
``None``                  there is no ``log_prob`` (implicit models)
========================  =====================================================================

A composed model has the weakest density of its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch.distributions import Distribution

Density = Literal["exact", "estimate", "lower bound", "unnormalized"] | None

_ORDER: tuple[Density, ...] = ("exact", "estimate", "lower bound", "unnormalized", None)


def weakest(*densities: Density) -> Density:
    """The density of a model composed of parts with these densities.

    Unbiased noise in a part keeps a bound a bound in expectation, so a bound is weaker than an estimate.
    """
    return max(densities, key=_ORDER.index, default="exact")


def density_of(distribution: Distribution) -> Density:
    """What the ``log_prob`` of a distribution means: its own ``density``, or that of the parts it wraps.

    Follows ``Independent``, ``Masked``, ``Expanded``, ``TransformedDistribution`` and ``MixtureSameFamily``. A
    distribution of torch or Pyro that wraps nothing is exact.
    """
    own = getattr(distribution, "density", "exact")
    return weakest(own, *map(density_of, _parts(distribution)))


def _parts(distribution: Distribution) -> Iterator[Distribution]:
    for name in ("base_dist", "_component_distribution", "component_distribution"):
        part = getattr(distribution, name, None)
        if isinstance(part, torch.distributions.Distribution):
            yield part
