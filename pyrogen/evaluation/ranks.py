r"""Are ranks uniform? The statistics of simulation-based calibration, from integer ranks :math:`r \in \{0, \dots, L\}`.

The rank of a true value among :math:`L` posterior draws is uniform if the posterior is right. Three views of that: a
chi-square test over bins; the empirical distribution function, with a band that holds *all* of it at once with a given
probability; and coverage, how often a region of given credibility holds the truth.

References:
    Säilynoja, Bürkner and Vehtari 2022, "Graphical test for discrete uniformity", https://arxiv.org/abs/2103.10522
    Hermans et al. 2022, "A crisis in simulation-based inference?", https://arxiv.org/abs/2110.06581
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, log10
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from pyrogen.arguments import checked, integer, numbers, real_tensor
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import TestResult, normal_quantile

_BETWEEN_QUARTILES = 2 * normal_quantile(0.5)  # of a standard normal


@dataclass(frozen=True, repr=False)
class EcdfBand:
    r"""The empirical distribution function of ranks, and the band it stays in.

    Args:
        fractions: Where it is evaluated, :math:`1 / (L + 1), \dots, L / (L + 1)`: also what it is for uniform ranks.
        ecdf: The share of ranks in that fraction of their range.
        lower: Lower end of the simultaneous band.
        upper: Upper end.
        level: How often uniform ranks stay in the whole band.
    """

    fractions: Tensor
    ecdf: Tensor
    lower: Tensor
    upper: Tensor
    level: float

    @property
    def inside(self) -> bool:
        """Whether the function stays in the band everywhere."""
        return bool(((self.ecdf >= self.lower) & (self.ecdf <= self.upper)).all())

    def __repr__(self) -> str:
        where = "inside" if self.inside else "outside"
        return f"<EcdfBand at {self.level:.0%} over {len(self.fractions)} fractions: the curve is {where}>"


@dataclass(frozen=True, repr=False)
class Coverage:
    """How often regions of given credibility hold the truth.

    Args:
        levels: The credibility of the regions.
        coverage: The share of simulations in which the truth was inside.
        lower: Lower end of its exact (Clopper-Pearson) interval, for each level by itself.
        upper: Upper end.
    """

    levels: Tensor
    coverage: Tensor
    lower: Tensor
    upper: Tensor

    def __repr__(self) -> str:
        inside = (self.levels >= self.lower) & (self.levels <= self.upper)
        furthest = int((self.coverage - self.levels).abs().argmax())
        return (
            f"<Coverage at {len(self.levels)} levels, {int(inside.sum())} in their interval: furthest off "
            f"{float(self.coverage[furthest]):.3f} at level {float(self.levels[furthest]):.3f}>"
        )


@dataclass(frozen=True)
class Departure:
    r"""How far ranks are from uniform ones: the size of a fault, which a p-value does not show.

    Draws :math:`\mathcal{N}(0, 1)` and true values :math:`\mathcal{N}(\delta, s^2)` make ranks, over their number, of
    quantiles :math:`\Phi(\delta + s \Phi^{-1}(q))`. The quartiles are solved for :math:`\delta` and :math:`s`.

    Attributes:
        shift: :math:`\delta`, how far true values lie above the draws, in standard deviations of the draws.
        spread: :math:`s`, how widely they scatter, in the same unit: above 1 the draws are too narrow.
        distance: The largest difference of the empirical distribution function of the ranks from the uniform one: by so
            much, averaged over simulations, probabilities of the posterior are wrong. By chance alone it is about 0.9
            over the square root of the number of simulations.
    """

    shift: float
    spread: float
    distance: float

    @classmethod
    @takes_arrays
    def of(cls, ranks: Tensor, draws: int) -> Departure:
        """That of ranks among so many draws.

        Raises:
            ValueError: a rank is out of range.
        """
        uniform = np.arange(draws + 2) / (draws + 1)
        ecdf = np.concatenate([[0.0], _histogram(ranks, draws).cumsum() / len(ranks)])
        low, high = (NormalDist().inv_cdf(u) for u in np.interp([0.25, 0.75], ecdf, uniform))
        return cls((low + high) / 2, (high - low) / _BETWEEN_QUARTILES, float(np.abs(ecdf - uniform).max()))

    def __str__(self) -> str:
        side, width = "above" if self.shift > 0 else "below", "narrow" if self.spread > 1 else "wide"
        return (
            f"true values {abs(self.shift):.2f} sd {side}, draws too {width} by a factor of {self.factor:.2f}, "
            f"probabilities off by up to {self.distance:.2f}"
        )

    @property
    def factor(self) -> float:
        """By how much draws are too narrow or too wide, above 1."""
        return max(self.spread, 1 / self.spread)


class EcdfNull:
    r"""What the empirical distribution function of uniform ranks does by chance, exactly.

    The distance from uniformity is the smallest binomial tail probability over all fractions. Counts of uniform ranks
    are independent Poisson numbers given their sum, so the probability that every tail stays above a bound is a chain
    of convolutions, cut off at the bound after each.

    Args:
        simulations: How many ranks there are.
        draws: Their largest value.

    Raises:
        TypeError: a number is no integer.
        ValueError: there are no simulations or draws.

    Example:
        >>> round(2**20 * EcdfNull(20, 1).test(torch.ones(20, dtype=torch.long)).p_value, 3)
        2.0
    """

    @checked
    def __init__(self, simulations: int, draws: int) -> None:
        from scipy.stats import binom, poisson

        self.simulations = simulations
        self.fractions = np.arange(1, draws + 1) / (draws + 1)
        counts = np.arange(simulations + 1)[:, None]
        below = binom.cdf(counts, simulations, self.fractions)
        above = binom.sf(counts - 1, simulations, self.fractions)
        self._tails = np.minimum(below, above)  # (simulations + 1, draws)
        increments = poisson.pmf(counts[:, 0], simulations / (draws + 1))
        self._increments = increments[: np.flatnonzero(increments > 1e-25)[-1] + 1]
        self._sum = poisson.pmf(simulations, simulations)
        self._edges: dict[float, float] = {}  # of bands, by level

    @takes_arrays
    def test(self, ranks: Tensor) -> TestResult:
        """Whether the ranks are uniform; the statistic is minus the decimal logarithm of the smallest tail.

        Raises:
            ValueError: a rank is out of range, or there are more or fewer ranks than ``simulations``.
        """
        smallest = self._tails[self._counts(ranks), np.arange(len(self.fractions))].min()
        return TestResult(-log10(max(smallest, 1e-300)), self._chance(smallest), "ECDF distance")

    @takes_arrays
    @checked
    def band(self, ranks: Tensor, level: float = 0.95) -> EcdfBand:
        """The empirical distribution function with its simultaneous band.

        Raises:
            ValueError: ``level`` is not between 0 and 1; or as for :meth:`test`.
        """
        if level not in self._edges:
            self._edges[level] = self._edge(level)
        bounds = self._bounds(self._edges[level])
        return EcdfBand(
            torch.as_tensor(self.fractions),
            *(torch.as_tensor(count / self.simulations) for count in (self._counts(ranks), *bounds)),
            level,
        )

    def _edge(self, level: float) -> float:
        """The largest tail that uniform ranks fall to with a probability of at most one minus the level."""
        low, high = log((1 - level) / (2 * len(self.fractions))), 0.0  # from Bonferroni's, which is too small
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if self._chance(exp(middle)) <= 1 - level + 1e-12 else (low, middle)
        return exp(low)

    def _chance(self, tail: float) -> float:
        """The probability that uniform ranks have a tail as small as this one."""
        bonferroni = 2 * len(self.fractions) * tail
        if bonferroni < 1e-9:  # closer than the rounding of the other
            return float(bonferroni)
        lower, upper = self._bounds(tail)
        if (lower > upper).any():
            return 1.0
        state, start = np.ones(1), 0  # over the counts from the start on
        for low, high in zip(lower, upper, strict=True):
            reached = np.convolve(state, self._increments[: high - start + 1])
            reached = np.pad(reached, (0, max(0, high - start + 1 - len(reached))))
            state, start = reached[low - start : high - start + 1], low
        left = self.simulations - start - np.arange(len(state))
        last = np.where(left < len(self._increments), self._increments[left.clip(max=len(self._increments) - 1)], 0.0)
        return float(min(1.0, max(tail, 1 - state @ last / self._sum)))

    def _bounds(self, tail: float) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest count at each fraction with a larger tail."""
        inside = self._tails > tail * (1 + 1e-9)
        return inside.argmax(0), np.where(inside.any(0), self.simulations - inside[::-1].argmax(0), -1)

    def _counts(self, ranks: Tensor) -> np.ndarray:
        histogram = _histogram(ranks, len(self.fractions))
        if len(ranks) != self.simulations:
            raise ValueError(f"`ranks` must hold {self.simulations} ranks, got {len(ranks)}")
        return histogram.cumsum()[:-1]


@takes_arrays
def chi_square_test(ranks: Tensor, draws: int, *, bins: int | None = None) -> TestResult:
    r"""Pearson's chi-square test of uniform ranks.

    Args:
        ranks: Integers in :math:`\{0, \dots, L\}`.
        draws: :math:`L`.
        bins: In how many bins they are counted. If ``None``, the square root of their number, between 2 and 20, or
            fewer, so that five are expected in each. If ``bins`` does not divide :math:`L + 1`, the expected counts
            differ accordingly.

    Raises:
        TypeError: ``ranks`` is no tensor.
        ValueError: a rank is out of range, there are more bins than possible ranks or fewer than two, or fewer than
            five ranks are expected in a bin, too few for the chi-square distribution to hold.
    """
    histogram = _histogram(ranks, draws)
    if bins is None:
        most = min(int(len(ranks) ** 0.5), 20, draws + 1)
        enough = (b for b in range(most, 2, -1) if (draws + 1) // b * len(ranks) >= 5 * (draws + 1))
        bins = next(enough, 2)
    integer(bins, "bins")
    if not 2 <= bins <= draws + 1:
        raise ValueError(f"`bins` must be between 2 and `draws` + 1 = {draws + 1}, got {bins}")
    bin_of_rank = np.arange(draws + 1) * bins // (draws + 1)
    observed = np.bincount(bin_of_rank, weights=histogram, minlength=bins)
    expected = np.bincount(bin_of_rank, minlength=bins) * len(ranks) / (draws + 1)
    if expected.min() < 5:
        raise ValueError(
            f"`ranks` must be enough for five in each of the {bins} `bins`, got {len(ranks)}: take fewer bins, or the "
            "test by the empirical distribution function, which holds for any number"
        )
    statistic = float(((observed - expected) ** 2 / expected).sum())
    half = torch.tensor([(bins - 1) / 2, statistic / 2], dtype=torch.double)
    return TestResult(statistic, float(torch.special.gammaincc(*half)), f"chi-square ({bins - 1} degrees of freedom)")


@takes_arrays
def highest_coverage(ranks: Tensor, draws: int, *, levels: Tensor | None = None) -> Coverage:
    r"""Coverage of the regions where a quantity is highest.

    The region of credibility :math:`\alpha` holds the draws with the :math:`\alpha` highest values. For the posterior
    density these are the highest-density regions.

    Args:
        ranks: Of the true value of the quantity among the draws.
        draws: How many draws :math:`L`.
        levels: Credibilities, rounded to multiples of :math:`1 / (L + 1)`, at which uniform ranks give exactly the
            credibility; twenty even ones if ``None``.

    Raises:
        TypeError: ``ranks`` is no tensor.
        ValueError: a rank is out of range, or a level is not between 0 and 1.
    """
    above = draws - checked_ranks(ranks, draws)
    steps = _steps(levels, draws)
    return _coverage(above[:, None] < steps, steps / (draws + 1))


@takes_arrays
def central_coverage(ranks: Tensor, draws: int, *, levels: Tensor | None = None) -> Coverage:
    r"""Coverage of the central intervals of a quantity, between its lower and upper quantiles.

    Arguments and errors are those of :func:`highest_coverage`.
    """
    checked = checked_ranks(ranks, draws)
    cut = ((draws + 1 - _steps(levels, draws)) // 2)[None]
    inside = (checked[:, None] >= cut) & (checked[:, None] <= draws - cut)
    return _coverage(inside, (draws + 1 - 2 * cut[0]) / (draws + 1))


def _steps(levels: Tensor | None, draws: int) -> np.ndarray:
    if levels is None:
        levels = torch.as_tensor(np.linspace(0.05, 1.0, 20))
    numbers(levels, "levels")
    if levels.dim() != 1 or bool(((levels < 0) | (levels > 1)).any()):
        raise ValueError(f"`levels` must be a vector of numbers between 0 and 1, got {levels}")
    chosen = levels.detach().cpu().double().numpy()
    return np.clip(np.rint(chosen * (draws + 1)), 1, draws + 1).astype(int)


def _coverage(inside: np.ndarray, levels: np.ndarray) -> Coverage:
    from scipy.stats import beta

    total, hits = len(inside), inside.sum(0)
    # A beta distribution with a zero parameter is a point at an end.
    lower = np.where(hits > 0, beta.ppf(0.025, np.maximum(hits, 1), total - hits + 1), 0.0)
    upper = np.where(hits < total, beta.ppf(0.975, hits + 1, np.maximum(total - hits, 1)), 1.0)
    return Coverage(*map(torch.as_tensor, (levels, hits / total, lower, upper)))


def _histogram(ranks: Tensor, draws: int) -> np.ndarray:
    return np.bincount(checked_ranks(ranks, draws), minlength=draws + 1)


def ranks_among(values: Tensor, others: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """How many of the others are below each value; one equal to it is below or above at random.

    Args:
        values: One for each simulation.
        others: Those of posterior draws.
        generator: Breaks ties.

    Shape:
        ``(rows,)`` and ``(draws, rows)`` to ``(rows,)``, on the CPU.
    """
    ties = (others == values).sum(0).cpu()
    # One more than the ties: the value is as likely at each place among its equals.
    above = (torch.rand(len(values), generator=generator) * (ties + 1)).floor().long()
    return (others < values).sum(0).cpu() + above


def checked_ranks(ranks: Tensor, draws: int, name: str = "ranks") -> np.ndarray:
    """Ranks as an array.

    Raises:
        TypeError: they are no tensor.
        ValueError: they are not a vector of integers between 0 and ``draws``.
    """
    real_tensor(ranks, name)
    integer(draws, "draws")
    if ranks.is_floating_point() or ranks.dtype == torch.bool or ranks.dim() != 1 or not len(ranks):
        raise ValueError(f"`{name}` must be integers of shape (simulations,), got {ranks.dtype} {tuple(ranks.shape)}")
    if int(ranks.min()) < 0 or int(ranks.max()) > draws:
        raise ValueError(f"`{name}` must be between 0 and {draws}, got {int(ranks.min())} to {int(ranks.max())}")
    return ranks.cpu().numpy()
