"""Two-sample tests: closed forms, valid p-values, power."""

from math import erf, exp, pi, sqrt

import pytest
import torch

from pyrogen.evaluation import energy_distance, energy_test, mmd_test, squared_mmd
from pyrogen.numerics.kernels import (
    DistanceKernel,
    GaussianKernel,
    InverseMultiquadricKernel,
    Kernel,
    KernelSum,
    LaplaceKernel,
    multiscale,
)
from pyrogen.numerics.pairwise import distance_blocks, median_distance

KERNELS = [
    GaussianKernel(),
    LaplaceKernel(),
    InverseMultiquadricKernel(),
    DistanceKernel(),
    multiscale(LaplaceKernel, multiples=(0.5, 2.0)),
]


class Plain(Kernel):
    """A kernel of a third party."""

    def __call__(self, distance):
        return 1 / (1 + distance)


def brute_force(x, y, kernel):
    first = sum(kernel((a - b).norm()) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
    second = sum(kernel((a - b).norm()) for i, a in enumerate(y) for j, b in enumerate(y) if i != j)
    across = sum(kernel((a - b).norm()) for a in x for b in y)
    m, n = len(x), len(y)
    return float(first / (m * (m - 1)) + second / (n * (n - 1)) - 2 * across / (m * n))


@pytest.mark.parametrize(
    ("kernel", "formula"),
    [
        (GaussianKernel(0.7), lambda r: torch.exp(-(r**2) / (2 * 0.49))),
        (LaplaceKernel(0.7), lambda r: torch.exp(-r / 0.7)),
        (InverseMultiquadricKernel(0.7), lambda r: 1 / torch.sqrt(1 + r**2 / 0.49)),
        (DistanceKernel(), lambda r: -r),
        (KernelSum((GaussianKernel(1.0), DistanceKernel())), lambda r: torch.exp(-(r**2) / 2) - r),
        (Plain(), lambda r: 1 / (1 + r)),
    ],
)
def test_the_estimate_equals_the_sum_over_all_pairs(kernel, formula):
    torch.manual_seed(0)
    x, y = torch.randn(7, 3, dtype=torch.double), torch.randn(9, 3, dtype=torch.double) + 1
    assert squared_mmd(x, y, kernel=kernel) == pytest.approx(brute_force(x, y, formula), abs=1e-9)


def test_permutations_are_estimates_of_relabeled_data():
    torch.manual_seed(0)
    x, y = torch.randn(6, 2, dtype=torch.double), torch.randn(5, 2, dtype=torch.double)
    generator = torch.Generator().manual_seed(3)
    result = mmd_test(x, y, kernel=GaussianKernel(1.0), permutations=4, generator=generator)
    order = torch.rand(4, 11, generator=torch.Generator().manual_seed(3)).argsort(1)
    pooled = torch.cat([x, y])
    for estimate, permutation in zip(result.null, order, strict=True):
        chosen = permutation < 6
        expected = squared_mmd(pooled[chosen], pooled[~chosen], kernel=GaussianKernel(1.0))
        assert float(estimate) == pytest.approx(expected, abs=1e-9)


def test_blocks_of_rows_change_nothing():
    torch.manual_seed(0)
    x, y = torch.randn(10, 4), torch.randn(7, 4) + 100
    whole = torch.cdist(x.double(), y.double())
    for entries in (1, 20, 10_000):
        blocks = [distance for _, distance in distance_blocks(x, y, entries=entries)]
        assert all(block.numel() <= max(entries, 7) for block in blocks)
        torch.testing.assert_close(torch.cat(blocks).double(), whole, rtol=1e-4, atol=1e-4)


def test_the_mmd_of_two_gaussians():
    """E k = (h^2 / (h^2 + s^2))^(d/2) exp(-|m|^2 / 2 (h^2 + s^2)) for a difference of mean m and variance s^2."""
    torch.manual_seed(0)
    d, bandwidth, shift, scale, repeats = 3, 1.5, 0.8, 1.3, 300

    def mean_kernel(variance, distance):
        total = bandwidth**2 + variance
        return (bandwidth**2 / total) ** (d / 2) * exp(-(distance**2) / (2 * total))

    truth = mean_kernel(2, 0) + mean_kernel(2 * scale**2, 0) - 2 * mean_kernel(1 + scale**2, shift * sqrt(d))
    values = torch.tensor(
        [
            squared_mmd(torch.randn(60, d), scale * torch.randn(40, d) + shift, kernel=GaussianKernel(bandwidth))
            for _ in range(repeats)
        ]
    )
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / sqrt(repeats)
    assert float(values.std()) / sqrt(repeats) < 0.05 * truth  # sharp enough to see a wrong formula


def test_the_energy_distance_of_two_normals_on_the_line():
    torch.manual_seed(0)
    shift, repeats = 0.7, 300

    def mean_distance(mean):  # of a normal with standard deviation sqrt(2)
        return 2 / sqrt(pi) * exp(-(mean**2) / 4) + mean * erf(mean / 2)

    truth = 2 * mean_distance(shift) - 2 * mean_distance(0.0)
    values = torch.tensor([energy_distance(torch.randn(80, 1), torch.randn(60, 1) + shift) for _ in range(repeats)])
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / sqrt(repeats)
    # The same from the distribution functions: twice the integral of their squared difference.
    grid = torch.linspace(-10, 11, 20_001, dtype=torch.double)
    gap = torch.special.ndtr(grid) - torch.special.ndtr(grid - shift)
    assert truth == pytest.approx(2 * float(torch.trapezoid(gap.square(), grid)), rel=1e-6)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_errors_of_the_first_kind_are_as_rare_as_promised(kernel):
    """With 99 permutations P(p <= 0.05) is exactly 0.05; the samples are skewed, small and of unequal size."""
    torch.manual_seed(0)
    repeats = 600
    p_values = torch.tensor(
        [
            mmd_test(torch.randn(20, 2).exp(), torch.randn(11, 2).exp(), kernel=kernel, permutations=99).p_value
            for _ in range(repeats)
        ]
    )
    for level in (0.05, 0.2):
        spread = sqrt(level * (1 - level) / repeats)
        assert abs(float((p_values <= level + 1e-9).double().mean()) - level) < 4 * spread


def test_ties_only_make_it_cautious():
    torch.manual_seed(0)
    repeats = 400
    p_values = torch.tensor(
        [
            energy_test(torch.randint(2, (6, 1)), torch.randint(2, (6, 1)), permutations=99).p_value
            for _ in range(repeats)
        ]
    )
    assert float((p_values <= 0.05 + 1e-9).double().mean()) < 0.05 + 4 * sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_differences_are_found(kernel):
    torch.manual_seed(0)
    shifted = [
        mmd_test(torch.randn(60, 3), torch.randn(60, 3) + 0.6, kernel=kernel, permutations=99) for _ in range(40)
    ]
    wider = [mmd_test(torch.randn(80, 3), 1.8 * torch.randn(80, 3), kernel=kernel, permutations=99) for _ in range(40)]
    for results in (shifted, wider):
        assert sum(result.p_value <= 0.05 for result in results) >= 34


def test_the_median_distance():
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    distances = torch.pdist(x)
    assert float(median_distance(x)) == pytest.approx(float(distances.median()), rel=1e-6)
    # In many dimensions all distances are near sqrt(2 d).
    assert float(median_distance(torch.randn(3000, 400))) == pytest.approx(sqrt(800), rel=0.02)
    with pytest.raises(ValueError, match="the median distance of `x` must be positive"):
        median_distance(torch.zeros(5, 2))


def test_where_most_points_coincide_the_median_is_that_of_the_others():
    points = torch.tensor([0.0] * 8 + [1.0, 3.0]).unsqueeze(-1)  # apart by 1 and by 3 eight times each, and once by 2
    assert float(median_distance(points)) == 2.0
    with pytest.raises(ValueError, match="all points coincide"):
        median_distance(torch.full((5, 2), 0.1))


def test_labels_that_mostly_agree_have_a_bandwidth():
    generator = torch.Generator().manual_seed(0)
    x, same, other = (torch.arange(100) < share for share in (15, 17, 45))
    for y, low, high in ((same, 0.3, 1.0), (other, 0.0, 0.01)):
        pair = x.double().unsqueeze(-1), y.double().unsqueeze(-1)
        found = mmd_test(*pair, generator=generator)
        assert found.statistic == pytest.approx(squared_mmd(*pair, kernel=GaussianKernel(1.0)), abs=1e-9)
        assert low <= found.p_value <= high


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-8, 1.0, 1e18])
def test_the_unit_of_the_data_does_not_matter(scale):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 2, generator=generator) + 2, torch.randn(60, 2, generator=generator)
    for test in (energy_test, mmd_test):
        assert test(scale * x, scale * y, permutations=199).p_value == 1 / 200
    assert energy_distance(scale * x, scale * y) / scale == pytest.approx(energy_distance(x, y), rel=1e-3)


def test_short_distances_between_far_points_in_single_precision():
    """Two clusters 2e4 apart; products of matrices in single precision would leave distances within them wrong by 3."""
    generator = torch.Generator().manual_seed(0)
    sides = 1e4 * torch.tensor([-1.0, 1.0]).repeat(100).unsqueeze(1)
    x, y = (torch.randn(200, 2, generator=generator) + sides for _ in range(2))
    exact = squared_mmd(x.double(), y.double(), kernel=GaussianKernel(1.0))
    assert squared_mmd(x, y, kernel=GaussianKernel(1.0)) == pytest.approx(exact, rel=1e-3)


def test_images_and_integers_are_points():
    torch.manual_seed(0)
    x, y = torch.randint(5, (30, 1, 4, 4)), torch.randint(5, (20, 1, 4, 4))
    assert squared_mmd(x, y) == pytest.approx(squared_mmd(x.flatten(1).float(), y.flatten(1).float()), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool])
def test_draws_in_low_precision_are_points(dtype):
    x, y = (torch.randn(2, 30, 3) > 0).to(dtype)
    assert squared_mmd(x, y) == squared_mmd(x.float(), y.float())
    assert mmd_test(x, y, permutations=19).p_value > 0.0


def test_errors_name_the_argument():
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="`x` and `y` must have shapes"):
        squared_mmd(x, torch.randn(5, 3))
    with pytest.raises(ValueError, match="at least two draws each, got 5 and 1"):
        squared_mmd(x, x[:1])
    with pytest.raises(ValueError, match="`y` must be finite, got 1 infinity among 10, the first at"):
        squared_mmd(x, torch.where(torch.arange(10).reshape(5, 2) == 7, torch.inf, x))
    with pytest.raises(ValueError, match="`permutations` must be at least 1"):
        mmd_test(x, x + 1, permutations=0)
    with pytest.raises(ValueError, match="`bandwidth` must be positive, got -1"):
        GaussianKernel(-1.0)
    with pytest.raises(ValueError, match="at least one kernel"):
        KernelSum(())
    with pytest.raises(ValueError, match="`bandwidth` of LaplaceKernel must be set"):
        LaplaceKernel()(torch.ones(2))
