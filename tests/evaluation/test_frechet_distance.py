"""The Frechet distance: closed forms, singular covariances, its bias, and errors that are as large as they say."""

from math import sqrt

import numpy as np
import pytest
import torch
from scipy import linalg

from pyrogen.evaluation import NamedEmbedding, frechet_distance, gaussian_frechet_distance
from pyrogen.evaluation.frechet import _distance, _of_samples


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.double, generator=seed)


def covariance(size, rank, seed):
    root = normal(size, rank, seed=seed)
    return root @ root.mT


def rotation(size, seed):
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def by_square_root(mean, first, other, second):
    """The textbook's form."""
    root = linalg.sqrtm((first @ second).numpy())
    return float((mean - other).square().sum() + (first + second).trace()) - 2 * float(np.trace(root).real)


def by_eigenvalues(mean, first, other, second):
    """The square roots of the eigenvalues of A^(1/2) B A^(1/2)."""
    root = torch.from_numpy(linalg.sqrtm(first.numpy()).real)
    values = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0)
    return float((mean - other).square().sum() + (first + second).trace() - 2 * values.sqrt().sum())


@pytest.mark.parametrize("size", [1, 3, 20])
def test_of_gaussians_it_is_the_textbook_s_form(size):
    seed = generator()
    first, second = (covariance(size, size + 2, seed) for _ in range(2))
    mean, other = normal(2, size, seed=seed)
    found = float(gaussian_frechet_distance(mean, first, other, second))
    for form in (by_square_root, by_eigenvalues):
        assert found == pytest.approx(form(mean, first, other, second), rel=1e-9)


def test_of_commuting_covariances_it_is_that_of_standard_deviations():
    seed = generator()
    turn, mean = rotation(6, seed), torch.arange(6.0).double()
    deviations = torch.linspace(0.1, 3, 6, dtype=torch.double), torch.linspace(2, 1, 6, dtype=torch.double)
    first, second = (turn @ torch.diag(deviation**2) @ turn.mT for deviation in deviations)
    truth = float(mean.square().sum() + (deviations[0] - deviations[1]).square().sum())
    assert float(gaussian_frechet_distance(mean, first, 0 * mean, second)) == pytest.approx(truth, rel=1e-12)


def test_batches_of_gaussians_are_gaussians():
    seed = generator()
    means, others = normal(2, 4, 1, 3, seed=seed)
    firsts = torch.stack([covariance(3, 5, seed) for _ in range(4)]).unsqueeze(1)
    seconds = torch.stack([covariance(3, 2, seed) for _ in range(2)])
    found = gaussian_frechet_distance(means, firsts, others, seconds)
    assert found.shape == (4, 2)
    single = gaussian_frechet_distance(means[1, 0], firsts[1, 0], others[1, 0], seconds[1])
    torch.testing.assert_close(found[1, 1], single)


@pytest.mark.parametrize("smallest", [1e-6, 1e-12, 1e-16, 0.0])
def test_nearly_singular_covariances_are_as_good_as_others(smallest):
    """Known in their common eigenvectors; the two other forms lose half of the digits."""
    seed = generator(1)
    turn, zero = rotation(30, seed), torch.zeros(30, dtype=torch.double)
    values = torch.logspace(0, -16, 30, dtype=torch.double).clamp_min(smallest), torch.full((30,), 0.5).double()
    values[1][15:] = smallest
    truth = float((values[0].sqrt() - values[1].sqrt()).square().sum())
    first, second = (turn @ torch.diag(value) @ turn.mT for value in values)
    first, second = (0.5 * (matrix + matrix.mT) for matrix in (first, second))
    error = abs(float(gaussian_frechet_distance(zero, first, zero, second)) - truth)
    assert error < 1e-7 * truth
    assert error < abs(by_square_root(zero, first, zero, second) - truth) + 1e-8 * truth


def test_samples_of_low_rank_are_exact():
    """All draws on a line, in a hundred dimensions: the distance is that on the line, and never a complex number."""
    seed = generator()
    axis = normal(100, seed=seed)
    axis /= axis.norm()
    x, y = normal(500, 1, seed=seed), 2 * normal(400, 1, seed=seed) + 1
    line = float((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)
    assert float(_of_samples(x * axis, y * axis)) == pytest.approx(line, rel=1e-12)


def test_fewer_draws_than_features_of_low_rank_are_exact():
    """Three and five dimensions among 200: the factors of 60 and 90 draws have different numbers of columns."""
    seed = generator()
    axes = rotation(200, seed)[:5]
    x, y = normal(60, 5, seed=seed), 2 * normal(90, 5, seed=seed) + 1
    for first, second in ((x * torch.tensor([1, 1, 1, 0, 0]), y), (y, x * torch.tensor([1, 1, 1, 0, 0]))):
        truth = frechet_distance(first, second, divisions=2, generator=generator())
        found = frechet_distance(first @ axes, second @ axes, divisions=2, generator=generator())
        assert found.plug_in.value == pytest.approx(truth.plug_in.value, rel=1e-10)
        assert found.extrapolated.value == pytest.approx(truth.extrapolated.value, rel=1e-10)
        moments = first.mean(0), first.mT.cov(), second.mean(0), second.mT.cov()
        assert found.plug_in.value == pytest.approx(float(gaussian_frechet_distance(*moments)), rel=1e-7)


@pytest.mark.parametrize(("columns", "others"), [(2, 4), (4, 2), (1, 9)])
def test_factors_may_have_different_numbers_of_columns(columns, others):
    seed = generator()
    first, second = normal(6, columns, seed=seed), normal(6, others, seed=seed)
    mean, other = normal(2, 6, seed=seed)
    truth = gaussian_frechet_distance(mean, first @ first.mT, other, second @ second.mT)
    torch.testing.assert_close(_distance(mean, first, other, second), truth, rtol=1e-7, atol=0)


def test_equal_samples_are_at_distance_zero_to_the_last_digit():
    x = 1e3 + normal(300, 40, seed=generator())
    assert 0 <= float(_of_samples(x, x)) < 1e-20
    rounded = x.float()
    assert 0 <= frechet_distance(rounded, rounded.double(), divisions=2).plug_in.value < 1e-9


def test_copies_of_the_data_are_no_independent_draws():
    """They are nearer than independent draws of one distribution, by many errors; the number of others is zero."""
    x = normal(500, 8, seed=generator())
    copied, fresh = frechet_distance(x, x, divisions=10), frechet_distance(x, normal(500, 8, seed=generator(7)))
    assert copied.extrapolated.value < -10 * copied.extrapolated.standard_error
    assert abs(fresh.extrapolated.value) < 3 * fresh.extrapolated.standard_error


def test_it_is_that_of_the_sample_moments_wherever_they_lie():
    seed = generator()
    x, y = normal(200, 4, seed=seed) @ normal(4, 4, seed=seed), normal(150, 4, seed=seed)
    moments = x.mean(0), x.mT.cov(), y.mean(0), y.mT.cov()
    truth = float(gaussian_frechet_distance(*moments))
    turn = rotation(4, seed)
    assert float(_of_samples(x, y)) == pytest.approx(truth, rel=1e-12)
    assert float(_of_samples(x @ turn + 1e6, y @ turn + 1e6)) == pytest.approx(truth, rel=1e-8)
    assert float(_of_samples(10 * y, 10 * x)) == pytest.approx(100 * truth, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("draws", [24, 60, 200])
def test_the_extrapolation_takes_the_bias_away(draws):
    """Of equal Gaussians the bias is (1/m + 1/n)(d + d(d + 1)/4) + O(1/n^2), whatever it is of others."""
    seed, d, repeats = generator(2), 10, 200
    for shift, scale in ((0.0, 1.0), (0.3, 2.0)):
        truth = d * shift**2 + d * (scale - 1) ** 2
        found = [
            frechet_distance(
                normal(draws, d, seed=seed),
                scale * normal(2 * draws, d, seed=seed) + shift,
                divisions=4,
                generator=seed,
            )
            for _ in range(repeats)
        ]
        plug_in = np.array([distance.plug_in.value for distance in found]) - truth
        rest = np.array([distance.extrapolated.value for distance in found]) - truth
        assert abs(rest.mean()) < 4 * rest.std() / sqrt(repeats) + 0.06 * plug_in.mean()
        assert plug_in.mean() > 10 * abs(rest.mean())
        if shift == 0 and draws == 200:
            assert plug_in.mean() == pytest.approx(1.5 / draws * (d + d * (d + 1) / 4), rel=0.08)


@pytest.mark.slow
def test_standard_errors_are_the_spread_of_repeated_samples():
    """And intervals hold the truth, which percentiles of a bootstrap do not."""
    seed, d, n, repeats = generator(3), 5, 60, 150
    scale = torch.linspace(0.7, 1.4, d, dtype=torch.double)
    truth = float((scale - 1).square().sum() + 5 * 0.2**2)
    values, errors, held, held_by_bootstrap = [], [], 0, 0
    for _ in range(repeats):
        x, y = normal(n, d, seed=seed), scale * normal(n, d, seed=seed) + 0.2
        distance = frechet_distance(x, y, generator=seed, divisions=10).extrapolated
        values.append(distance.value), errors.append(distance.standard_error)
        low, high = distance.interval()
        held += low <= truth <= high
        choices = torch.randint(n, (2, 100, n), generator=seed)
        resampled = torch.cat([_of_samples(x[a], y[b]) for a, b in zip(*choices, strict=True)])
        low, high = resampled.quantile(torch.tensor([0.025, 0.975]).double())
        held_by_bootstrap += bool(low <= truth <= high)
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(np.std(values), rel=0.25)
    assert held / repeats > 0.9
    assert held_by_bootstrap / repeats < 0.2


def test_too_few_draws_are_refused():
    x = torch.randn(200, 120)
    with pytest.raises(
        ValueError, match="`x` and `y` must hold at least 242 draws each .* in 120 or more dimensions, got 200"
    ):
        frechet_distance(x, x + 1)
    copied = x[:, :5].repeat(1, 100)  # copies and constants add no dimensions
    dead = torch.cat([copied, torch.zeros(200, 5)], 1)
    assert frechet_distance(dead, dead + 1, divisions=2).plug_in.value == pytest.approx(505)


def test_it_is_printed_with_its_bias_and_its_embedding():
    x, y = torch.randn(2, 100, 3, generator=generator()).unbind()
    distance = frechet_distance(x, y, embedding=NamedEmbedding(torch.tanh, "a tanh"), generator=generator())
    assert "Frechet distance in a tanh; " in str(distance)
    assert "from 100 and 100 draws, of which" in str(distance)
    assert distance.bias == distance.plug_in.value - distance.extrapolated.value > 0
    assert distance.plug_in.unit == distance.extrapolated.unit == "Frechet distance in a tanh"


def test_a_seed_gives_the_same_figures_and_leaves_the_global_one_alone():
    x, y = torch.randn(2, 100, 3, generator=generator()).unbind()
    state = torch.get_rng_state()
    found = [frechet_distance(x, y, generator=generator(5)).extrapolated for _ in range(2)]
    assert found[0] == found[1]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("mean", "matrix", "message"),
    [
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "`covariance` must be symmetric"),
        (torch.zeros(2), torch.diag(torch.tensor([1.0, -0.1])), "`covariance` must have no eigenvalue below zero"),
        (torch.zeros(2), torch.eye(3), r"`mean` and `covariance` must have shapes .*got \(2,\) and \(3, 3\)"),
        (torch.zeros(2), torch.full((2, 2), torch.nan), "`covariance` must hold numbers, got 4 NaN"),
        (torch.zeros(()), torch.eye(1), "`mean` and `covariance` must have shapes"),
        (torch.zeros(3), torch.eye(3), r"`other_mean` must have shape \(..., 3\), got \(2,\)"),
    ],
)
def test_what_is_no_gaussian_is_refused(mean, matrix, message):
    with pytest.raises(ValueError, match=message):
        gaussian_frechet_distance(mean, matrix, torch.zeros(2), torch.eye(2))
