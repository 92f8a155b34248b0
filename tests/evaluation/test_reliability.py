"""Reliability of stated probabilities: a known error, a valid test, what bins make of ties."""

from math import log, sqrt

import pytest
import torch

import pyrogen as pg
from pyrogen.evaluation import reliability
from pyrogen.implicit import density_ratio


def told_apart(n, distance, seed):
    """Events of two normals on the line, equally likely, at so many standard deviations; whether each is of the first.

    The log-ratio of the two is ``distance * x``, so that its logistic function is the probability of the first.
    """
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(n, generator=generator, dtype=torch.double) < 0.5
    x = torch.randn(n, generator=generator, dtype=torch.double) + distance * (first.double() - 0.5)
    return x, first


def expected_error(distance, slope):
    """E|s(slope h) - s(h)| of the log-ratio ``h``, by quadrature."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.double)
    density = sum((-0.5 * (x - side * distance / 2) ** 2).exp() for side in (-1, 1)) / (2 * sqrt(2 * torch.pi))
    gap = ((slope * distance * x).sigmoid() - (distance * x).sigmoid()).abs()
    return float(torch.trapezoid(gap * density, x))


@pytest.mark.parametrize("slope", [0.4, 3.0])
def test_the_error_of_overconfidence_is_the_known_one(slope):
    x, first = told_apart(20_000, 1.5, seed=0)
    other = torch.Generator().manual_seed(1)  # than that of the data, whose numbers would come again
    found = reliability((slope * 1.5 * x).sigmoid(), first, bins=20, simulations=99, generator=other)
    # A bin in which the gap changes its sign hides some of it: the two in the middle, at most a tenth of the data.
    assert abs(found.calibration_error.value - expected_error(1.5, slope)) < 4 * found.calibration_error.standard_error
    assert found.test.p_value == pytest.approx(0.01)


def test_standard_errors_are_those_of_repeated_data():
    repeats, slope = 400, 3.0
    truth = expected_error(1.5, slope)
    hits, values, errors = 0, [], []
    for seed in range(repeats):
        x, first = told_apart(600, 1.5, seed)
        error = reliability((slope * 1.5 * x).sigmoid(), first, simulations=1).calibration_error
        low, high = error.interval()
        hits, values, errors = hits + (low < truth < high), [*values, error.value], [*errors, error.standard_error]
    assert sum(errors) / repeats == pytest.approx(float(torch.tensor(values).std()), rel=0.15)
    assert hits / repeats > 0.95 - 0.03 - 4 * sqrt(0.95 * 0.05 / repeats)  # 3 %: the absolute value is biased upwards


def test_exact_posteriors_are_refused_as_rarely_as_promised():
    repeats, refused, values, expected = 400, 0, [], []
    for seed in range(repeats):
        x, first = told_apart(200, 1.5, seed)
        found = reliability((1.5 * x).sigmoid(), first, simulations=99)
        refused += found.test.p_value <= 0.05 + 1e-9
        values, expected = [*values, found.calibration_error.value], [*expected, found.if_calibrated]
    assert abs(refused / repeats - 0.05) < 4 * sqrt(0.05 * 0.95 / repeats)
    spread = float(torch.tensor(values).std()) / sqrt(repeats)
    assert abs(sum(values) - sum(expected)) / repeats < 4 * spread


def test_the_log_loss_of_a_known_posterior():
    """That of the share of both in all is log 2; of the exact posterior it is less by their divergence."""
    x, first = told_apart(20_000, 1.5, seed=1)
    ignorant = reliability(torch.full_like(x, 0.5), first, simulations=9)
    assert ignorant.log_loss.value == pytest.approx(log(2))
    assert len(ignorant.counts) == 1
    grid = torch.linspace(-12, 12, 100_001, dtype=torch.double)
    density = (-0.5 * (grid - 0.75) ** 2).exp() / sqrt(2 * torch.pi)
    truth = float(torch.trapezoid(-(1.5 * grid).sigmoid().log() * density, grid))
    exact = reliability((1.5 * x).sigmoid(), first, simulations=9).log_loss
    assert abs(exact.value - truth) < 4 * exact.standard_error
    impossible = reliability(torch.zeros(10), torch.ones(10, dtype=torch.bool))
    assert impossible.log_loss.value == float("inf")


def test_a_calibrated_ratio_states_probabilities():
    """Trained for long on few rows it is too sure of itself, until it is calibrated on others."""
    torch.manual_seed(0)

    def sides(n):
        return torch.randn(n, 4) + 0.5, torch.randn(n, 4) - 0.5

    ratio = density_ratio((4,), hidden=(64,))
    pg.fit(ratio, sides(60), steps=150, lr=1e-2)
    held_out, test = sides(500), sides(1000)
    both, first = torch.cat(test), torch.arange(2000) < 1000

    def stated():
        with torch.no_grad():
            return reliability(ratio(both).sigmoid(), first)

    before = stated()
    ratio.calibrate(*held_out)
    after = stated()
    assert before.test.p_value < 0.01
    assert after.calibration_error.value < before.calibration_error.value / 2
    best = reliability(both.sum(1).sigmoid(), first)  # the exact log-ratio is the sum
    assert best.test.p_value > 0.01
    assert best.log_loss.value - 4 * best.log_loss.standard_error < after.log_loss.value < before.log_loss.value


def test_equal_probabilities_share_a_bin_whatever_their_order():
    stated = torch.tensor([0.2, 0.5, 0.5, 0.5, 0.5, 0.9])
    outcomes = torch.tensor([False, True, True, False, False, True])
    found = reliability(stated, outcomes, bins=3)
    assert found.counts.tolist() == [1, 4, 1]
    torch.testing.assert_close(found.stated, torch.tensor([0.2, 0.5, 0.9]).double())
    torch.testing.assert_close(found.found, torch.tensor([0.0, 0.5, 1.0]).double())
    order = torch.tensor([3, 5, 1, 0, 4, 2])
    again = reliability(stated[order], outcomes[order], bins=3)
    assert again.calibration_error.value == pytest.approx(found.calibration_error.value)
    assert found.calibration_error.value == pytest.approx((0.2 + 0.0 + 0.1) / 6)
    assert "if calibrated" in str(found)


def test_bins_hold_equal_counts():
    torch.manual_seed(0)
    stated = torch.rand(1000)
    found = reliability(stated, torch.rand(1000) < stated, bins=8, simulations=9)
    assert found.counts.tolist() == [125] * 8
    assert (found.errors > 0).all()
    assert found.stated.diff().min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 1.2, 0.3], [True, False, True]), "`probabilities` must be from 0 to 1, got 1.2"),
        (([0.1, float("nan"), 0.3], [True, False, True]), "NaN"),
        (([0.1, 0.2, 0.3], [True, False]), r"`outcomes` must have shape \(3,\)"),
        (([0.1], [True]), "at least 2 entries"),
    ],
)
def test_what_are_no_probabilities_is_refused(arguments, message):
    stated, outcomes = (torch.tensor(values) for values in arguments)
    with pytest.raises(ValueError, match=message):
        reliability(stated, outcomes, bins=2)


def test_outcomes_are_booleans():
    with pytest.raises(TypeError, match="`outcomes` must be a tensor of booleans, got torch.int64"):
        reliability(torch.rand(20), torch.ones(20, dtype=torch.long))


def test_what_is_rare_is_simulated_as_rarely_as_stated():
    """Of 200,000 events of probability 1e-9 one happened: by chance so in one of 5,000 worlds."""
    stated = torch.full((200_000,), 1e-9, dtype=torch.double)
    happened = torch.arange(200_000) == 7
    found = reliability(stated, happened, bins=2, simulations=400, generator=torch.Generator().manual_seed(0))
    assert found.if_calibrated < 3e-9  # 2e-9, were it not for the few worlds in which one happens; 1e-8 with 24 bits
    assert found.test.p_value < 0.01
