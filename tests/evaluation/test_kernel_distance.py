"""The kernel distance: closed forms, all pairs, and the jackknife's error."""

import sys

import numpy as np
import pytest
import torch

from pyrogen.evaluation import kernel_distance


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.double, generator=seed)


def brute_force(x, y):
    def kernel(a, b):
        return float((a @ b / len(a) + 1) ** 3)

    m, n = len(x), len(y)
    first = sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (m * (m - 1))
    second = sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (n * (n - 1))
    return first + second - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_it_is_the_sum_over_all_pairs_and_its_error_the_jackknife_s():
    seed = generator()
    x, y = normal(7, 3, seed=seed), normal(9, 3, seed=seed) + 1
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(brute_force(x, y), rel=1e-10)
    without = [brute_force(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(7)]
    other = [brute_force(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(9)]
    assert found.standard_error == pytest.approx(np.sqrt(6 * np.var(without) + 8 * np.var(other)), rel=1e-8)


def test_blocks_change_nothing(monkeypatch):
    seed = generator()
    x, y = normal(50, 3, seed=seed), normal(40, 3, seed=seed)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(sys.modules["pyrogen.evaluation.kernel_distance"], "BLOCK_ENTRIES", 90)
    assert kernel_distance(x, y).value == pytest.approx(whole.value, rel=1e-12)
    assert kernel_distance(x, y).standard_error == pytest.approx(whole.standard_error, rel=1e-12)


def test_of_numbers_it_compares_three_moments():
    """3 (E x - E y)^2 + 3 (E x^2 - E y^2)^2 + (E x^3 - E y^3)^2."""
    seed, mean, scale, repeats = generator(1), 0.7, 0.8, 600
    moments = mean, mean**2 + scale**2 - 1, mean**3 + 3 * mean * scale**2
    truth = 3 * moments[0] ** 2 + 3 * moments[1] ** 2 + moments[2] ** 2
    found = [kernel_distance(normal(60, 1, seed=seed), scale * normal(50, 1, seed=seed) + mean) for _ in range(repeats)]
    values = np.array([estimate.value for estimate in found])
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(repeats)
    assert values.std() / np.sqrt(repeats) < 0.1 * truth


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_of_gaussians_with_mean_zero_it_compares_covariances(scale):
    """3 tr (S - T)^2 / d^2; unbiased at any number of draws, and errors are no smaller than the spread."""
    seed, d, repeats = generator(2), 6, 300
    truth = 3 * d * (1 - scale**2) ** 2 / d**2
    found = [kernel_distance(normal(120, d, seed=seed), scale * normal(100, d, seed=seed)) for _ in range(repeats)]
    values = np.array([estimate.value for estimate in found])
    error = np.sqrt(np.mean([estimate.standard_error**2 for estimate in found]))
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(repeats)
    factor = 2**0.5 if scale == 1 else 1.0  # of equal distributions, the variance falls with n^2
    assert error == pytest.approx(factor * values.std(), rel=0.2)


def test_it_names_its_embedding_and_may_be_negative():
    seed = generator(5)
    found = [kernel_distance(normal(30, 4, seed=seed), normal(30, 4, seed=seed)) for _ in range(20)]
    assert min(estimate.value for estimate in found) < 0
    assert found[0].unit == "squared MMD in the data's own coordinates"


def test_a_scale_beyond_a_cubic_kernel_is_refused():
    x = torch.randn(10, 2, dtype=torch.double) * 1e100
    with pytest.raises(ValueError, match="`x` and `y` have features too large"):
        kernel_distance(x, x + 1e100)


@pytest.mark.parametrize("scale", [1e-3, 1e-8, 1e-30])
def test_small_features_are_compared_by_their_means(scale):
    """Of features near zero the kernel is 1 + 3 x y / d, whose distance is 3 / d times that of the means, squared."""
    generator = torch.Generator().manual_seed(0)
    x, y = (scale * torch.randn(200, 2, generator=generator, dtype=torch.double) for _ in range(2))
    y += scale
    found = kernel_distance(x, y)
    sums = x.sum(0), y.sum(0)
    within = [(s.square().sum() - z.square().sum()) / (200 * 199) for s, z in zip(sums, (x, y), strict=True)]
    expected = 1.5 * (within[0] + within[1] - 2 * sums[0] @ sums[1] / 200**2)
    assert found.value == pytest.approx(float(expected), rel=20 * scale + 1e-6)
    assert abs(found.value - 3 * scale**2) < 5 * found.standard_error
