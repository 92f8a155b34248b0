r"""The area under the receiver operating characteristic, with its interval.

It is the probability that a random outlier scores above a random inlier (ties count half): 1/2 for a useless score, 1
for perfect separation, below 1/2 where the score is upside down. It does not depend on a threshold, nor on how rare
outliers are; what a detector is worth when one datum in a thousand is an outlier, it does not say.

References:
    DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", https://doi.org/10.2307/2531595
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import torch
from torch import Tensor

from pyrogen.arguments import vector, without_nan

from .result import normal_quantile


@dataclass(frozen=True)
class Auroc:
    """An area under the curve.

    Args:
        value: The share of pairs in which the outlier scores higher.
        standard_error: DeLong's, over both samples.
        inliers: How many there were.
        outliers: How many there were.
    """

    value: float
    standard_error: float
    inliers: int
    outliers: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval: normal on the logit scale, so that it stays between 0 and 1.

        Where the samples are separated perfectly, DeLong's error is 0 and says nothing. The bound is then that of
        disjoint pairs: an area ``a`` gives ``k`` pairs in the same order with probability ``a**k`` at most.

        Raises:
            ValueError: ``level`` is not between 0 and 1.
        """
        quantile = normal_quantile(level)
        if self.value in (0.0, 1.0):
            bound = (1 - level) ** (1 / min(self.inliers, self.outliers))
            return (bound, 1.0) if self.value == 1.0 else (0.0, 1 - bound)
        logit = log(self.value / (1 - self.value))
        half_width = quantile * self.standard_error / (self.value * (1 - self.value))
        return _expit(logit - half_width), _expit(logit + half_width)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"AUROC {self.value:.3f} ({low:.3f} to {high:.3f})"


def auroc(inliers: Tensor, outliers: Tensor) -> Auroc:
    """How well a score separates outliers from inliers.

    Args:
        inliers: Scores of data that belong; larger means stranger.
        outliers: Scores of data that do not.

    Shape:
        ``(m,)`` and ``(n,)``.

    Raises:
        TypeError: the scores are no tensors.
        ValueError: there are fewer than two of either, or a score is NaN.
    """
    for name, group in (("inliers", inliers), ("outliers", outliers)):
        vector(without_nan(group, name), name, least=2)
    inliers, outliers = inliers.double(), outliers.double().to(inliers.device)
    above = _share_below(outliers, inliers)
    below = 1 - _share_below(inliers, outliers)
    error = sqrt(float(above.var()) / len(outliers) + float(below.var()) / len(inliers))
    return Auroc(float(above.mean()), error, len(inliers), len(outliers))


def _share_below(scores: Tensor, others: Tensor) -> Tensor:
    """For each score the share of the others below it, equal ones counted half."""
    ordered = others.sort().values
    low = torch.searchsorted(ordered, scores, right=False)
    high = torch.searchsorted(ordered, scores, right=True)
    return (low + high).double() / (2 * len(ordered))


def _expit(value: float) -> float:
    return 1 / (1 + exp(-value))
