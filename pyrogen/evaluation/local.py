r"""Local calibration: is the posterior right at the data at hand?

Simulation-based calibration averages over all data. Here a regression, used as a classifier, learns to tell the true
value :math:`\theta^*_n` of a simulation from posterior draws at the same data :math:`y_n`, and is then evaluated at the
*observed* data. If the posterior is right, they cannot be distinguished: which of the :math:`K + 1` points of a
simulation is the truth is random, and the statistic has the same distribution when the truth is chosen anew among them.
With :math:`r` the density of truths over that of the posterior, the least-squares regression of labels 1 (truth) and
:math:`-1/K` (draws) is :math:`m = (r - 1) / (r + K)`, and the statistic is the mean of :math:`m^2` over posterior draws
at the observed data.

Posteriors may be far narrower than the prior, so points enter whitened by the :math:`K + 1` points of their simulation,
which treats truth and draws alike. The regression is linear in features of the point and of the data, among them random
cosines, so that one decomposition serves all relabelings. The p-value is exact where the posterior is right at all
data. Where it is right at the observed data alone, it is as good as the regression tells places apart.

References:
    Linhart, Gramfort and Rodrigues 2023, "L-C2ST: local diagnostics for posterior approximations in simulation-based
    inference", https://arxiv.org/abs/2306.03580
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrogen.arguments import anything, checked, integer
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import TestResult, permutation_p_value, smallest_p_value

from .classifier import require_classifier
from .features import Features, RandomFeatures, Summary, one_row
from .regression import regressed
from .simulated import Posterior, Simulated, Values, checked_draws, coordinates_of, posterior_function, ready, rows_of

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

_PENALTIES = torch.logspace(-5, 1, 13, dtype=torch.double)  # times the number of points
_FEWEST = 50


@dataclass(frozen=True, repr=False)
class LocalCalibration:
    """Whether a posterior is right at the observed data, and where it fails.

    Args:
        test: Of all coordinates jointly.
        coordinates: The same test of each coordinate alone, by its name (``"z[0]"``).
        shift: By coordinate, how far truths lie above the posterior mean near the observed data, in posterior standard
            deviations.
        spread: By coordinate, how large the root mean square of their distance from the shifted mean is, in posterior
            standard deviations: above 1 the posterior is too narrow.
        draws: Posterior draws at the observed data, by coordinate.
        ratio: For each of these draws, by coordinate, the estimated density of truths over that of the posterior.
    """

    test: TestResult
    coordinates: Mapping[str, TestResult]
    shift: Mapping[str, float]
    spread: Mapping[str, float]
    draws: Mapping[str, Tensor] = field(repr=False)
    ratio: Mapping[str, Tensor] = field(repr=False)

    @property
    def p_value(self) -> float:
        """One p-value of the joint test and those of the coordinates together, adjusted for their number."""
        return smallest_p_value([self.test, *self.coordinates.values()])

    def reading(self, name: str) -> str:
        """What is wrong with a coordinate, in words; it is worth reading where its p-value is small.

        Raises:
            ValueError: there is no such coordinate.
        """
        if name not in self.coordinates:
            raise ValueError(f"`name` must be one of {list(self.coordinates)}, got {name!r}")
        shift, spread, parts = self.shift[name], self.spread[name], []
        if abs(shift) > 0.1:
            parts.append(f"truths lie {abs(shift):.2f} sd {'above' if shift > 0 else 'below'}")
        if abs(log(spread)) > 0.1:
            parts.append(
                f"posterior too {'narrow' if spread > 1 else 'wide'} by a factor of {max(spread, 1 / spread):.2f}"
            )
        return ", ".join(parts) or "truths and posterior agree in mean and spread"

    def __str__(self) -> str:
        lines = [f"{self._summary()}; jointly alone: p = {self.test.p_value:.2g}"]
        lines += [
            f"{name}: p = {result.p_value:.2g}, {self.reading(name)}" for name, result in self.coordinates.items()
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<LocalCalibration: {self._summary()}>"

    def _summary(self) -> str:
        return f"{len(self.coordinates)} coordinates, each and jointly: p = {self.p_value:.2g}"


@takes_arrays
@checked(posterior=posterior_function, simulations=anything, evaluated=integer)
def local_calibration_test(
    posterior: Posterior,
    simulations: Simulated,
    *,
    observed: Values,
    draws: int = 19,
    evaluated: int = 1000,
    classifier: ClassifierMixin | None = None,
    permutations: int | None = None,
    summary: Summary | None = None,
    generator: torch.Generator | None = None,
) -> LocalCalibration:
    """A test of a posterior at one datum, from simulations and draws alone.

    Args:
        posterior: What is tested, as for :func:`~pyrogen.evaluation.simulation_based_calibration`: a function of the
            data (rows of each observed site) and a number of draws, draws first, then rows.
        simulations: Simulations with ``latents`` and ``observed`` by site, which the posterior was not trained on: a
            thousand or more, from the prior or from a proposal around the observed data.
        observed: The datum by site, each of the shape of one row of the simulations.
        draws: How many posterior draws each simulation is compared with.
        evaluated: At how many posterior draws at the datum, about.
        classifier: A scikit-learn classifier with ``predict_proba``, fitted to truths and one draw each, again for each
            relabeling; regression in closed form if ``None``. Coordinates are tested by the latter in any case.
        permutations: How many relabelings: 999, or 99 with a classifier, if ``None``.
        summary: Features of the data, as for :class:`~pyrogen.evaluation.RegressionScore`.
        generator: Of the relabelings.

    Raises:
        TypeError: ``posterior`` is no function, ``classifier`` no classifier, or a value no tensor.
        ValueError: shapes do not fit, there are fewer than 50 simulations or 4 draws, or values are infinite or NaN.
    """
    integer(draws, "draws", least=4)
    latents, data = ready(simulations)
    datum, rows = one_row(observed, data), len(next(iter(data.values())))
    if rows < _FEWEST:
        raise ValueError(f"`simulations` must hold at least {_FEWEST}, got {rows}")
    if permutations is None:
        permutations = 999 if classifier is None else 99
    points, local = _points(posterior, latents, data, draws), _local(posterior, latents, datum, draws, evaluated)
    entries = Features(data, summary=summary)
    places = _Places(points, entries(data))
    where = places(points, entries(data)), places(local, entries(datum).expand(len(local), -1))
    chosen = _chosen(rows, draws + 1, permutations, generator)
    names = [name for site, value in latents.items() for name in coordinates_of(site, value)]
    single = {}
    for j, name in enumerate(names):
        own = [_standardized(group[..., [j]]) for group in (points, local)]
        single[name] = _tested(own, where, chosen, f"local classifier of {name}")
    whitened = _whitened(points), _whitened(local)
    if classifier is None:
        test, _ = _tested(whitened, where, chosen, "local classifier")
    else:
        test = _tested_by(require_classifier(classifier), whitened, where, permutations, generator)
    shift, spread = _moments(points, *where)
    return LocalCalibration(
        test,
        {name: result for name, (result, _) in single.items()},
        dict(zip(names, shift.tolist(), strict=True)),
        dict(zip(names, spread.tolist(), strict=True)),
        dict(zip(names, local.flatten(0, 1).T, strict=True)),
        {name: ratio for name, (_, ratio) in single.items()},
    )


def _points(posterior: Posterior, latents: Values, data: Values, draws: int) -> Tensor:
    """The truth of each simulation and its posterior draws, ``(rows, draws + 1, coordinates)``."""
    parts = []
    for block in torch.arange(len(next(iter(data.values())))).split(max(1, 16384 // draws)):
        rows = slice(int(block[0]), int(block[-1]) + 1)
        truth = rows_of(latents, rows)
        drawn = checked_draws(posterior(rows_of(data, rows), draws), truth, draws)
        parts.append(torch.cat([_flat(truth, 1)[None], _flat(drawn, 2)]).transpose(0, 1))
    return torch.cat(parts)


def _local(posterior: Posterior, latents: Values, datum: Values, draws: int, evaluated: int) -> Tensor:
    """Posterior draws at the datum, in groups as large as those of the simulations."""
    groups = max(2, -(-evaluated // (draws + 1)))
    count = groups * (draws + 1)
    drawn = checked_draws(posterior(datum, count), {name: value[:1] for name, value in latents.items()}, count)
    return _flat(drawn, 2)[:, 0].unflatten(0, (groups, draws + 1))


def _flat(values: Values, batch: int) -> Tensor:
    return torch.cat([v.detach().double().reshape(*v.shape[:batch], -1) for v in values.values()], -1)


def _standardized(points: Tensor) -> Tensor:
    """Points minus the mean of their group, over its standard deviation."""
    centered = points - points.mean(1, keepdim=True)
    deviation = centered.square().mean(1, keepdim=True).sqrt()
    return centered / torch.where(deviation > 1e-13 * points.abs().amax((0, 1)), deviation, torch.inf)


def _whitened(points: Tensor) -> Tensor:
    """The same without the correlations of the group, where it is large enough to know them."""
    z = _standardized(points)
    count, coordinates = points.shape[1:]
    if count <= 3 * coordinates:
        return z
    correlations = z.mT @ z / count + 1e-3 * torch.eye(coordinates, dtype=z.dtype, device=z.device)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(correlations), z.mT, upper=False).mT


class _Places:
    """Where a simulation lies: features of its group's location and scale, and the main directions of its data."""

    def __init__(self, points: Tensor, entries: Tensor) -> None:
        self.center, spread = entries.mean(0), points.std((0, 1))
        self.units = torch.where(spread > 0, spread, 1.0)
        self.axes = torch.linalg.svd(entries - self.center, full_matrices=False).Vh[:5].T
        raw = self._raw(points, entries)
        self.mean, self.scale = raw.mean(0), raw.std(0).clamp(min=1e-9)
        self.cosines = RandomFeatures((raw - self.mean) / self.scale, max(8, 80 // points.shape[2]))

    def __call__(self, points: Tensor, entries: Tensor) -> Tensor:
        z = (self._raw(points, entries) - self.mean) / self.scale
        return self.cosines(z.clamp(-5, 5))  # the datum may lie outside of what was simulated

    def _raw(self, points: Tensor, entries: Tensor) -> Tensor:
        points = points / self.units
        return torch.cat([points.mean(1), (points.std(1) + 1e-6).log(), (entries - self.center) @ self.axes], 1)


def _tested(
    points: Sequence[Tensor], where: tuple[Tensor, Tensor], chosen: Tensor, name: str
) -> tuple[TestResult, Tensor]:
    """The test by regression, and the estimated ratio of densities at the points at the datum."""
    features = _PointFeatures(points[0])
    learned, evaluated = (features(group, place) for group, place in zip(points, where, strict=True))
    draws = learned.shape[1] - 1
    flat, local = learned.flatten(0, 1), evaluated.flatten(0, 1)
    scale = flat.square().mean(0).sqrt().clamp(min=1e-9)
    flat, local = flat / scale, local / scale
    offsets = torch.arange(len(learned)) * (draws + 1)
    sums = torch.nn.functional.embedding_bag((chosen + offsets).to(flat.device), flat, mode="sum")
    products = ((1 + 1 / draws) * sums - flat.sum(0) / draws).T  # of the features with each set of labels
    eigenvalues, vectors = torch.linalg.eigh(flat.T @ flat)
    projected = vectors.T @ products
    weights = _shrunk(eigenvalues.clamp(min=0), projected, len(flat), len(learned) * (1 + 1 / draws))
    local = local @ vectors
    statistics = (weights * ((local.T @ local / len(local)) @ weights)).sum(0)
    fitted = (local @ weights[:, 0]).clamp(-1 / draws, 1 - 1e-3)
    p_value = permutation_p_value(float(statistics[0]), statistics[1:])
    return TestResult(float(statistics[0]), p_value, name, statistics[1:]), (1 + draws * fitted) / (1 - fitted)


def _shrunk(eigenvalues: Tensor, projected: Tensor, count: int, squares: float) -> Tensor:
    """Weights of ridge regressions on the axes of their features, each with the best penalty of its own.

    Labels that are chosen anew find their penalty anew, so all of them are treated alike.
    """
    penalties = (count * _PENALTIES).to(projected)
    damped = 1 / (eigenvalues + penalties[:, None])  # (penalties, features)
    left = squares - (2 * damped - eigenvalues * damped.square()) @ projected.square()
    errors = left / (1 - (eigenvalues * damped).sum(1) / count).clamp(min=1e-3)[:, None].square()
    return damped[errors.argmin(0)].T * projected


class _PointFeatures:
    """Features of points and of the places they are at: shape everywhere, location and scale by place."""

    def __init__(self, points: Tensor) -> None:
        self.cosines = RandomFeatures(points[:500].flatten(0, 1), 60)

    def __call__(self, points: Tensor, places: Tensor) -> Tensor:
        coordinates = points.shape[2]
        moments = torch.cat([points, points.square() - 1], 2)
        pairs = list(combinations(range(coordinates), 2)) if coordinates <= 8 else []
        products = [points[..., i] * points[..., j] for i, j in pairs]
        by_place = (moments[..., None] * places[:, None, None]).flatten(2)
        parts = [moments, by_place, self.cosines(points)[..., coordinates:]]
        return torch.cat([*parts, *([torch.stack(products, 2)] if products else [])], 2)


def _chosen(rows: int, points: int, permutations: int, generator: torch.Generator | None) -> Tensor:
    """Which point of each simulation counts as the truth: the true one first, then any."""
    drawn = torch.randint(points, (permutations, rows), generator=generator)
    return torch.cat([torch.zeros(1, rows, dtype=torch.long), drawn])


def _tested_by(
    classifier: ClassifierMixin,
    points: tuple[Tensor, Tensor],
    where: tuple[Tensor, Tensor],
    permutations: int,
    generator: torch.Generator | None,
) -> TestResult:
    """The test by a classifier, fitted to the truth and one draw of each simulation."""
    from sklearn.base import clone

    inputs = [torch.cat([p, w[:, None].expand(*p.shape[:2], -1)], 2) for p, w in zip(points, where, strict=True)]
    learned = inputs[0][:, :2].flatten(0, 1).cpu().numpy()
    local = inputs[1].flatten(0, 1).cpu().numpy()
    rows = len(points[0])

    def statistic(swapped: Tensor) -> float:
        labels = torch.stack([~swapped, swapped], 1).flatten().long().numpy()
        fitted = clone(classifier).fit(learned, labels)
        return float(((fitted.predict_proba(local)[:, 1] - 0.5) ** 2).mean())

    null = [statistic(torch.rand(rows, generator=generator) < 0.5) for _ in range(permutations)]
    found = statistic(torch.zeros(rows, dtype=torch.bool))
    shuffled = torch.tensor(null, dtype=torch.double)
    return TestResult(found, permutation_p_value(found, shuffled), "local classifier", shuffled)


def _moments(points: Tensor, places: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and spread of the truths near the datum, in standard deviations of the posterior draws."""
    truth, drawn = points[:, 0], points[:, 1:]
    draws, spread = drawn.shape[1], drawn.std(1)
    overall = drawn.std((0, 1))
    z = (truth - drawn.mean(1)) / torch.where(spread > 0, spread, torch.where(overall > 0, overall, 1.0))
    targets = torch.cat([z, z.square()], 1)
    center, mean = places.mean(0), targets.mean(0)
    weights, _ = regressed(places, targets)
    first, second = (mean + (local.mean(0) - center) @ weights).chunk(2)
    # Mean and deviation of few draws spread the truth by themselves: as for Student's t.
    excess = (1 + 1 / draws) * (draws - 1) / (draws - 3)
    return first, ((second - first.square()).clamp(min=1e-4) / excess).sqrt()
