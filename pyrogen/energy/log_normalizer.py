r"""The normalizer of an energy: :math:`\log Z = \log \int e^{-E(x)} \, dx`, and what can be known of its error.

Chains begin at a *base*, a distribution of known density, and are annealed to the energy
(:mod:`pyrogen.numerics.markov.annealing`). The mean of their weights is :math:`Z` in expectation, so its logarithm is a
*lower bound* of :math:`\log Z` in expectation. How far below it is cannot be seen from the chains alone: they have no
weights for what none of them found. Of two modes of equal mass, of which the base sees one, they give
:math:`\log Z - \log 2` with a standard error of zero. Hence

- with ``exact_draws`` of the energy, chains are annealed backwards as well. Their weights give an *upper bound* in
  expectation, and both together a bracket and the best estimate. Draws of chains that begin at the base are not exact:
  their bracket would be tight and wrong.
- without, a second set of chains begins at a wider base. It gives another lower bound, and where that one is higher,
  the first has missed something: a warning says so, and the higher one is given. Modes that neither finds stay unknown.

A lower bound of :math:`\log Z` makes log-probabilities :math:`-E(x) - \log Z` too high, by as much as it is too low.

References:
    Neal 2001, "Annealed importance sampling", https://arxiv.org/abs/physics/9803008
    Salakhutdinov and Murray 2008, "On the quantitative analysis of deep belief networks",
    https://doi.org/10.1145/1390156.1390266
    Grosse, Ghahramani and Adams 2015, "Sandwiching the marginal likelihood using bidirectional Monte Carlo",
    https://arxiv.org/abs/1511.02543
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil, hypot

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked, count, instance_of, integer, switch, vector
from pyrogen.core.estimate import Estimate
from pyrogen.core.modes import evaluating
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, batch_shape_of, context_batch_shape
from pyrogen.numerics.markov.annealing import anneal, bennett, log_mean, spaced, survey
from pyrogen.numerics.markov.convergence import r_hat
from pyrogen.numerics.markov.paths import DensityPath
from pyrogen.numerics.markov.tempering import TemperedChains, temper
from pyrogen.numerics.resampling import effective_sample_size

from .model import EnergyModule
from .start import Start, start_of

Events = Callable[[Tensor], Tensor]

_PILOT = 64  # chains at least: their standard deviations set temperatures and scales
_NEIGHBOURS = 0.8  # nats of standard deviation between inverse temperatures that exchange states
_SIGNIFICANT = 4.0  # standard errors
_FEW_NATS = 0.1  # between bounds, which are always a little apart
_FEWEST = 20.0  # chains that weights must be worth for a standard error to be right
_RARE = 0.05  # exchanges
_UNMIXED = 1.1  # R-hat


@dataclass(frozen=True)
class LogNormalizer(Estimate):
    r"""An estimate of :math:`\log Z` in nats, and what kind of number it is.

    Its density is ``"lower bound"`` where it is one, in expectation: from chains that were annealed from the base.

    Args:
        lower: The lower bound in expectation, where there is an upper one too.
        upper: The upper bound in expectation, from exact draws; ``None`` without.
        effective_sample_size: How many chains the weights are worth; of parallel tempering the number of replicas.
        draws: Events at the end of the chains, ``(n, *event_shape)``; of annealing they have weights.
        log_weights: The logarithms of their weights, ``(n,)``.
        warnings: What was found to be doubtful.
    """

    lower: Estimate | None = None
    upper: Estimate | None = None
    effective_sample_size: float = float("nan")
    draws: Tensor | None = field(default=None, repr=False, compare=False)
    log_weights: Tensor | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def label(self) -> str:
        if self.upper is not None:
            return f"estimate between {self.lower.rounded()} and {self.upper.rounded()}"
        return "lower bound in expectation" if self.density == "lower bound" else super().label


class UpperBound(Estimate):
    """An upper bound in expectation."""

    label = "upper bound in expectation"


class NormalizerMethod(Abstract):
    """How a normalizer is estimated; abstract.

    Attributes:
        wider: Whether it is estimated from a wider base too (ten times as wide, or even for bits and symbols), to find
            what was missed from the first.
    """

    wider: bool

    @abstractmethod
    def once(self, path: DensityPath, events: Events) -> LogNormalizer:
        """The normalizer by chains that begin at the base.

        Args:
            path: From the base to the energy.
            events: Makes events of the path's points.
        """

    def estimate(self, start: Start) -> LogNormalizer:
        """The normalizer, from the base and from a wider one."""
        found = self.once(start.path(), start.events)
        path = start.wider() if self.wider else None
        if path is None:
            return found
        other = self.once(path, start.events)
        if not other.value - found.value > _SIGNIFICANT * hypot(found.standard_error, other.standard_error):
            return found
        missed = (
            f"chains from `base` give {found}, and those from a wider one {other}: what chains miss makes the "
            "normalizer smaller, so the first missed part of the energy, and the second is given; use a wider `base`"
        )
        return replace(other, warnings=(missed, *other.warnings))

    def bracket(self, start: Start, exact_draws: Tensor) -> LogNormalizer:
        """The normalizer between two bounds.

        Args:
            start: Gives the path from the base.
            exact_draws: Exact draws of the energy as points of the path, ``(n, *point)``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} makes no bracket of `exact_draws`: use `method=AnnealedImportanceSampling()`"
        )


@dataclass(frozen=True)
class AnnealedImportanceSampling(NormalizerMethod):
    """Independent chains from the base to the energy; back again from exact draws, where there are any.

    A pilot run spaces the inverse temperatures so that the weights vary equally between any two, and learns the step
    sizes of the chains. They stay as they are in the run that counts, whose mean weight therefore has no bias.

    Args:
        temperatures: How many steps chains take from inverse temperature 0 to 1, or the inverse temperatures
            themselves, rising from 0 to 1.
        chains: How many chains.
        wider: Whether as many chains begin at a wider base, unless there are exact draws, which show more.
    """

    temperatures: int | Tensor = 500
    chains: int = 100
    wider: bool = True

    def __post_init__(self) -> None:
        _check_temperatures(self.temperatures)
        integer(self.chains, "chains", least=2)
        switch(self.wider, "wider")

    def once(self, path: DensityPath, events: Events) -> LogNormalizer:
        return self._forwards(path, self._ladder(path), events)

    def bracket(self, start: Start, exact_draws: Tensor) -> LogNormalizer:
        path = start.path()
        temperatures = self._ladder(path)
        forwards = self._forwards(path, temperatures, start.events)
        return _between(forwards, anneal(path, temperatures.flip(0), exact_draws)[0])

    def _ladder(self, path: DensityPath) -> Tensor:
        return _ladder(path, self.temperatures, self.chains)

    def _forwards(self, path: DensityPath, temperatures: Tensor, events: Events) -> LogNormalizer:
        log_weights, points = anneal(path, temperatures, path.draw(self.chains))
        return LogNormalizer(
            *log_mean(log_weights),
            density="lower bound",
            effective_sample_size=float(effective_sample_size(log_weights)),
            draws=events(points),
            log_weights=log_weights,
            warnings=_doubts(log_weights, "chains from the base"),
        )


@dataclass(frozen=True)
class ParallelTempering(NormalizerMethod):
    """Chains at all inverse temperatures at once, which exchange states: for energies of several modes.

    Neighbouring inverse temperatures are compared by the acceptance ratio of Bennett, the sum of which is an estimate
    for every replica; value and standard error are mean and error of independent replicas. It is an estimate whose bias
    falls with the number of sweeps, and no bound.

    Args:
        temperatures: How many steps there are between inverse temperatures 0 and 1, or the inverse temperatures
            themselves, rising from 0 to 1; ``None``: as many as let more than half of the exchanges happen.
        replicas: How many independent chains there are at each.
        sweeps: How many moves each makes.
        warmup: How many go before.
        wider: Whether it is done from a wider base too.

    References:
        Shirts and Chodera 2008, "Statistically optimal analysis of samples from multiple equilibrium states",
        https://arxiv.org/abs/0801.1426
    """

    temperatures: int | Tensor | None = None
    replicas: int = 16
    sweeps: int = 200
    warmup: int = 100
    wider: bool = True

    def __post_init__(self) -> None:
        if self.temperatures is not None:
            _check_temperatures(self.temperatures)
        integer(self.replicas, "replicas", least=2)
        integer(self.sweeps, "sweeps", least=4)
        count(self.warmup, "warmup")
        switch(self.wider, "wider")

    def once(self, path: DensityPath, events: Events) -> LogNormalizer:
        temperatures = _ladder(path, self.temperatures, self.replicas)
        found = temper(path, temperatures, replicas=self.replicas, sweeps=self.sweeps, warmup=self.warmup)
        of_replicas = bennett(found.upwards, found.downwards)[0].sum(0)  # (replicas,)
        estimate = Estimate.of_mean(of_replicas, density="estimate")
        return LogNormalizer(
            estimate.value,
            estimate.standard_error,
            density="estimate",
            effective_sample_size=self.replicas,
            draws=events(found.x.flatten(0, 1)),
            log_weights=torch.zeros(self.sweeps * self.replicas, dtype=torch.double),
            warnings=_obstacles(found),
        )


@checked(energy=instance_of(EnergyModule), method=instance_of(NormalizerMethod))
def log_normalizer(
    energy: EnergyModule,
    *,
    base: DistributionModule | Distribution | None = None,
    context: Context = None,
    exact_draws: Tensor | None = None,
    method: NormalizerMethod | None = None,
) -> LogNormalizer:
    r"""The normalizer of an energy, :math:`\log Z = \log \int e^{-E(x)} \, dx`, in nats; a sum for discrete events.

    Args:
        energy: The energy; it is evaluated as it is, in evaluation mode, and gets no gradient.
        base: A distribution of events of exact density, from which chains begin: a fitted flow, or a normal with the
            moments of data; of bits and symbols independent elements. The nearer it is the better, if it is rather too
            wide than too narrow: what it never draws is missed. ``None``: where the energy's own chains begin.
        context: One context, without batch dimensions, if the energy takes one: each has a normalizer of its own.
        exact_draws: Independent exact draws of the energy, ``(n, *event_shape)``. With them the result has a bracket.
            Draws of chains or data are not exact.
        method: How it is estimated: :class:`AnnealedImportanceSampling` if ``None``.

    Returns:
        The estimate, with its standard error and what kind of number it is.

    Raises:
        FloatingPointError: the energy is not a number, or minus infinity, at some draws.
        NotImplementedError: the base has no exact density, or is of bits or symbols that depend on each other.
        ValueError: shapes or supports do not fit, or the base is too far from the energy, or this has no normalizer.

    Warns:
        UserWarning: few chains carry the weight, chains missed what others found, both directions disagree, or replicas
            did not mix.

    Example:
        >>> from pyrogen.energy import Ising, grid_edges
        >>> ring = Ising((3,), grid_edges(3, periodic=True), coupling=0.5)  # a sum of 8 numbers, 2.5336
        >>> _ = torch.manual_seed(0)
        >>> print(log_normalizer(ring, method=AnnealedImportanceSampling(temperatures=20)))
        2.551 ± 0.019 nats (lower bound in expectation)
    """
    if batch := context_batch_shape(context, energy.context_shape):
        raise ValueError(f"`context` must be a single one, since each has a normalizer, got a batch {tuple(batch)}")
    with evaluating(energy), torch.no_grad():
        start = start_of(energy, base, context)
        method = method or AnnealedImportanceSampling()
        if exact_draws is None:
            found = method.estimate(start)
        else:
            found = method.bracket(start, start.points(_events(exact_draws, energy)))
    for doubt in found.warnings:
        warnings.warn(doubt, stacklevel=3)
    return found


def _between(forwards: LogNormalizer, log_weights: Tensor) -> LogNormalizer:
    """The estimate from chains of both directions, with a bound on either side."""
    value, error = map(float, bennett(forwards.log_weights, log_weights))
    mean, spread = log_mean(log_weights)
    lower = Estimate(forwards.value, forwards.standard_error, "nats", "lower bound")
    upper = UpperBound(-mean, spread, "nats", "estimate")
    doubts = _doubts(log_weights, "chains from `exact_draws`")
    gap = upper.value - lower.value
    if gap > max(_SIGNIFICANT * hypot(lower.standard_error, upper.standard_error), _FEW_NATS):
        doubts += (
            f"the bounds {lower.rounded()} and {upper.rounded()} lie {gap:.2g} nats apart: chains from the base and "
            "from `exact_draws` do not meet; use a `base` that sees all of the energy, or more `temperatures`",
        )
    return replace(
        forwards,
        value=value,
        standard_error=error,
        density="estimate",
        lower=lower,
        upper=upper,
        warnings=forwards.warnings + doubts,
    )


def _ladder(path: DensityPath, temperatures: int | Tensor | None, chains: int) -> Tensor:
    """The inverse temperatures, after a pilot run of which the path learns."""
    visited, lengths = survey(path, max(chains, _PILOT))
    if isinstance(temperatures, Tensor):
        return temperatures.double()
    return spaced(visited, lengths, temperatures or max(ceil(float(lengths[-1]) / _NEIGHBOURS), 2))


def _doubts(log_weights: Tensor, whose: str) -> tuple[str, ...]:
    """What speaks against a standard error from these weights."""
    worth, chains = float(effective_sample_size(log_weights)), len(log_weights)
    if worth >= min(_FEWEST, chains / 2):
        return ()
    return (
        f"the weights of {chains} {whose} are worth {worth:.1f} of them, and the standard error is too small: use more "
        "`temperatures`, more `chains` or a `base` that is nearer",
    )


def _obstacles(found: TemperedChains) -> tuple[str, ...]:
    """What speaks against replicas having mixed."""
    stuck, rarest = int((found.arrivals == 0).sum()), float(found.exchanged.min())
    mixing = float(r_hat(found.upwards[:, -1].T).nan_to_num(1.0, posinf=torch.inf))
    if not stuck and rarest >= _RARE and mixing <= _UNMIXED:
        return ()
    return (
        f"replicas have not mixed: in {stuck} of {len(found.arrivals)} no draw of the base came to the energy, the "
        f"rarest exchange has probability {rarest:.2f}, and the R-hat of energies is {mixing:.2f}; use more `sweeps`, "
        "more `temperatures` or a `base` that is nearer",
    )


def _check_temperatures(temperatures: int | Tensor) -> None:
    if not isinstance(temperatures, Tensor):
        integer(temperatures, "temperatures")
        return
    vector(temperatures, "temperatures", least=2)
    if temperatures[0] != 0 or temperatures[-1] != 1 or not bool((temperatures.diff() > 0).all()):
        raise ValueError(f"`temperatures` must rise from 0 to 1, got {temperatures.tolist()}")


def _events(exact_draws: Tensor, energy: EnergyModule) -> Tensor:
    if len(batch_shape_of(exact_draws, energy.event_shape, "exact_draws")) != 1 or len(exact_draws) < 2:
        raise ValueError(
            f"`exact_draws` must have shape (n, {', '.join(map(str, energy.event_shape))}) with n at least 2, got "
            f"{tuple(exact_draws.shape)}"
        )
    return exact_draws
