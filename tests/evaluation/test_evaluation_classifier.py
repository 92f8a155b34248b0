"""Classifier two-sample tests: valid p-values, power, the known spread of the accuracy."""

from math import sqrt

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB

import pyrogen as pg
from pyrogen.evaluation import classifier_test, cross_validated_classifier_test, ratio_test
from pyrogen.evaluation.classifier import _balanced_accuracy


def test_errors_of_the_first_kind_are_as_rare_as_promised():
    torch.manual_seed(0)
    repeats = 300
    results = [
        classifier_test(torch.randn(40, 2), torch.randn(60, 2), classifier=GaussianNB(), permutations=99)
        for _ in range(repeats)
    ]
    share = sum(result.p_value <= 0.05 + 1e-9 for result in results) / repeats
    # Accuracies are discrete, so the test may err less often, not more.
    assert share < 0.05 + 4 * sqrt(0.05 * 0.95 / repeats)
    assert share > 0.01
    accuracies = torch.tensor([result.statistic for result in results])
    assert abs(float(accuracies.mean()) - 0.5) < 4 * float(accuracies.std()) / sqrt(repeats)


def test_the_accuracy_spreads_by_chance_as_documented():
    torch.manual_seed(0)
    result = classifier_test(torch.randn(400, 2), torch.randn(400, 2), permutations=999)
    assert float(result.null.std()) == pytest.approx(1 / (2 * sqrt(400)), rel=0.1)


@pytest.mark.slow
def test_cross_validated_errors_of_the_first_kind():
    torch.manual_seed(0)
    repeats = 150
    results = [
        cross_validated_classifier_test(
            torch.randn(30, 2), torch.randn(30, 2), classifier=LinearDiscriminantAnalysis(), folds=3, permutations=19
        )
        for _ in range(repeats)
    ]
    share = sum(result.p_value <= 0.05 + 1e-9 for result in results) / repeats
    assert share < 0.05 + 4 * sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("change", ["shift", "scale", "correlation"])
def test_differences_are_found(change):
    torch.manual_seed(0)
    x, y = torch.randn(500, 3), torch.randn(500, 3)
    if change == "shift":
        y = y + 0.5
    elif change == "scale":
        y = 1.5 * y
    else:
        y[:, 1] = 0.8 * y[:, 0] + 0.6 * y[:, 1]
    assert classifier_test(x, y).p_value <= 0.01


def test_samples_of_different_sizes_are_told_apart():
    """A classifier that does not weigh both alike predicts the larger one throughout, with an accuracy of 1/2."""
    torch.manual_seed(0)
    shift = torch.tensor([1.0, 0.0])
    found = [classifier_test(torch.randn(60, 2) + shift, torch.randn(900, 2), permutations=199) for _ in range(5)]
    assert sorted(result.p_value for result in found)[2] < 0.05
    assert cross_validated_classifier_test(
        torch.randn(60, 2) + shift, torch.randn(900, 2), permutations=19
    ).p_value == pytest.approx(1 / 20)


def test_every_permutation_refits():
    torch.manual_seed(0)
    x, y = torch.randn(40, 2), torch.randn(40, 2) + 1.5
    classifier = GaussianNB()
    result = cross_validated_classifier_test(x, y, classifier=classifier, folds=4, permutations=19)
    assert result.p_value == pytest.approx(1 / 20)
    assert result.statistic > 0.75
    assert abs(float(result.null.mean()) - 0.5) < 0.1
    assert not hasattr(classifier, "classes_")


def test_balanced_accuracy_weighs_both_samples_alike():
    labels, predicted = np.array([[1, 1, 1, 0]]), np.array([1, 1, 1, 1])
    assert _balanced_accuracy(labels, predicted)[0] == 0.5


def test_the_same_generator_gives_the_same_result():
    torch.manual_seed(0)
    x, y = torch.randn(50, 2), torch.randn(50, 2)
    first, second = (classifier_test(x, y, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert first == second


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`x` and `y` must have shapes"):
        classifier_test(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="at least `folds` = 5 draws each, got 9 and 3"):
        cross_validated_classifier_test(torch.randn(9, 2), torch.randn(3, 2))
    for test in (classifier_test, cross_validated_classifier_test):
        with pytest.raises(ValueError, match="`permutations` must be at least 1, got 0"):
            test(torch.randn(20, 2), torch.randn(20, 2), permutations=0)


def test_a_ratio_estimate_errs_as_rarely_as_promised_however_bad_it_is():
    torch.manual_seed(0)
    repeats, errors = 400, 0
    for _ in range(repeats):
        weight = torch.randn(2)
        result = ratio_test(lambda x, w=weight: 5 * x @ w + 1, torch.randn(30, 2), torch.randn(50, 2), permutations=99)
        errors += result.p_value <= 0.05 + 1e-9
    assert abs(errors / repeats - 0.05) < 4 * sqrt(0.05 * 0.95 / repeats)


def test_a_ratio_estimate_trained_on_one_half_finds_a_difference_in_the_other():
    torch.manual_seed(0)
    x, y = torch.randn(600, 2) * 1.5, torch.randn(600, 2)  # of equal means
    ratio = pg.implicit.density_ratio((2,), hidden=())
    pg.fit(ratio, (x[:300], y[:300]), steps=200, lr=5e-3, seed=0)
    result = ratio_test(ratio, x[300:], y[300:])
    assert result.p_value == 1 / 1000
    js = pg.implicit.FDivergence.JS.bound(ratio, x[300:], y[300:])
    assert result.statistic == pytest.approx(js.value)
    assert ratio_test(ratio, torch.randn(200, 2), torch.randn(300, 2)).p_value > 0.001


def test_given_contexts_it_errs_as_rarely_as_promised_whatever_they_are():
    """A critic that is wrong errs as often, and one of contexts alone gives every relabeling the same bound."""
    torch.manual_seed(0)
    repeats, errors = 400, 0
    for _ in range(repeats):
        context = 3 * torch.randn(25, 1)
        x, y = context + torch.randn(25, 1), context + torch.randn(25, 1)
        result = ratio_test(lambda x, context: (2 * x + context).squeeze(-1), x, y, context, permutations=99)
        errors += result.p_value <= 0.05 + 1e-9
    assert abs(errors / repeats - 0.05) < 4 * sqrt(0.05 * 0.95 / repeats)
    assert ratio_test(lambda x, context: context.squeeze(-1), x, y, context).p_value == 1.0


def test_given_contexts_it_finds_what_the_pooled_events_hide():
    """Of N(c, 1) and N(-c, 1) with c as often negative: the events alone, and contexts alone, are alike."""
    torch.manual_seed(0)
    context = torch.randn(600, 1)
    x, y = context + torch.randn(600, 1), -context + torch.randn(600, 1)
    ratio = pg.implicit.density_ratio((1,), (1,), hidden=())
    pg.fit(ratio, (x[:300], y[:300], context[:300]), steps=200, lr=5e-3, seed=0)
    result = ratio_test(ratio, x[300:], y[300:], context[300:])
    assert result.p_value == 1 / 1000
    assert result.statistic == pytest.approx(
        pg.implicit.FDivergence.JS.bound(ratio, x[300:], y[300:], context[300:]).value
    )
    assert pg.evaluation.energy_test(x, y, permutations=99).p_value > 0.01
    equal = context[:300] + torch.randn(300, 1)
    assert ratio_test(ratio, equal, context[:300] + torch.randn(300, 1), context[:300]).p_value > 0.001
    with pytest.raises(ValueError, match="must hold as many rows, one context for each, got 600, 5 and 600"):
        ratio_test(ratio, x, y[:5], context)


def test_a_critic_may_exclude_what_it_has_not_seen():
    """Infinite log-ratios: where it is right the bound is log 2, and where it is wrong minus infinity."""
    x, y = torch.rand(20, 1), -torch.rand(30, 1)
    separated = ratio_test(lambda x: x.squeeze(-1).sign() * torch.inf, x, y)
    assert separated.statistic == pytest.approx(0.6931, abs=1e-4)
    assert separated.p_value == 1 / 1000
    assert (separated.null == -torch.inf).all()
    wrong = ratio_test(lambda x: -x.squeeze(-1).sign() * torch.inf, x, y)
    assert (wrong.statistic, wrong.p_value) == (-float("inf"), 1.0)


def test_what_is_no_critic_is_refused():
    with pytest.raises(ValueError, match="`x` and `y` must hold rows"):
        ratio_test(lambda x: x.sum(-1), torch.randn(0, 2), torch.randn(5, 2))
    with pytest.raises(ValueError, match=r"`critic` must give log-ratios \(5,\) of the rows of `x`, got \(5, 2\)"):
        ratio_test(lambda x: x, torch.randn(5, 2), torch.randn(5, 2))
