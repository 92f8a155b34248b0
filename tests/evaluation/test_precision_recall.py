"""Precision, recall, density and coverage: definitions in full, closed forms, and errors as large as they say."""

import numpy as np
import pytest
import torch

from pyrogen.evaluation import coverage_of_equals, density_coverage, precision_recall


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.double, generator=seed)


def definitions(data, samples, k):
    """Precision, recall, density and coverage, as they are written."""

    def radius(points, i):
        return sorted(float((points[i] - points[j]).norm()) for j in range(len(points)) if j != i)[k - 1]

    def inside(points, radii, place):
        return [float((point - place).norm()) <= radii[i] for i, point in enumerate(points)]

    of_data = [radius(data, i) for i in range(len(data))]
    of_samples = [radius(samples, j) for j in range(len(samples))]
    held = np.array([inside(data, of_data, sample) for sample in samples])  # (samples, data)
    reached = np.array([inside(samples, of_samples, datum) for datum in data])
    return held.any(1).mean(), reached.any(1).mean(), held.sum() / (k * len(samples)), held.any(0).mean()


@pytest.mark.parametrize("k", [2, 3])
def test_they_are_as_defined(k):
    seed = generator()
    data, samples = normal(40, 2, seed=seed), 0.7 * normal(30, 2, seed=seed) + 0.5
    both = precision_recall(data=data, samples=samples, neighbours=k)
    other = density_coverage(data=data, samples=samples, neighbours=k)
    found = [e.value for e in (both.precision, both.recall, other.density, other.coverage)]
    assert found == pytest.approx(definitions(data, samples, k), abs=1e-12)
    assert len(set(found)) == 4  # none stands in another's place


def test_blocks_change_nothing(monkeypatch):
    seed = generator()
    data, samples = normal(60, 2, seed=seed), normal(50, 2, seed=seed)
    whole = [
        str(test(data=data, samples=samples, generator=generator())) for test in (precision_recall, density_coverage)
    ]
    monkeypatch.setattr("pyrogen.numerics.pairwise.distance_blocks.__kwdefaults__", {"entries": 70})
    assert [
        str(test(data=data, samples=samples, generator=generator())) for test in (precision_recall, density_coverage)
    ] == whole


@pytest.mark.parametrize(("data", "samples", "k"), [(20, 20, 3), (30, 15, 1), (12, 20, 5)])
def test_equal_distributions_have_known_density_and_coverage(data, samples, k):
    """Whatever they are; here skewed, with dependent elements."""
    seed, repeats = generator(4), 250

    def draws(count):
        z = normal(count, 2, seed=seed).exp()
        return torch.stack([z[:, 0], z.prod(1)], 1)

    found = [
        density_coverage(data=draws(data), samples=draws(samples), neighbours=k, divisions=1) for _ in range(repeats)
    ]
    for values, truth in (
        (np.array([result.density.value for result in found]), 1.0),
        (np.array([result.coverage.value for result in found]), coverage_of_equals(data, samples, k)),
    ):
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(repeats)
    assert found[0].coverage_of_equals == coverage_of_equals(data, samples, k)


def test_the_coverage_of_equals_by_counting():
    """One neighbour, one sample: the nearest of n other draws is the sample in one of n cases."""
    assert coverage_of_equals(10, 1, 1) == pytest.approx(1 / 10)
    assert coverage_of_equals(10_000, 10_000, 5) == pytest.approx(1 - 0.5**5, abs=1e-4)
    with pytest.raises(ValueError, match="`data` must be more than `neighbours` = 5, got 5"):
        coverage_of_equals(5, 5, 5)


def test_narrow_samples_are_precise_and_wide_ones_recall():
    seed = generator()
    data = normal(300, 2, seed=seed)
    narrow, wide = (precision_recall(data=data, samples=s * normal(300, 2, seed=seed)) for s in (0.2, 3.0))
    assert narrow.precision.value > 0.95 > 0.5 > narrow.recall.value
    assert wide.recall.value > 0.95 > 0.5 > wide.precision.value
    dropped = density_coverage(data=torch.cat([data, data + 50]), samples=data + 0.01)
    assert dropped.coverage.value == pytest.approx(0.5, abs=0.01)


def test_exchanged_arguments_exchange_the_answers_so_they_are_named():
    seed = generator()
    x, y = normal(100, 2, seed=seed), 0.5 * normal(100, 2, seed=seed)
    forth, back = precision_recall(data=x, samples=y), precision_recall(data=y, samples=x)
    assert (forth.precision.value, forth.recall.value) == (back.recall.value, back.precision.value)
    with pytest.raises(TypeError, match="positional"):
        precision_recall(x, y)


def test_copies_of_the_data_are_inside_their_spheres():
    """A sphere without extent holds its centre: many equal rows, far from zero, where products of matrices round."""
    seed = generator()
    values = 1e3 + normal(10, 5, seed=seed)
    data = values.repeat(20, 1)
    for samples in (data, data.flip(0)):
        both, other = precision_recall(data=data, samples=samples), density_coverage(data=data, samples=samples)
        assert both.precision.value == both.recall.value == other.coverage.value == 1.0
    collapsed = density_coverage(data=data, samples=values[:1].expand(200, 5))
    assert collapsed.coverage.value == pytest.approx(0.1)


def test_one_stray_row_is_one_row():
    """An outlier at 1e12 takes no digits from the distances of the others."""
    seed = generator()
    data, samples = normal(200, 2, seed=seed), normal(200, 2, seed=seed)
    before = precision_recall(data=data, samples=samples)
    stray = samples.clone()
    stray[7] = 1e12
    after = precision_recall(data=data, samples=stray)
    assert abs(after.precision.value - before.precision.value) <= 1.5 / 200
    wild = data.clone()
    wild[3] = -1e12
    inflated, robust = (test(data=wild, samples=samples - 1e6) for test in (precision_recall, density_coverage))
    assert inflated.precision.value == 1.0  # its known weakness: the stray datum's sphere holds everything
    assert robust.density.value < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("dimensions", "scale", "shift"), [(2, 0.6, 0.3), (5, 1.0, 0.5)])
def test_standard_errors_are_the_spread_of_repeated_samples(dimensions, scale, shift):
    seed, repeats = generator(6), 150

    def both(divisions):
        data, samples = normal(200, dimensions, seed=seed), scale * normal(200, dimensions, seed=seed) + shift
        arguments = {"data": data, "samples": samples, "divisions": divisions, "generator": seed}
        first, second = precision_recall(**arguments), density_coverage(**arguments)
        return first.precision, first.recall, second.density, second.coverage

    values = np.array([[e.value for e in both(1)] for _ in range(repeats)])
    errors = np.array([[e.standard_error for e in both(10)] for _ in range(20)])
    assert np.sqrt(np.square(errors).mean(0)) == pytest.approx(values.std(0), rel=0.3)


def test_shares_of_all_draws_are_uncertain():
    """Fifty data among two hundred samples: nearly every sample has all covered, so halves say nothing of the error."""
    generator = torch.Generator().manual_seed(0)
    found = [
        density_coverage(
            data=torch.randn(50, 2, generator=generator),
            samples=0.7 * torch.randn(200, 2, generator=generator),
            divisions=3,
            generator=generator,
        ).coverage
        for _ in range(60)
    ]
    truth = np.mean([estimate.value for estimate in found])
    held = [low <= truth <= high for low, high in (estimate.interval() for estimate in found)]
    assert np.mean(held) > 0.9
    assert all(0.01 < estimate.standard_error < 0.1 for estimate in found)
