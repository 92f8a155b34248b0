r"""Misspecification: are the observed data like those that the model simulates?

A learned posterior is right for data of the model alone. For one datum :math:`y` and simulations
:math:`y_1, \dots, y_n`, a distance :math:`d` of each of the :math:`n + 1` from the others gives the conformal p-value

.. math:: p = \frac{1 + \#\{i : d_i \ge d\}}{n + 1} .

If the datum is one more simulation, all of them are exchangeable, so that :math:`P(p \le \alpha) \le \alpha` for
whatever distance treats them alike; how good the distance is decides what is found. It is taken between features: the
data standardized, or what a summary of the caller's makes of them, such as the embedding of a learned posterior.

Where a log-likelihood or an evidence is known or learned,
:func:`~pyrogen.evaluation.two_sided_p_value` asks the same of log p(y) among those of simulations.

References:
    Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", https://doi.org/10.1007/b106715
    Schmitt, Bürkner, Köthe and Radev 2023, "Detecting model misspecification in amortized Bayesian inference with
    neural networks", https://arxiv.org/abs/2112.08866
    Chen, Wiesel, Eldar and Hero 2010, "Shrinkage algorithms for MMSE covariance estimation",
    https://arxiv.org/abs/0907.4698
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pyrogen.abstract import Abstract
from pyrogen.arguments import anything, checked, integer
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import TestResult, permutation_p_value
from pyrogen.numerics.pairwise import distance_blocks

from .features import Features, Simulated, Summary, Values, checked_values, data_of, one_row
from .samples import mmd_test


class Distance(Abstract):
    """How far each of some points is from the others.

    Attributes:
        name: What a result calls it.
    """

    name: str

    @abstractmethod
    def __call__(self, points: Tensor) -> Tensor:
        """The distance of each point; all points must be treated alike.

        Shape:
            ``(n, d)`` to ``(n,)``.
        """


class Mahalanobis(Distance):
    """The distance from the mean in standard deviations, correlations counted; for data of one cloud.

    The covariance is shrunk towards a multiple of the identity, as far as the number of points demands.
    """

    name = "Mahalanobis distance"

    def __call__(self, points: Tensor) -> Tensor:
        return _whitened(points).square().sum(1).sqrt()


class NearestNeighbours(Distance):
    """The distance to a near neighbour, correlations counted; for data on curves, rings and in several clouds.

    Args:
        neighbours: To which of the neighbours, counted from the nearest.
    """

    name = "distance to neighbours"

    def __init__(self, neighbours: int = 5) -> None:
        self.neighbours = integer(neighbours, "neighbours")

    def __call__(self, points: Tensor) -> Tensor:
        points = _whitened(points)
        count = min(self.neighbours + 1, len(points))  # the nearest is the point itself
        return torch.cat([block.kthvalue(count, dim=1).values for _, block in distance_blocks(points, points)])


@takes_arrays
@checked(distance=anything)
def misspecification_test(
    observed: Values | Tensor,
    simulated: Values | Simulated,
    *,
    summary: Summary | None = None,
    distance: Distance | None = None,
    permutations: int = 999,
    generator: torch.Generator | None = None,
) -> TestResult:
    """A test of whether observed data are like simulated ones.

    One datum is tested by its distance from the simulations, with an exact p-value; several independent data by the
    maximum mean discrepancy (:func:`~pyrogen.evaluation.mmd_test`). A large p-value does not show that the model is
    right, only that this distance finds nothing odd: data amid the simulations, such as one with too little noise, are
    not far from them. The p-value cannot be below one over the number of simulations plus one.

    Args:
        observed: The datum by site, each of the shape of one row of the simulations, or several in rows; a tensor where
            there is one site.
        simulated: Simulated data by site, rows first; NaN where rows are absent. Or simulations with ``observed`` by
            site, as :meth:`pyrogen.simulation.Joint.draw` gives them.
        summary: Features of data, as a function of such a dict: ``(rows, features)``. By default the entries of the
            sites, with mean and spread over their first dimension.
        distance: Of one datum; :class:`NearestNeighbours` if ``None``.
        permutations: For several data, how many relabelings.
        generator: Of the relabelings.

    Returns:
        The distance, its p-value and, in ``null``, the distances of the simulations.

    Raises:
        TypeError: a value is no tensor, or ``distance`` no distance.
        ValueError: a site is missing, shapes do not fit, or values are infinite, or NaN where simulations have none.

    Example:
        >>> simulated = {"x": torch.randn(500, 3)}
        >>> misspecification_test(torch.tensor([4.0, -4.0, 4.0]), simulated).p_value < 0.01
        True
    """
    if distance is not None and not isinstance(distance, Distance):
        raise TypeError(f"`distance` must be a distance of `pyrogen.evaluation.misspecification`, got {distance!r}")
    simulated = data_of(simulated, "simulated")
    if _has_rows(observed, simulated):
        data = checked_values(_by_site(observed, simulated), "observed")
        for row in range(len(next(iter(data.values())))):
            one_row({site: value[row] for site, value in data.items()}, simulated)
    else:
        data = one_row(observed, simulated)
    count = len(next(iter(data.values())))
    pooled = {site: torch.cat(_alike(data[site], value)) for site, value in simulated.items()}
    points = Features(pooled, summary=summary)(pooled)  # standardized alike, so that all are exchangeable
    if count > 1:
        return mmd_test(points[:count], points[count:], permutations=permutations, generator=generator)
    chosen = distance or NearestNeighbours()
    distances = chosen(points)
    found, null = float(distances[0]), distances[1:]
    return TestResult(found, permutation_p_value(found, null), chosen.name, null)


def _by_site(observed: Values | Tensor, simulated: Values) -> Values:
    return dict.fromkeys(simulated, observed) if isinstance(observed, Tensor) and len(simulated) == 1 else observed


def _alike(first: Tensor, second: Tensor) -> list[Tensor]:
    """Both in one number format, the coarser of two real ones: finer digits would be those of its rounding."""
    kinds = first.dtype, second.dtype
    real = all(kind.is_floating_point for kind in kinds)
    kind = max(kinds, key=lambda kind: torch.finfo(kind).eps) if real else torch.promote_types(*kinds)
    return [first.to(kind), second.to(kind)]


def _has_rows(observed: Values | Tensor, simulated: Values) -> bool:
    values = _by_site(observed, simulated)
    return (
        isinstance(values, dict)
        and set(values) == set(simulated)
        and all(isinstance(value, Tensor) and value.dim() == simulated[site].dim() for site, value in values.items())
    )


def _whitened(points: Tensor) -> Tensor:
    """Points without correlations, by the oracle-approximating shrinkage of their covariance."""
    rows, dimensions = points.shape
    centered = points - points.mean(0)
    covariance = centered.T @ centered / rows
    trace, squares = covariance.trace(), covariance.square().sum()
    excess = (rows + 1 - 2 / dimensions) * (squares - trace.square() / dimensions)
    share = ((1 - 2 / dimensions) * squares + trace.square()) / excess.clamp(min=1e-300)
    share = float(share.clamp(1e-6, 1.0))
    target = trace / dimensions * torch.eye(dimensions).to(points)
    shrunk = (1 - share) * covariance + share * target + 1e-300 * torch.eye(dimensions).to(points)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(shrunk), centered.T, upper=False).T
