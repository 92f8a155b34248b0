"""Where chains that are annealed to an energy begin: bases, and the paths from them."""

from __future__ import annotations

from abc import abstractmethod
from math import log, prod

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent

from pyrogen.abstract import Abstract
from pyrogen.core.density import density_of
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, context_of_part
from pyrogen.distributions.normal import UnitNormal
from pyrogen.networks.context import context_rows
from pyrogen.numerics.markov.paths import DensityPath, Elements, HamiltonianPath

from .model import EnergyModule

_LEAPFROG_STEPS = 10  # the most of a trajectory
_WIDER = 10.0  # times as wide
_DRAWS = 1000  # whose mean is the centre about which a base is widened


class Start(Abstract):
    """An energy and a base, and how events become the points of a path between them; abstract."""

    @abstractmethod
    def path(self) -> DensityPath:
        """The path from the base."""

    @abstractmethod
    def wider(self) -> DensityPath | None:
        """The path from a base that is wider; ``None`` where there is none."""

    @abstractmethod
    def points(self, events: Tensor) -> Tensor:
        """The points that events are, ``(n, *event_shape)`` to ``(n, *point)``."""

    @abstractmethod
    def events(self, points: Tensor) -> Tensor:
        """The events that points are."""


def start_of(energy: EnergyModule, base: DistributionModule | Distribution | None, context: Context = None) -> Start:
    """The start of chains that are annealed from a base to an energy.

    Args:
        energy: The energy.
        base: A distribution of exact density; where the energy's own chains begin if ``None``.
        context: A single one.

    Raises:
        NotImplementedError: the base has no exact density, or is of bits or symbols that depend on each other.
        TypeError: it is no distribution.
        ValueError: its events have another shape or support.
    """
    if isinstance(base, DistributionModule):
        base = base(context_of_part(context, base.context_shape))
    if base is not None:
        _check_base(base, energy)
    if energy.symbols is None:
        return RealStart(energy, base, context)
    return DiscreteStart(energy, energy.start(context) if base is None else base, context)


class RealStart(Start):
    """An energy of real events; points are their coordinates.

    Args:
        energy: The energy.
        base: The base; standard normal in the coordinates, where the energy's own chains begin, if ``None``.
        context: A single one.
    """

    def __init__(self, energy: EnergyModule, base: TorchDistributionMixin | None, context: Context) -> None:
        self.energy, self.base, self.context = energy, base, context
        self.coordinates = energy.coordinates(context)
        self.normal = UnitNormal(energy.event_shape, energy.zero)

    def path(self) -> DensityPath:
        return HamiltonianPath(self.draw, self.log_base, self.log_target, leapfrog_steps=_LEAPFROG_STEPS)

    def wider(self) -> DensityPath:
        centre = self.draw(_DRAWS).mean(0)
        log_width = prod(self.energy.event_shape) * log(_WIDER)
        return HamiltonianPath(
            lambda chains: centre + _WIDER * (self.draw(chains) - centre),
            lambda z: self.log_base(centre + (z - centre) / _WIDER) - log_width,
            self.log_target,
            leapfrog_steps=_LEAPFROG_STEPS,
        )

    def points(self, events: Tensor) -> Tensor:
        return self.coordinates.inverse_and_log_det(events)[0]

    def events(self, points: Tensor) -> Tensor:
        return self.coordinates.forward_and_log_det(points)[0]

    def draw(self, chains: int) -> Tensor:
        """Points of the base."""
        return self.normal.sample((chains,)) if self.base is None else self.points(self.base.sample((chains,)))

    def log_base(self, z: Tensor) -> Tensor:
        """The log-density of the base at points."""
        if self.base is None:
            return self.normal.log_prob(z)
        x, log_det = self.coordinates.forward_and_log_det(z)
        return self.base.log_prob(x) + log_det

    def log_target(self, z: Tensor) -> Tensor:
        """Minus the energy of the events that points are, as a log-density of the points."""
        rows = context_rows(self.context, self.energy.context_shape, (len(z),))
        return self.energy.in_coordinates(rows)[1](z)


class DiscreteStart(Start):
    """An energy of bits or symbols; points are bits ``(n, D)``, or one-hot symbols ``(n, D, K)``.

    Args:
        energy: The energy.
        base: Independent elements.
        context: A single one.
    """

    def __init__(self, energy: EnergyModule, base: TorchDistributionMixin, context: Context) -> None:
        self.energy, self.context = energy, context
        self.logits = _logits(base, energy)

    def path(self) -> DensityPath:
        return self.energy.path(Elements(self.logits), self.context)

    def wider(self) -> DensityPath | None:
        even = torch.zeros_like(self.logits)
        return None if torch.equal(self.logits, even) else self.energy.path(Elements(even), self.context)

    def points(self, events: Tensor) -> Tensor:
        return self.energy.numbers(events).reshape(len(events), *self.logits.shape)

    def events(self, points: Tensor) -> Tensor:
        return self.energy.events(points).reshape(len(points), *self.energy.event_shape)


def _logits(base: TorchDistributionMixin, energy: EnergyModule) -> Tensor:
    """The logits of independent elements, ``(D,)`` of bits and ``(D, K)`` of symbols."""
    elements = base
    while isinstance(elements, Independent):
        elements = elements.base_dist
    if not isinstance(elements, Bernoulli if energy.symbols == 2 else Categorical):
        raise NotImplementedError(
            f"`base` must be of independent elements for bits or symbols, got {type(elements).__name__}; use "
            "Bernoulli or Categorical distributions with the frequencies of data"
        )
    return elements.logits.reshape(prod(energy.event_shape), *(() if energy.symbols == 2 else (energy.symbols,)))


def _check_base(base: Distribution, energy: EnergyModule) -> None:
    if not isinstance(base, Distribution):
        raise TypeError(f"`base` must be a DistributionModule or a distribution, got {type(base).__name__}")
    density = density_of(base)
    if density != "exact":
        raise NotImplementedError(
            f"`base` must have an exact density, got {density!r}: weights divide by it; use a flow, or a normal with "
            "the moments of data"
        )
    if base.batch_shape or tuple(base.event_shape) != energy.event_shape:
        raise ValueError(
            f"`base` must have an empty batch shape and events of shape {energy.event_shape}, got "
            f"{tuple(base.batch_shape)} and {tuple(base.event_shape)}"
        )
    if base.support.is_discrete != energy.support.is_discrete:
        kinds = ["discrete" if part.support.is_discrete else "real" for part in (energy, base)]
        raise ValueError(f"`base` must have {kinds[0]} events as the energy has, got {kinds[1]} ones")
