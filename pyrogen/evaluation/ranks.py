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
from math import log10

import numpy as np
import torch
from torch import Tensor

from pyrogen.arguments import checked, integer, numbers, real_tensor
from pyrogen.core.estimate import TestResult


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


class EcdfNull:
    """What the empirical distribution function of uniform ranks does by chance, by simulation.

    The distance from uniformity is the smallest binomial tail probability over all fractions.

    Args:
        simulations: How many ranks there are.
        draws: Their largest value.
        repetitions: How many sets of uniform ranks are drawn; a p-value cannot be below ``1 / (repetitions + 1)``.
        generator: Of those sets.

    Raises:
        TypeError: a number is no integer, or ``generator`` no generator.
        ValueError: there are no simulations, draws or repetitions.
    """

    @checked
    def __init__(
        self, simulations: int, draws: int, *, repetitions: int = 4999, generator: torch.Generator | None = None
    ) -> None:
        from scipy.stats import binom

        self.simulations = simulations
        self.fractions = np.arange(1, draws + 1) / (draws + 1)
        counts = np.arange(simulations + 1)[:, None]
        below = binom.cdf(counts, simulations, self.fractions)
        above = binom.sf(counts - 1, simulations, self.fractions)
        self._tails = np.minimum(below, above)  # (simulations + 1, draws)
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        uniform = np.full(draws + 1, 1 / (draws + 1))
        drawn = np.random.default_rng(seed).multinomial(simulations, uniform, size=repetitions)
        self.null = np.sort(self._smallest_tail(drawn.cumsum(1)[:, :-1]))

    def test(self, ranks: Tensor) -> TestResult:
        """Whether the ranks are uniform; the statistic is minus the decimal logarithm of the smallest tail.

        Raises:
            ValueError: a rank is out of range, or there are more or fewer ranks than ``simulations``.
        """
        smallest = self._smallest_tail(self._counts(ranks)[None])[0]
        p_value = (1 + np.searchsorted(self.null, smallest * (1 + 1e-9), side="right")) / (1 + len(self.null))
        return TestResult(-log10(max(smallest, 1e-300)), float(p_value), "ECDF distance")

    @checked
    def band(self, ranks: Tensor, level: float = 0.95) -> EcdfBand:
        """The empirical distribution function with its simultaneous band.

        Raises:
            ValueError: ``level`` is not between 0 and 1, or too close to 1 for the number of repetitions; or as for
                :meth:`test`.
        """
        from scipy.stats import binom

        rejected = int((1 - level) * (len(self.null) + 1) + 1e-9)
        if rejected < 1:
            raise ValueError(
                f"`level` must be at most 1 - 1 / {len(self.null) + 1} with these repetitions, got {level}"
            )
        tail = self.null[rejected - 1] * (1 - 1e-9)
        lower = binom.ppf(tail, self.simulations, self.fractions)
        upper = self.simulations - binom.ppf(tail, self.simulations, 1 - self.fractions)
        ecdf, low, high = (torch.as_tensor(count / self.simulations) for count in (self._counts(ranks), lower, upper))
        return EcdfBand(torch.as_tensor(self.fractions), ecdf, low, high, level)

    def _counts(self, ranks: Tensor) -> np.ndarray:
        histogram = _histogram(ranks, len(self.fractions))
        if len(ranks) != self.simulations:
            raise ValueError(f"`ranks` must hold {self.simulations} ranks, got {len(ranks)}")
        return histogram.cumsum()[:-1]

    def _smallest_tail(self, counts: np.ndarray) -> np.ndarray:
        return self._tails[counts, np.arange(len(self.fractions))].min(1)


def chi_square_test(ranks: Tensor, draws: int, *, bins: int | None = None) -> TestResult:
    r"""Pearson's chi-square test of uniform ranks.

    Args:
        ranks: Integers in :math:`\{0, \dots, L\}`.
        draws: :math:`L`.
        bins: In how many bins they are counted; the square root of their number, between 2 and 20, if ``None``. If
            ``bins`` does not divide :math:`L + 1`, the expected counts differ accordingly.

    Raises:
        TypeError: ``ranks`` is no tensor.
        ValueError: a rank is out of range, there are more bins than possible ranks or fewer than two, or fewer than
            five ranks are expected in a bin, too few for the chi-square distribution to hold.
    """
    histogram = _histogram(ranks, draws)
    if bins is None:
        bins = min(max(2, int(len(ranks) ** 0.5)), 20, draws + 1)
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
