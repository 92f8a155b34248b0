r"""The tail of positive numbers: which of their moments exist.

Moments of order above :math:`1 / k` do not exist for numbers whose tail is that of a generalized Pareto distribution
of shape :math:`k`. An average of numbers with :math:`k` above 0.7 cannot be trusted, and above 1 it has no limit.

References:
    Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling",
    https://jmlr.org/papers/v25/19-556.html
"""

from __future__ import annotations

import warnings
from math import ceil, sqrt

import numpy as np


def pareto_shape(log_weights: np.ndarray) -> np.ndarray:
    r"""The shape :math:`\hat k` of a generalized Pareto distribution fitted to the largest weights.

    Args:
        log_weights: Their logarithms, at least 25 along the last axis.

    Returns:
        One number for each entry of the other axes; 0 where the largest weights are equal, which leaves no tail to fit.
    """
    draws = log_weights.shape[-1]
    tails = np.sort(log_weights, -1)[:, -ceil(min(draws / 5, 3 * sqrt(draws))) :]
    none = tails[:, -1] == -np.inf
    shapes = np.where(none, np.inf, 0.0)
    for row in np.flatnonzero(~none):
        if not np.ptp(tails[row]) < 1e-3:
            shapes[row] = _psis_shape(log_weights[row])
    return shapes


def _psis_shape(log_weights: np.ndarray) -> float:
    """k-hat by either line of ArviZ: 0.x takes log-weights, 1.x log-likelihoods, which are their negatives."""
    # ArviZ 0.23 announces its successor on import, and overflows harmlessly on weights of a guide far off.
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("ignore", FutureWarning)
        try:
            from arviz_stats.base import array_stats
        except ModuleNotFoundError:
            import arviz

            return arviz.psislw(log_weights)[1]
    return array_stats.psislw(-log_weights)[1]
