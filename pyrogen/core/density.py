r"""What a ``log_prob`` means.

Every distribution has ``log_prob(x)``, and not every one gives a normalized log-density. Its *density* states which
it is:

========================  =====================================================================
``"exact"``               the log-density, up to rounding (flows, autoregressive models)
``"estimate"``            the log-density up to a stated tolerance or unbiased noise (ODE flows)
``"lower bound"``         at most the log-density, in expectation (latent variables, diffusion)
``"unnormalized"``        the log-density plus an unknown constant (energies)
``None``                  there is no ``log_prob`` (implicit models)
========================  =====================================================================

A composed model has the weakest density of its parts. A module declares what its distributions are; the distribution of
a module that declares something weaker than the distribution itself is *stamped* with it, so that it is found on the
distribution, wrapped or expanded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import Distribution, TransformedDistribution

from pyrogen.distributions.abilities import Density
from pyrogen.transforms.transform import as_transform

_ORDER: tuple[Density, ...] = ("exact", "estimate", "lower bound", "unnormalized", None)


def weakest(*densities: Density) -> Density:
    """The density of a model composed of parts with these densities.

    Unbiased noise in a part keeps a bound a bound in expectation, so a bound is weaker than an estimate.
    """
    unknown = [density for density in densities if density not in _ORDER]
    if unknown:
        raise ValueError(f"`density` must be one of {', '.join(map(repr, _ORDER))}, got {unknown[0]!r}")
    return max(densities, key=_ORDER.index, default="exact")


def density_of(distribution: Distribution) -> Density:
    """What the ``log_prob`` of a distribution means: its own ``density``, or that of the parts it wraps.

    Follows ``Independent``, ``Masked``, ``Expanded``, ``TransformedDistribution`` (and its transforms),
    ``MixtureSameFamily``, ``MaskedMixture`` and ``LinearPool``. A distribution of torch or Pyro that wraps nothing is
    exact.

    Raises:
        TypeError: ``distribution`` is none.
    """
    if not isinstance(distribution, (Distribution, TorchDistributionMixin)):
        raise TypeError(f"`distribution` must be a distribution, got {type(distribution).__name__}")
    return weakest(*_densities(distribution))


def require_normalized(density: Density, name: str, what: str) -> None:
    """Refuses what has no normalized ``log_prob``, or bound of one, where one is needed.

    Args:
        density: What the ``log_prob`` means.
        name: Whose it is.
        what: What needs one.

    Raises:
        NotImplementedError: the density is ``"unnormalized"`` or ``None``.
    """
    if density in ("unnormalized", None):
        raise NotImplementedError(
            f"{name} has density {density!r}: {what} needs a normalized log_prob or a bound of it; use an objective of "
            "its family, which a module of yours gives by `objective()`, or for an energy in a model "
            "`pg.energy.EnergyElbo(model, guide)`"
        )


def require_bounding(distribution: Distribution, name: str, *, guide: bool) -> None:
    """Refuses a site with which an evidence lower bound would be none.

    Args:
        distribution: That of the site.
        name: What errors call the site.
        guide: Whether it is a site of the guide, whose ``log_prob`` is subtracted.

    Raises:
        NotImplementedError: the ``log_prob`` is unnormalized or missing, or that of a guide's site a lower bound.
    """
    density = density_of(distribution)
    require_normalized(density, name, "an evidence lower bound")
    if density == "lower bound" and guide:
        raise NotImplementedError(
            f"{name} has density 'lower bound': less than the guide's log_prob makes the ELBO more than the evidence; "
            "use a guide whose density is exact or an estimate without bias"
        )


def stamped(distribution: TorchDistributionMixin, density: Density) -> TorchDistributionMixin:
    """The distribution, with a ``density`` no stronger than the one given.

    One that has it already is returned as it is. Of another a shallow copy is: what is given may be shared, and stays
    as it was.
    """
    if density == "exact" or density_of(distribution) == weakest(density_of(distribution), density):
        return distribution
    twin = copy.copy(distribution)
    twin.__class__ = _stamped_class(type(distribution), density)
    return twin


class _Stamped:
    """Mixed into the class of a distribution whose module declares what its ``log_prob`` means."""

    def expand(self, batch_shape: Iterable[int], _instance: Any = None) -> TorchDistributionMixin:
        return stamped(super().expand(batch_shape, _instance), self.density)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistributionMixin:
        # Pyro goes through an `Independent` to what it wraps, past the stamp.
        return stamped(super().to_event(reinterpreted_batch_ndims), self.density)

    def __reduce_ex__(self, protocol: int) -> tuple:
        # Classes made on the way have no name that pickle finds: what is stored is the class they were made of.
        kind = next(kind for kind in type(self).__mro__ if not issubclass(kind, _Stamped))
        return _blank, (kind, self.density), self.__getstate__()


@cache
def _stamped_class(kind: type, density: Density) -> type:
    return type(kind.__name__, (_Stamped, kind), {"density": density, "__module__": kind.__module__})


def _blank(kind: type, density: Density) -> TorchDistributionMixin:
    return object.__new__(_stamped_class(kind, density))


def _densities(distribution: Distribution) -> Iterator[Density]:
    yield getattr(distribution, "density", "exact")  # which a distribution that is none of ours may declare as well
    for name in ("base_dist", "_component_distribution", "component_distribution", "component0", "component1"):
        part = getattr(distribution, name, None)
        if isinstance(part, Distribution):
            yield from _densities(part)
    for component in getattr(distribution, "components", ()):
        yield from _densities(component)
    if isinstance(distribution, TransformedDistribution):
        for transform in distribution.transforms:
            yield as_transform(transform).density
