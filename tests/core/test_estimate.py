"""Figures: how they are written, and whether their errors are honest."""

from math import isnan, nan, sqrt

import pytest
import torch

from pyrogen.core.estimate import permutation_p_value, smallest_p_value
from pyrogen.evaluation import Estimate, TestResult


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(-61.31, 0.42, "nats", "exact"), "-61.31 ± 0.42 nats (exact)"),
        (Estimate(-96.2, 0.31, "nats", "lower bound"), "-96.20 ± 0.31 nats (lower bound)"),
        (Estimate(2.3456, 0.0142, "bits per dimension", "exact"), "2.346 ± 0.014 bits per dimension (exact)"),
        (
            Estimate(2.3456, 0.0142, "bits per dimension", "lower bound"),
            "2.346 ± 0.014 bits per dimension (upper bound)",
        ),
        (Estimate(-1234.0, 56.0, "nats", "estimate"), "-1234 ± 56 nats (estimate)"),
        (Estimate(0.97, 0.01, "accuracy", None), "0.970 ± 0.010 accuracy"),
        (Estimate(-1234.0, 560.0), "-1230 ± 560 nats (exact)"),
        (Estimate(-1234.567, 9.96), "-1235 ± 10 nats (exact)"),
        (Estimate(-5.0, 0.0), "-5 ± 0 nats (exact)"),
        (Estimate(-5.25, nan), "-5.25 ± nan nats (exact)"),
        (Estimate(float("-inf"), nan), "-inf ± nan nats (exact)"),
        (Estimate(-1.0, 0.0999), "-1.00 ± 0.10 nats (exact)"),
        (Estimate(-1.0, 0.195), "-1.00 ± 0.20 nats (exact)"),
        (Estimate(1.05e50, 2.3e49, "", None), "1.05e+50 ± 2.3e+49"),
        (Estimate(7.3e-16, 1.1e-16, "", None), "7.3e-16 ± 1.1e-16"),
        (Estimate(0.0, 1.1e-16, "", None), "0e+00 ± 1.1e-16"),
        (Estimate(-1.5, 1.1e-16, "", None), "-1.50000000000000000e+00 ± 1.1e-16"),
        (Estimate(123456789.0, 1234567.0, "", None), "123500000 ± 1200000"),
    ],
)
def test_estimates_are_written_with_their_error_and_what_they_are(estimate, text):
    assert str(estimate) == text


def test_an_estimate_is_written_in_a_format_of_numbers():
    found = Estimate(-61.314, 0.4249, "bits", "exact")
    assert f"{found:.2f}" == "-61.31 ± 0.42"
    assert f"{found:8.1e}" == "-6.1e+01 ±  4.2e-01"
    assert f"{found}" == str(found)


def test_a_test_result_is_written_with_its_p_value():
    assert str(TestResult(0.0312, 0.004, "squared MMD")) == "squared MMD 0.0312, p = 0.004"


def test_the_standard_error_is_that_of_the_mean():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    estimate = Estimate.of_mean(values)
    assert estimate.value == pytest.approx(3.0)
    assert estimate.standard_error == pytest.approx(sqrt(14 / 3 / 4))
    low, high = estimate.interval()
    assert high - low == pytest.approx(2 * 1.959964 * estimate.standard_error)


def test_one_value_has_no_known_error_and_none_is_refused():
    assert isnan(Estimate.of_mean(torch.ones(1)).standard_error)
    with pytest.raises(ValueError, match="`values` must hold at least one number"):
        Estimate.of_mean(torch.ones(0))
    with pytest.raises(ValueError, match="`level` must be between 0 and 1, got 95"):
        Estimate(0.0, 1.0).interval(95)


@pytest.mark.parametrize("trials", [10, 30, 100, 1000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.9997])
def test_intervals_of_shares_hold_the_truth_also_where_all_are_hits(trials, share):
    """By the exact binomial distribution; the normal interval of a mean holds it in 3 % of samples of ten."""
    hits = torch.arange(trials + 1)
    chances = torch.distributions.Binomial(trials, torch.tensor(share, dtype=torch.double)).log_prob(hits).exp()
    every = [Estimate.of_share(torch.arange(trials) < count, unit="right") for count in hits]
    held = torch.tensor([low <= share <= high for low, high in (estimate.interval() for estimate in every)])
    assert float(chances @ held.double()) > (0.88 if trials == 10 else 0.93)
    spread = sqrt(share * (1 - share) / trials)
    if trials * (1 - share) > 4:
        assert every[round(share * trials)].standard_error == pytest.approx(spread, rel=0.2)


def test_shares_are_of_trials():
    assert str(Estimate.of_share(torch.ones(96, dtype=torch.bool), unit="right")) == "1.000 ± 0.014 right"
    with pytest.raises(TypeError, match="`hits` must be a tensor of booleans, got torch.float32"):
        Estimate.of_share(torch.ones(3), unit="right")
    with pytest.raises(ValueError, match="`hits` must hold at least one trial"):
        Estimate.of_share(torch.ones(0, dtype=torch.bool), unit="right")


def test_a_ratio_of_sums_has_the_error_that_repeated_data_show():
    """Sizes and counts of 400 data, drawn anew 2,000 times: the deviation of a deviation is 1.6 %."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 10, (2000, 400), generator=generator).double()
    counts = torch.poisson(0.2 * sizes * (0.5 + torch.rand(2000, 400, generator=generator).double()), generator)
    found = [Estimate.of_ratio(*each, unit="a word") for each in zip(counts, sizes, strict=True)]
    values = torch.tensor([estimate.value for estimate in found])
    assert values.mean() == pytest.approx(0.2, abs=4 * float(values.std()) / sqrt(2000))
    errors = torch.tensor([estimate.standard_error for estimate in found])
    assert errors.square().mean().sqrt() == pytest.approx(float(values.std()), rel=0.06)
    same = Estimate.of_ratio(counts[0], torch.ones(400), unit="")  # of equal sizes it is the mean
    assert same.standard_error == pytest.approx(Estimate.of_mean(counts[0], unit="").standard_error)


def test_ratios_of_numbers_that_were_counted():
    counts, sizes = torch.tensor([1, 0, 2]), torch.tensor([4, 6, 5])
    for pair in ((counts, sizes), (counts.numpy(), sizes.numpy()), (counts.to(torch.uint8), sizes.float())):
        assert Estimate.of_ratio(*pair, unit="") == Estimate.of_ratio(counts.double(), sizes.double(), unit="")
    with pytest.raises(ValueError, match="`counts` must hold numbers, got 1 NaN"):
        Estimate.of_ratio(torch.tensor([nan, 1.0]), torch.ones(2), unit="")


def test_ratios_are_of_data_with_sizes():
    assert isnan(Estimate.of_ratio(torch.ones(1), torch.ones(1), unit="").standard_error)
    with pytest.raises(ValueError, match=r"`sizes` must have the shape \(3,\) of `counts`, got \(2,\)"):
        Estimate.of_ratio(torch.ones(3), torch.ones(2), unit="")
    for sizes in (torch.tensor([1.0, -1.0]), torch.zeros(2), torch.zeros(0)):
        with pytest.raises(ValueError, match="`sizes` must not be negative, nor all zero"):
            Estimate.of_ratio(torch.ones(len(sizes)), sizes, unit="")


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1.0, 1e30])
def test_p_values_do_not_depend_on_the_unit(scale):
    null = torch.linspace(0.0, 0.99, 100, dtype=torch.double)
    assert permutation_p_value(5.0 * scale, null * scale) == pytest.approx(1 / 101)
    several = [TestResult(5.0 * scale, 1 / 101, "", null * scale), TestResult(0.5, 0.5, "", null)]
    assert smallest_p_value(several) < 0.03


def test_infinite_statistics_are_counted():
    null = torch.tensor([-torch.inf, 0.0, 1.0, torch.inf])
    assert permutation_p_value(0.5, null) == pytest.approx(3 / 5)
    assert permutation_p_value(-torch.inf, null) == 1.0


def test_a_permutation_p_value_counts_the_data_as_one_permutation():
    null = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert permutation_p_value(5.0, null) == pytest.approx(1 / 5)
    assert permutation_p_value(2.0, null) == pytest.approx(3 / 5)  # an equal one counts against the data
    assert permutation_p_value(-1.0, null) == pytest.approx(1.0)


def test_an_infinite_error_can_be_written():
    assert str(Estimate(1.0, float("inf"))) == "1 ± inf nats (exact)"


def test_an_estimate_is_readable_where_it_is_not_printed():
    assert repr([Estimate(-61.31, 0.42)]) == "[<Estimate -61.31 ± 0.42 nats (exact)>]"
