"""Mode counts: what an exact sampler scores, and what collapse does."""

from math import exp, log, sqrt

import numpy as np
import pytest
import torch

from pyrogen.evaluation import label_counts, mode_counts

GRID = 2.0 * torch.cartesian_prod(torch.arange(-2.0, 3), torch.arange(-2.0, 3))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sampled(draws, seed, *, centers=GRID, scale=0.05):
    labels = torch.randint(len(centers), (draws,), generator=seed)
    return centers[labels] + scale * torch.randn(draws, centers.shape[1], generator=seed)


def test_an_exact_sampler_scores_what_is_told():
    """98.89 % of high quality, reverse KL nearly (25 - 1) / 5,000 = .0048, all modes."""
    seed, repeats = generator(), 100
    found = [mode_counts(sampled(2500, seed), GRID, 0.05) for _ in range(repeats)]
    assert found[0].high_quality_of_exact == pytest.approx(1 - exp(-4.5), abs=1e-12)
    assert found[0].reverse_kl_of_exact == pytest.approx(0.0048, rel=0.01)
    assert all(result.captured == 25 for result in found)
    quality, kl = (np.array([[r.high_quality.value, r.reverse_kl.value] for r in found]).T)[:]
    assert abs(quality.mean() - (1 - exp(-4.5))) < 4 * quality.std() / sqrt(repeats)
    assert abs(kl.mean() - 0.0048) < 4 * kl.std() / sqrt(repeats)
    assert found[0].reverse_kl.standard_error == pytest.approx(kl.std(), rel=0.4)
    assert found[0].high_quality.standard_error == pytest.approx(quality.std(), rel=0.3)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_share_of_high_quality_in_any_dimension(d):
    seed = generator()
    centers = 100.0 * torch.eye(d + 1)[:, :d]
    result = mode_counts(sampled(20_000, seed, centers=centers, scale=3.0), centers, 3.0)
    assert abs(result.high_quality.value - result.high_quality_of_exact) < 4 * result.high_quality.standard_error
    radii = torch.randn(200_000, d, generator=seed).norm(dim=1)
    assert result.high_quality_of_exact == pytest.approx(float((radii <= 3).double().mean()), abs=0.002)


def test_missing_modes_are_missed_and_the_divergence_is_finite():
    x = sampled(5000, generator(), centers=GRID[:5])
    result = mode_counts(x, GRID, 0.05)
    assert result.captured == 5
    assert result.reverse_kl.value == pytest.approx(log(5), abs=0.01)
    assert int(result.counts.sum()) == 5000
    assert result.captured_of_exact == pytest.approx(25)


def test_noise_between_the_modes_captures_none():
    result = mode_counts(GRID + 0.5, GRID, 0.05)
    assert result.captured == 0
    assert result.high_quality.value == 0.0


def test_collapse_within_the_modes_is_more_than_an_exact_sampler_scores():
    result = mode_counts(sampled(5000, generator(), scale=0.01), GRID, 0.05)
    assert result.high_quality.value == 1.0 > result.high_quality_of_exact


def test_the_divergence_is_reverse_and_in_nats():
    counts = torch.tensor([1, 3])
    result = label_counts(torch.repeat_interleave(torch.arange(2), counts), 2, probabilities=torch.tensor([0.5, 0.5]))
    assert result.reverse_kl.value == pytest.approx(0.25 * log(0.5) + 0.75 * log(1.5))
    unequal = label_counts(torch.tensor([0, 0, 0, 1]), 2, probabilities=torch.tensor([0.75, 0.25]))
    assert unequal.reverse_kl.value == pytest.approx(0.0, abs=1e-12)


def test_its_error_is_its_spread_away_from_the_truth():
    seed, repeats = generator(), 300
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    found = [
        label_counts(torch.multinomial(weights, 500, replacement=True, generator=seed), 4).reverse_kl
        for _ in range(repeats)
    ]
    spread = np.std([estimate.value for estimate in found])
    assert np.mean([estimate.standard_error for estimate in found]) == pytest.approx(spread, rel=0.15)


def test_a_thousand_modes_of_stacked_digits_have_a_floor():
    """26,000 exact draws over 1,000 modes: reverse KL .019."""
    labels = torch.randint(1000, (26_000,), generator=generator())
    result = label_counts(labels, 1000)
    assert result.captured == 1000
    assert result.reverse_kl_of_exact == pytest.approx(0.0193, abs=1e-4)
    assert result.reverse_kl.value == pytest.approx(0.0192, abs=0.003)
    assert result.captured_of_exact == pytest.approx(1000, abs=0.1)
    assert result.high_quality is None


def test_the_floor_of_many_draws_is_the_asymptotic_one_and_costs_little():
    weights = torch.arange(1.0, 1001.0, dtype=torch.double)
    weights /= weights.sum()
    labels = torch.multinomial(weights, 1_000_000, replacement=True, generator=generator())
    result = label_counts(labels, 1000, probabilities=weights)
    assert result.reverse_kl_of_exact == pytest.approx(999 / 2e6, rel=0.01)
    sure = label_counts(torch.zeros(10, dtype=torch.long), 2, probabilities=torch.tensor([1.0, 1e-30]))
    assert sure.reverse_kl_of_exact == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("modes", "draws"), [(300, 600), (300, 100), (3, 20)])
def test_the_floor_holds_for_few_draws_a_mode(modes, draws):
    seed = generator()
    weights = torch.rand(modes, generator=seed) + 0.2
    weights /= weights.sum()
    found = [
        label_counts(torch.multinomial(weights, draws, replacement=True, generator=seed), modes, probabilities=weights)
        for _ in range(200)
    ]
    values = np.array([result.reverse_kl.value for result in found])
    assert abs(values.mean() - found[0].reverse_kl_of_exact) < 4 * values.std() / sqrt(200)


def test_a_draw_belongs_to_the_mode_that_is_the_fewest_deviations_away():
    """Half of the draws of the wide mode beyond its second deviation are nearer to the narrow one."""
    seed, centers, scales = generator(), torch.tensor([[0.0, 0.0], [3.5, 0.0]]), torch.tensor([1.0, 0.01])
    labels = torch.randint(2, (20_000,), generator=seed)
    x = centers[labels] + scales[labels, None] * torch.randn(20_000, 2, generator=seed)
    result = mode_counts(x, centers, scales)
    assert abs(result.high_quality.value - result.high_quality_of_exact) < 4 * result.high_quality.standard_error
    assert result.reverse_kl.value < 1e-3


@pytest.mark.parametrize("scale", [1e-5, 1e-8, 1e-12])
def test_modes_may_be_narrow_beside_their_distances(scale):
    noise = scale * torch.randn(5000, generator=generator(), dtype=torch.double)
    x = torch.stack([torch.full_like(noise, -2.0), noise], 1)
    found = mode_counts(x, GRID.double(), scale)
    assert found.high_quality.value == float((noise.abs() <= 3 * scale).double().mean())


def test_few_draws_of_high_quality_leave_it_uncertain():
    """Of thirty exact draws all are of high quality in seven samples of ten, which is no proof."""
    seed, repeats, held = generator(), 300, 0
    for _ in range(repeats):
        found = mode_counts(sampled(30, seed), GRID, 0.05)
        low, high = found.high_quality.interval()
        held += low <= found.high_quality_of_exact <= high
    assert held / repeats > 0.93


def test_modes_may_differ_in_scale_and_probability():
    seed, centers, scales = generator(), torch.tensor([[0.0, 0.0], [20.0, 0.0]]), torch.tensor([0.1, 3.0])
    labels = (torch.rand(20_000, generator=seed) < 0.2).long()
    x = centers[labels] + scales[labels, None] * torch.randn(20_000, 2, generator=seed)
    result = mode_counts(x, centers, scales, probabilities=torch.tensor([0.8, 0.2]))
    assert abs(result.high_quality.value - (1 - exp(-4.5))) < 4 * result.high_quality.standard_error
    assert result.reverse_kl.value < 1e-3


def test_it_is_printed_beside_the_exact_sampler():
    text = str(mode_counts(sampled(2500, generator()), GRID, 0.05))
    assert text.startswith("25 of 25 modes, ")
    assert "(exact sampler 0.9889)" in text
    assert "(exact sampler 0.0048)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(5, 3)}, r"`x` and `centers` must have shapes .* got \(5, 3\) and \(25, 2\)"),
        ({"x": torch.zeros(0, 2)}, "`x` and `centers` must have shapes"),
        ({"x": torch.full((5, 2), torch.nan)}, "`x` must hold numbers, got 10 NaN"),
        ({"scale": 0.0}, "`scale` must be positive, got 0.0"),
        ({"scale": 0.5}, "`centers` must lie at least 3 standard deviations of both modes apart, got 2"),
        ({"scale": torch.ones(3)}, r"`scale` must be positive, a number or one for each of 25 modes, got \(3,\)"),
        ({"scale": -torch.ones(25)}, "`scale` must be positive"),
        ({"probabilities": torch.ones(25)}, "`probabilities` must be 25 positive numbers that sum to one"),
        ({"centers": GRID[:1]}, "at least two modes"),
    ],
)
def test_what_makes_no_counts_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mode_counts(**({"x": torch.zeros(5, 2), "centers": GRID, "scale": 0.05} | arguments))


def test_labels_are_integers_of_the_classes():
    with pytest.raises(TypeError, match="`labels` must hold integers, got torch.float32"):
        label_counts(torch.rand(5), 10)
    with pytest.raises(ValueError, match="`labels` must be from 0 to 9, got 0 to 10"):
        label_counts(torch.arange(11), 10)
    with pytest.raises(ValueError, match="`labels` must have shape"):
        label_counts(torch.zeros(0, dtype=torch.long), 10)
