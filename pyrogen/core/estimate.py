r"""A number with its uncertainty, its unit and what kind of number it is; and the outcome of a test.

An :class:`Estimate` carries the standard error over the data and the density it was computed from, and is printed with
both; a :class:`TestResult` carries a p-value. Neither can hold NaN for its value: there is no verdict on what is no
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot, isfinite, isnan, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from pyrogen.arguments import checked, numbers, without_nan
from pyrogen.arrays import takes_arrays
from pyrogen.markup import notebook_table

from .density import Density

BITS_PER_DIMENSION = "bits per dimension"
_ZEROS = 7  # more of them are written as an exponent


@dataclass(frozen=True, repr=False)
class Estimate:
    """A mean over data, with its standard error.

    Args:
        value: The estimate.
        standard_error: Its standard deviation over repeated data sets of this size; NaN where it is not known.
        unit: "nats", "bits per dimension", "accuracy", ...
        density: What the log-probabilities behind it mean; ``None`` where there are none.

    Raises:
        ValueError: ``value`` is NaN, or ``standard_error`` is negative.

    Example:
        >>> print(Estimate(-61.31, 0.42, "nats", "exact"))
        -61.31 ± 0.42 nats (exact)
        >>> print(Estimate(-96.2, 0.31, "nats", "lower bound"))
        -96.20 ± 0.31 nats (lower bound)

        A format of numbers is that of value and standard error, without unit and label, as columns need them:

        >>> print(f"{Estimate(-96.2, 0.31):.3f}")
        -96.200 ± 0.310
    """

    value: float
    standard_error: float
    unit: str = "nats"
    density: Density = "exact"

    def __post_init__(self) -> None:
        if isnan(self.value):
            raise ValueError("`value` must be a number, got NaN")
        if self.standard_error < 0:
            raise ValueError(f"`standard_error` must not be negative, got {self.standard_error}")

    @classmethod
    @takes_arrays
    def of_mean(
        cls, values: Tensor, *, unit: str = "nats", density: Density = "exact", shared_error: float = 0.0
    ) -> Estimate:
        r"""The mean of independent values, :math:`\bar v \pm \sqrt{s^2 / n + e^2}`.

        The standard error is that of the central limit theorem: it is not known for one value nor where the mean is
        infinite, and it is too small for few values with heavy tails.

        Args:
            values: One number for each datum; an infinite one makes the mean infinite.
            unit: Their unit.
            density: What they mean.
            shared_error: The standard error :math:`e` of a constant that all of them hold, such as a normalizer that
                was estimated; it does not average out.

        Raises:
            TypeError: they are no tensor.
            ValueError: there are no values, one is NaN, or there are infinities of both signs, which have no mean.
        """
        without_nan(values, "values")
        if not values.numel():
            raise ValueError("`values` must hold at least one number, got none")
        values = values.detach().double().flatten()
        if values.isposinf().any() and values.isneginf().any():
            raise ValueError("`values` must have a mean, got infinities of both signs")
        error = float(values.std(correction=1)) / sqrt(len(values)) if len(values) > 1 else float("nan")
        return cls(float(values.mean()), hypot(error, shared_error), unit, density)

    @classmethod
    @takes_arrays
    def of_share(cls, hits: Tensor, *, unit: str, density: Density = None) -> Estimate:
        r"""The share of independent trials that are hits, with the standard error of Agresti and Coull.

        That of :meth:`of_mean` is zero where all are hits or none, as if the share were known. Here it is that of the
        share with two hits and two misses more, :math:`\tilde p = (k + 2) / (n + 4)`, so that intervals hold the truth
        as often as they claim, near 0 and 1 more often.

        Args:
            hits: Whether each trial is one, of booleans.
            unit: A share of what.
            density: What it means.

        Raises:
            TypeError: they are no tensor of booleans.
            ValueError: there are no trials.

        References:
            Agresti and Coull 1998, "Approximate is better than \"exact\" for interval estimation of binomial
            proportions", https://doi.org/10.2307/2685469
        """
        if not isinstance(hits, Tensor) or hits.dtype != torch.bool:
            raise TypeError(f"`hits` must be a tensor of booleans, got {getattr(hits, 'dtype', type(hits).__name__)}")
        if not hits.numel():
            raise ValueError("`hits` must hold at least one trial, got none")
        share = float(hits.double().mean())
        return cls(share, share_error(share, hits.numel()), unit, density)

    @classmethod
    @takes_arrays
    @checked(counts=numbers, sizes=numbers)
    def of_ratio(cls, counts: Tensor, sizes: Tensor, *, unit: str, density: Density = None) -> Estimate:
        r"""The ratio of two sums over independent data, :math:`r = \sum_i c_i / \sum_i s_i`.

        Such is a rate of errors where data are of several sizes. With residuals :math:`d_i = c_i - r s_i` the standard
        error is :math:`\sqrt{\tfrac{n}{n - 1} \sum_i d_i^2} / \sum_i s_i`, to first order in them: it is not known for
        one datum, and too small for few.

        Args:
            counts: Of each datum.
            sizes: Of each datum, none of them negative; not all are zero.
            unit: What the ratio is in.
            density: What it means.

        Raises:
            TypeError: they are no tensors.
            ValueError: shapes differ, a number is NaN or infinite, or sizes are negative or all zero.

        References:
            Cochran 1977, "Sampling techniques", third edition, section 6.3

        Example:
            >>> print(Estimate.of_ratio(torch.tensor([1, 0, 2]), torch.tensor([4, 6, 5]), unit="a word"))
            0.20 ± 0.13 a word
        """
        if counts.shape != sizes.shape:
            raise ValueError(f"`sizes` must have the shape {tuple(counts.shape)} of `counts`, got {tuple(sizes.shape)}")
        if not bool((sizes >= 0).all()) or not bool((sizes > 0).any()):
            raise ValueError("`sizes` must not be negative, nor all zero")
        counts, sizes = (part.detach().double().flatten() for part in (counts, sizes))
        ratio = counts.sum() / sizes.sum()
        residuals, number = counts - ratio * sizes, len(counts)
        spread = residuals.square().sum() * number / (number - 1) if number > 1 else torch.tensor(float("nan"))
        return cls(float(ratio), float(spread.sqrt() / sizes.sum()), unit, density)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The normal confidence interval: value plus and minus a quantile times the standard error.

        Args:
            level: How often such intervals hold the truth, over repeated data sets.

        Raises:
            ValueError: ``level`` is not between 0 and 1.
        """
        half_width = normal_quantile(level) * self.standard_error
        return self.value - half_width, self.value + half_width

    @property
    def label(self) -> str:
        """What kind of number it is. A lower bound of the log-probability is an upper bound of the bits."""
        if self.density == "lower bound" and self.unit == BITS_PER_DIMENSION:
            return "upper bound"
        return self.density or ""

    def rounded(self) -> str:
        """Value and standard error, down to the second leading digit of the error; without unit and label."""
        return _rounded(self.value, self.standard_error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def _repr_html_(self) -> str:
        facts = {"value": self.rounded(), "unit": self.unit, "log_prob": self.label}
        return notebook_table(type(self).__name__, {name: fact for name, fact in facts.items() if fact})

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        label = f" ({self.label})" if self.label else ""
        return f"{self.rounded()}{unit}{label}"

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ± {self.standard_error:{spec}}" if spec else str(self)


@dataclass(frozen=True)
class TestResult:
    """The outcome of a test of a hypothesis.

    Args:
        statistic: Larger values speak against the hypothesis.
        p_value: The probability of a statistic at least as large if the hypothesis holds.
        name: What was tested.
        null: The statistic under each permutation or simulation of the hypothesis, where there were any.

    Raises:
        ValueError: the statistic is NaN, or ``p_value`` is not between 0 and 1.

    Example:
        >>> print(TestResult(0.0312, 0.004, "squared MMD"))
        squared MMD 0.0312, p = 0.004
    """

    __test__ = False  # pytest must not collect it

    statistic: float
    p_value: float
    name: str = "statistic"
    null: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isnan(self.statistic):
            raise ValueError("`statistic` must be a number, got NaN: there is no verdict on it")
        if not 0 <= self.p_value <= 1:
            raise ValueError(f"`p_value` must be between 0 and 1, got {self.p_value}")

    def _repr_html_(self) -> str:
        return notebook_table("Test", {self.name: f"{self.statistic:.4g}", "p-value": f"{self.p_value:.2g}"})

    def __str__(self) -> str:
        return f"{self.name} {self.statistic:.4g}, p = {self.p_value:.2g}"


def share_error(share: float, trials: int) -> float:
    """The standard error of a share of independent trials, that of Agresti and Coull 1998."""
    likely = (share * trials + 2) / (trials + 4)
    return sqrt(likely * (1 - likely) / trials)


@checked
def normal_quantile(level: float) -> float:
    """How many standard deviations hold the central ``level`` of a normal.

    Raises:
        ValueError: ``level`` is not between 0 and 1.
    """
    return NormalDist().inv_cdf((1 + level) / 2)


def permutation_p_value(statistic: float, null: Tensor) -> float:
    r"""The p-value of a permutation test, :math:`(1 + \#\{T_b \ge T\}) / (1 + B)`: never zero, and valid for any B.

    Values that differ from the statistic by rounding alone count as equal to it.

    Raises:
        ValueError: a value of the null distribution is NaN.
    """
    without_nan(null, "null")
    return (1 + int((null >= statistic - float(_slack(null))).sum())) / (1 + null.numel())


def smallest_p_value(results: Sequence[TestResult]) -> float:
    """The p-value of the smallest p-value of several tests.

    Where they have null statistics under the same relabelings, the smallest p-value is compared with that of each
    relabeling, which is exact however the tests depend on each other. Otherwise it is multiplied by their number.

    References:
        Westfall and Young 1993, "Resampling-based multiple testing", sections 2.3 and 2.5
    """
    counts = {None if result.null is None else len(result.null) for result in results}
    if None in counts or len(counts) > 1:
        return min(1.0, len(results) * min(result.p_value for result in results))
    found = torch.tensor([[result.statistic] for result in results], dtype=torch.double)
    null = torch.stack([result.null.double().cpu() for result in results])
    every = torch.cat([found, null], 1)
    at_least = every.shape[1] - torch.searchsorted(every.sort(1).values, every - _slack(null))
    smallest = at_least.amin(0)  # over the tests, of the truth and of each relabeling
    return float((smallest <= smallest[0]).double().mean())


def _slack(null: Tensor) -> Tensor:
    """By how much statistics may differ by rounding alone, ``(*batch, 1)`` of ``(*batch, B)``; in any unit."""
    spread, size = null.std(-1, correction=0, keepdim=True), null.abs().amax(-1, keepdim=True)
    slack = torch.maximum(1e-5 * spread, 1e-12 * size)
    return torch.where(slack.isfinite(), slack, 0.0)


def _rounded(value: float, error: float) -> str:
    """Value and error, down to the second leading digit of the error; with an exponent where that takes many zeros."""
    if not (isfinite(value) and isfinite(error)):
        return f"{value:.6g} ± {error:.2g}"
    if error == 0:
        return f"{value:.6g} ± 0"
    places = 1 - int(f"{error:.1e}".partition("e")[2])  # the exponent after rounding: 0.0999 is written as 0.10
    if not -_ZEROS <= places <= _ZEROS:
        digits = max(int(f"{abs(value):e}".partition("e")[2]) + places, 0) if value else 0
        return f"{value:.{digits}e} ± {error:.1e}"
    return f"{round(value, places) + 0.0:.{max(places, 0)}f} ± {round(error, places):.{max(places, 0)}f}"
