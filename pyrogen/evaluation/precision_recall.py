r"""Precision and recall, density and coverage: do samples lie where data lie, and are all data represented?

Where a distribution has its mass is estimated by spheres around its draws, each up to the draw's :math:`k`-th nearest
neighbour in the same sample. With :math:`B(x_i)` the spheres of :math:`N` data and :math:`B(y_j)` those of :math:`M`
samples,

=============  ==============================================================================================
precision      the share of samples in the sphere of any datum: fidelity
recall         the share of data in the sphere of any sample: variety
density        :math:`\frac{1}{kM} \sum_{ij} 1[y_j \in B(x_i)]`: fidelity that one stray datum cannot inflate
coverage       the share of data whose sphere holds a sample: variety that one stray sample cannot inflate
=============  ==============================================================================================

Equal distributions have the expected density one, and the expected coverage

.. math:: 1 - \frac{(N - 1) \cdots (N - k)}{(N + M - 1) \cdots (N + M - k)} ,

whatever they are, if no two draws are equal: a datum is not covered if its :math:`k` nearest among the
:math:`N + M - 1` other draws are all data. There are no such values for precision and recall, which depend on the
distribution, on :math:`k` and on the numbers of draws: compare them at equal ones only.

Standard errors are from halves (:mod:`pyrogen.evaluation.halves`), and those of shares at least what they would be if
the spheres were given (:meth:`Estimate.of_share <pyrogen.core.estimate.Estimate.of_share>`): where nearly all draws are
inside, halves hardly vary.

A draw on the boundary of a sphere is inside, so that copies of a datum are: with more than :math:`k` of them its sphere
is a point.

References:
    Kynkäänniemi, Karras, Laine, Lehtinen and Aila 2019, "Improved precision and recall metric for assessing generative
    models", https://arxiv.org/abs/1904.06991
    Naeem, Oh, Uh, Choi and Yoo 2020, "Reliable fidelity and diversity metrics for generative models",
    https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from pyrogen.arguments import checked, integer
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate, share_error
from pyrogen.numerics.pairwise import distance_blocks

from .embedding import NamedEmbedding, embedded
from .halves import Statistic, over_halves, standard_errors

_ROUNDING = 1e-7  # of a point's size: distances come from products of matrices, exact to the root of their rounding


@dataclass(frozen=True)
class PrecisionRecall:
    """Fidelity and variety of samples by spheres around data and samples.

    Args:
        precision: The share of samples that lie where data do.
        recall: The share of data that lie where samples do.
    """

    precision: Estimate
    recall: Estimate

    def __str__(self) -> str:
        return f"{self.precision}\n{self.recall}"


@dataclass(frozen=True)
class DensityCoverage:
    """Fidelity and variety of samples by spheres around data alone.

    Args:
        density: How many spheres of data hold a sample, over the number expected of equal distributions: it may be
            larger than one.
        coverage: The share of data whose spheres hold a sample.
        coverage_of_equals: The coverage expected of equal distributions, where no rows are equal.
    """

    density: Estimate
    coverage: Estimate
    coverage_of_equals: float

    def __str__(self) -> str:
        return f"{self.density} (1 if equal)\n{self.coverage} ({self.coverage_of_equals:.3f} if equal)"


@takes_arrays
@checked(neighbours=integer, divisions=integer)
def precision_recall(
    *,
    data: Tensor,
    samples: Tensor,
    embedding: NamedEmbedding | None = None,
    neighbours: int = 3,
    divisions: int = 10,
    generator: torch.Generator | None = None,
) -> PrecisionRecall:
    """Precision and recall of samples.

    Both are given by name, for exchanged arguments would exchange the answers. Standard errors are from halves of
    both samples (:mod:`pyrogen.evaluation.halves`).

    Args:
        data: Independent draws of the truth, that the model was not trained on: copies of data are perfect samples.
        samples: Independent draws of the model; as many as data, for the answers depend on both numbers.
        embedding: In what they are compared; ``None`` for their own coordinates.
        neighbours: The sphere of a draw ends at this neighbour.
        divisions: How many random divisions into halves, for the standard errors: ten give them to a fifth.
        generator: Of the divisions.

    Shape:
        ``data`` is ``(n, *event_shape)``, ``samples`` is ``(m, *event_shape)``.

    Raises:
        TypeError: one is no tensor, one holds integers and the other not, or ``embedding`` is none.
        ValueError: half of the draws are not enough for the neighbours, the events differ in shape, or a draw is not
            finite.

    Example:
        >>> data, narrow = torch.randn(400, 2), 0.5 * torch.randn(400, 2)
        >>> result = precision_recall(data=data, samples=narrow)
        >>> result.precision.value > 0.9 > result.recall.value
        True
    """
    statistic = partial(_precision_recall, neighbours=neighbours)
    rest = embedding, neighbours, divisions, generator
    return PrecisionRecall(*_estimates(statistic, {"precision": "samples", "recall": "data"}, data, samples, *rest))


@takes_arrays
@checked(neighbours=integer, divisions=integer)
def density_coverage(
    *,
    data: Tensor,
    samples: Tensor,
    embedding: NamedEmbedding | None = None,
    neighbours: int = 5,
    divisions: int = 10,
    generator: torch.Generator | None = None,
) -> DensityCoverage:
    """Density and coverage of samples.

    Where rows are equal (counts, categories), spheres hold more than their neighbours, and both are larger than the
    values of equal distributions: compare them with those of another sample of the data. Arguments and errors are those
    of :func:`precision_recall`.

    Args:
        data: Independent draws of the truth, that the model was not trained on.
        samples: Independent draws of the model.
        embedding: In what they are compared; ``None`` for their own coordinates.
        neighbours: The sphere of a datum ends at this neighbour.
        divisions: How many random divisions into halves, for the standard errors: ten give them to a fifth.
        generator: Of the divisions.

    Example:
        >>> data, narrow = torch.randn(400, 2), 0.5 * torch.randn(400, 2)
        >>> result = density_coverage(data=data, samples=narrow)
        >>> result.coverage.value < 0.9 < result.coverage_of_equals
        True
    """
    statistic = partial(_density_coverage, neighbours=neighbours)
    rest = embedding, neighbours, divisions, generator
    density, coverage = _estimates(statistic, {"density": None, "coverage": "data"}, data, samples, *rest)
    return DensityCoverage(density, coverage, coverage_of_equals(len(data), len(samples), neighbours))


@checked(data=integer, samples=integer, neighbours=integer)
def coverage_of_equals(data: int, samples: int, neighbours: int) -> float:
    """The expected coverage of samples from the distribution of the data, whatever it is, if no draws are equal.

    Args:
        data: How many data there are, more than ``neighbours``.
        samples: How many samples.
        neighbours: The sphere of a datum ends at this neighbour.

    Raises:
        ValueError: there are no more data than ``neighbours``.

    Example:
        >>> round(coverage_of_equals(10_000, 10_000, 5), 4)
        0.9688
    """
    if data <= neighbours:
        raise ValueError(f"`data` must be more than `neighbours` = {neighbours}, got {data}")
    return 1 - prod((data - i) / (data + samples - i) for i in range(1, neighbours + 1))


def _estimates(
    statistic: Statistic,
    kinds: Mapping[str, str | None],
    data: Tensor,
    samples: Tensor,
    embedding: NamedEmbedding | None,
    neighbours: int,
    divisions: int,
    generator: torch.Generator | None,
) -> list[Estimate]:
    """Both statistics, each by name with the sample of which it is a share, with their standard errors."""
    x, y, name = embedded(data, samples, embedding, names=("data", "samples"), least=2 * (neighbours + 1))
    values = statistic(x, y).tolist()
    halves = over_halves(statistic, x, y, divisions=divisions, generator=generator)
    errors, rows = standard_errors(halves).tolist(), {"data": len(x), "samples": len(y)}
    return [
        Estimate(value, max(error, share_error(value, rows[sample]) if sample else 0.0), f"{kind} in {name}", None)
        for value, error, (kind, sample) in zip(values, errors, kinds.items(), strict=True)
    ]


def _precision_recall(data: Tensor, samples: Tensor, neighbours: int) -> Tensor:
    around_data, around_samples = _radii(data, neighbours), _radii(samples, neighbours)
    precise, recalled = [], torch.zeros(len(data), dtype=torch.bool, device=data.device)
    for block, distance in distance_blocks(samples, data):
        precise.append((distance - around_data).amin(1) <= 0)
        recalled |= (distance - around_samples[block, None]).amin(0) <= 0
    return torch.stack([torch.cat(precise).double().mean(), recalled.double().mean()])


def _density_coverage(data: Tensor, samples: Tensor, neighbours: int) -> Tensor:
    radii, held = _radii(data, neighbours), torch.zeros(len(data), dtype=torch.double, device=data.device)
    for _, distance in distance_blocks(samples, data):
        held += (distance <= radii).sum(0)
    return torch.stack([held.mean() / (len(samples) * neighbours / len(data)), (held > 0).double().mean()])


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """The distance of each point to its nearest neighbours' last, and what rounding may add to a distance."""
    radii = []
    for block, distance in distance_blocks(points, points):
        distance[torch.arange(len(distance)), torch.arange(block.start, block.stop)] = torch.inf
        radii.append(distance.topk(neighbours, largest=False).values[:, -1])
    return torch.cat(radii) + _ROUNDING * (points - points.median(0).values).norm(dim=1)
