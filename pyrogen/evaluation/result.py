r"""What an evaluation answers: a number with its uncertainty, its unit and what kind of number it is.

No figure leaves this room bare. An :class:`Estimate` carries the standard error over the data and the density it was
computed from, and says "lower bound" when it is printed; a :class:`TestResult` carries a p-value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor, isfinite, log10, sqrt
from statistics import NormalDist

from torch import Tensor

from pyrogen.core.density import Density

BITS_PER_DIMENSION = "bits per dimension"


@dataclass(frozen=True)
class Estimate:
    """A mean over data, with its standard error.

    Args:
        value: The estimate.
        standard_error: Its standard deviation over repeated data sets of this size.
        unit: "nats", "bits per dimension", "accuracy", ...
        density: What the log-probabilities behind it mean; ``None`` where there are none.

    Example:
        >>> print(Estimate(-61.31, 0.42, "nats", "exact"))
        -61.3 ± 0.4 nats (exact)
        >>> print(Estimate(-96.2, 0.31, "nats", "lower bound"))
        -96.2 ± 0.3 nats (lower bound)
    """

    value: float
    standard_error: float
    unit: str = "nats"
    density: Density = "exact"

    @classmethod
    def of_mean(cls, values: Tensor, *, unit: str = "nats", density: Density = "exact") -> Estimate:
        r"""The mean of independent values, :math:`\bar v \pm s / \sqrt n`.

        The standard error is that of the central limit theorem: it is not known for one value, and it is too small for
        few values with heavy tails.

        Args:
            values: One number for each datum.
            unit: Their unit.
            density: What they mean.

        Raises:
            ValueError: there are no values.
        """
        if not values.numel():
            raise ValueError("`values` must hold at least one number, got none")
        values = values.detach().double().flatten()
        error = float(values.std(correction=1)) / sqrt(len(values)) if len(values) > 1 else float("nan")
        return cls(float(values.mean()), error, unit, density)

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

    def __str__(self) -> str:
        label = f" ({self.label})" if self.label else ""
        return f"{_rounded(self.value, self.standard_error)} {self.unit}{label}"


@dataclass(frozen=True)
class TestResult:
    """The outcome of a test of a hypothesis.

    Args:
        statistic: Larger values speak against the hypothesis.
        p_value: The probability of a statistic at least as large if the hypothesis holds.
        name: What was tested.
        null: The statistic under each permutation or simulation of the hypothesis, where there were any.

    Example:
        >>> print(TestResult(0.0312, 0.004, "squared MMD"))
        squared MMD 0.0312, p = 0.004
    """

    __test__ = False  # pytest must not collect it

    statistic: float
    p_value: float
    name: str = "statistic"
    null: Tensor | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name} {self.statistic:.4g}, p = {self.p_value:.2g}"


def normal_quantile(level: float) -> float:
    """How many standard deviations hold the central ``level`` of a normal.

    Raises:
        ValueError: ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


def permutation_p_value(statistic: float, null: Tensor) -> float:
    r"""The p-value of a permutation test, :math:`(1 + \#\{T_b \ge T\}) / (1 + B)`: never zero, and valid for any B.

    Values that differ from the statistic by rounding alone count as equal to it.
    """
    slack = 1e-5 * max(float(null.std(correction=0)), 1e-12)
    return (1 + int((null >= statistic - slack).sum())) / (1 + null.numel())


def _rounded(value: float, error: float) -> str:
    """Value and error with one digit of the error, two where it starts with a one."""
    if not (isfinite(value) and isfinite(error)):
        return f"{value:.4g} ± {error:.2g}"
    if error == 0:
        return f"{value:.6g} ± 0"
    exponent = floor(log10(error))
    places = -exponent + (1 if error / 10.0**exponent < 1.95 else 0)
    return f"{round(value, places):.{max(places, 0)}f} ± {round(error, places):.{max(places, 0)}f}"
