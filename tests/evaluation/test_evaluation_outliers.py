"""Outlier scores and their AUROC: closed forms, valid p-values, honest intervals."""

from math import sqrt

import pytest
import torch
from sklearn.metrics import roc_auc_score

import pyrogen as pg
from pyrogen.evaluation import (
    auroc,
    density_p_value,
    joint_typicality,
    likelihood_ratio,
    two_sided_p_value,
    typicality,
    typicality_test,
    waic,
)


def normal_log_prob(x):
    """Of a standard normal, up to its constant."""
    return -0.5 * x.square().sum(-1)


def test_the_area_of_two_normals():
    torch.manual_seed(0)
    distance, n = 1.2, 4000
    truth = float(torch.special.ndtr(torch.tensor(distance / sqrt(2))))
    area = auroc(torch.randn(n), torch.randn(n) + distance)
    assert abs(area.value - truth) < 4 * area.standard_error
    assert area.standard_error < 0.01


def test_the_area_is_that_of_scikit_learn_ties_included():
    torch.manual_seed(0)
    inliers, outliers = torch.randint(6, (70,)).float(), torch.randint(2, 8, (40,)).float()
    labels = torch.cat([torch.zeros(70), torch.ones(40)])
    expected = roc_auc_score(labels.numpy(), torch.cat([inliers, outliers]).numpy())
    assert auroc(inliers, outliers).value == pytest.approx(expected, abs=1e-12)
    assert auroc(outliers, inliers).value == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize(("m", "n", "distance"), [(60, 40, 1.0), (200, 50, 2.0)])
def test_intervals_hold_the_area_as_often_as_they_say(m, n, distance):
    torch.manual_seed(0)
    repeats = 1000
    truth = float(torch.special.ndtr(torch.tensor(distance / sqrt(2))))
    areas = [auroc(torch.randn(m), torch.randn(n) + distance) for _ in range(repeats)]
    hits = sum(low < truth < high for low, high in (area.interval() for area in areas))
    # The interval is asymptotic: two percent are granted beside the chance error of the count.
    assert abs(hits / repeats - 0.95) < 4 * sqrt(0.95 * 0.05 / repeats)
    spread = torch.tensor([area.value for area in areas]).std()
    mean_error = sum(area.standard_error for area in areas) / repeats
    assert mean_error == pytest.approx(float(spread), rel=0.1)


def test_perfect_separation_is_not_certainty():
    low, high = auroc(torch.arange(30.0), torch.arange(30.0) + 100).interval()
    assert (low, high) == (pytest.approx(0.05 ** (1 / 30)), 1.0)
    assert auroc(torch.arange(30.0) + 100, torch.arange(30.0)).interval()[1] == pytest.approx(1 - 0.05 ** (1 / 30))
    # Where the area is that bound, perfect separation is at most as rare as said.
    torch.manual_seed(0)
    distance = float(torch.special.ndtri(torch.tensor(low))) * sqrt(2)
    inliers, outliers = torch.randn(2000, 30), torch.randn(2000, 30) + distance
    perfect = (outliers.min(1).values > inliers.max(1).values).double().mean()
    assert float(perfect) <= 0.05
    assert str(auroc(torch.arange(30.0), torch.arange(30.0) + 100)) == "AUROC 1.000 (0.905 to 1.000)"


@pytest.mark.parametrize("p_value", [density_p_value, two_sided_p_value])
def test_p_values_of_inliers_are_valid(p_value):
    """Conformal: over reference and data together P(p <= a) <= a, for any model."""
    torch.manual_seed(0)
    repeats = 4000
    p_values = torch.cat([p_value(torch.randn(1).exp(), torch.randn(39).exp()) for _ in range(repeats)])
    for level in (0.05, 0.2):
        assert float((p_values <= level + 1e-6).double().mean()) < level + 4 * sqrt(level * (1 - level) / repeats)
        assert float((p_values <= level + 1e-6).double().mean()) > 0.8 * level


def test_p_values_count_the_datum_itself():
    reference = torch.tensor([1.0, 2.0, 3.0, 4.0])
    values = torch.tensor([0.0, 2.0, 2.5, 9.0])
    torch.testing.assert_close(density_p_value(values, reference), torch.tensor([0.2, 0.6, 0.6, 1.0]))
    torch.testing.assert_close(two_sided_p_value(values, reference), torch.tensor([0.4, 1.0, 1.0, 0.4]))
    assert density_p_value(torch.tensor(float("-inf")), reference) == pytest.approx(0.2)


def test_the_one_sided_rank_repairs_nothing_and_typicality_does():
    """In 100 dimensions the origin is far more probable than any draw of a normal, and nothing like one."""
    torch.manual_seed(0)
    reference, inliers = normal_log_prob(torch.randn(2000, 100)), normal_log_prob(torch.randn(300, 100))
    outliers = normal_log_prob(0.5 * torch.randn(300, 100))
    plain = auroc(-inliers, -outliers).value
    one_sided = auroc(-density_p_value(inliers, reference), -density_p_value(outliers, reference)).value
    assert plain < 0.01
    assert one_sided == pytest.approx(plain, abs=0.01)  # equal but for ties of the rank
    assert auroc(typicality(inliers, reference), typicality(outliers, reference)).value > 0.99
    two_sided = auroc(-two_sided_p_value(inliers, reference), -two_sided_p_value(outliers, reference)).value
    assert two_sided > 0.99


def test_typicality_is_the_distance_to_the_mean():
    reference = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(
        typicality(torch.tensor([0.0, 2.0, 5.0]), reference), torch.tensor([2.0, 0.0, 3.0]).double()
    )


def test_statistics_of_a_normal_have_the_distance_of_its_covariance():
    torch.manual_seed(0)
    mixing, centre = (
        torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-300.0, 100.0, 40.0]]),
        torch.tensor([5.0, 0.0, 9.0]),
    )
    reference, standard = torch.randn(20_000, 3) @ mixing.T + centre, torch.randn(4, 50, 3)
    found = joint_typicality(standard @ mixing.T + centre, reference)
    # The covariance of n draws is right to about sqrt(2 / n) = 1 %.
    torch.testing.assert_close(found, standard.double().norm(dim=-1), rtol=0.03, atol=0.03)
    moved = joint_typicality(10 * (standard @ mixing.T) - 1, 10 * (reference - centre) - 1)
    torch.testing.assert_close(found, moved, rtol=1e-3, atol=1e-3)


def test_of_one_statistic_it_is_typicality_in_standard_deviations():
    reference, values = torch.randn(50), torch.randn(7)
    expected = typicality(values, reference) / reference.double().std()
    torch.testing.assert_close(joint_typicality(values.unsqueeze(-1), reference.unsqueeze(-1)), expected)


def test_statistics_that_are_usual_apart_and_unusual_together():
    torch.manual_seed(0)
    first, noise = torch.randn(1000, 1), 0.1 * torch.randn(1000, 1)
    together, apart = torch.cat([first, first + noise], 1), torch.cat([first, first.roll(1) + noise], 1)
    assert auroc(*(typicality(values[:, 1], together[:, 1]) for values in (together, apart))).value < 0.55
    assert auroc(*(joint_typicality(values, together) for values in (together, apart))).value > 0.9


def test_the_criterion_of_an_ensemble_by_hand():
    log_probs = torch.tensor([[-1.0, -5.0], [-3.0, -5.0], [-2.0, -5.0]])
    torch.testing.assert_close(waic(log_probs), torch.tensor([1.0 + 2.0, 0.0 + 5.0]).double())


def test_an_ensemble_disagrees_where_its_members_saw_nothing():
    """Normals whose means are wrong by chance: the variance of log p is that of (x - m)^2 / 2 over m."""
    torch.manual_seed(0)
    means = 0.3 * torch.randn(2000, 1)
    x = torch.tensor([0.0, 3.0])
    found = waic(normal_log_prob((x - means).unsqueeze(-1)))
    variance = 0.3**2 * x**2 + 0.3**4 / 2
    torch.testing.assert_close(found, (variance + (x**2 + 0.09) / 2).double(), rtol=0.1, atol=0.01)


def test_a_batch_shows_what_single_data_do_not():
    torch.manual_seed(0)
    reference = normal_log_prob(torch.randn(500, 100))
    batch = normal_log_prob(1.05 * torch.randn(30, 100))
    assert auroc(typicality(reference, reference), typicality(batch, reference)).value < 0.8
    assert typicality_test(batch, reference).p_value <= 0.01


def test_the_batch_test_errs_as_rarely_as_promised():
    torch.manual_seed(0)
    repeats = 600
    p_values = torch.tensor(
        [typicality_test(torch.randn(7).exp(), torch.randn(23).exp(), permutations=99).p_value for _ in range(repeats)]
    )
    assert abs(float((p_values <= 0.05 + 1e-6).double().mean()) - 0.05) < 4 * sqrt(0.05 * 0.95 / repeats)


def test_a_background_model_cancels_what_both_reward():
    """Inliers are shifted in one of 50 coordinates; outliers have a smaller scale, which likelihood rewards."""
    torch.manual_seed(0)
    signal = torch.zeros(50)
    signal[0] = 4.0
    inliers, outliers = torch.randn(400, 50) + signal, 0.5 * torch.randn(400, 50)

    def scores(x):
        model, background = normal_log_prob(x - signal), normal_log_prob(x)
        return -model, likelihood_ratio(model, background)

    (plain, ratio), (plain_out, ratio_out) = scores(inliers), scores(outliers)
    assert auroc(plain, plain_out).value < 0.1
    assert auroc(ratio, ratio_out).value > 0.99


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`reference` must have shape"):
        density_p_value(torch.zeros(3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="`log_probs` must hold numbers, got 1 NaN"):
        typicality(torch.tensor([float("nan")]), torch.zeros(3))
    with pytest.raises(ValueError, match="must be finite"):
        typicality_test(torch.tensor([float("-inf")]), torch.zeros(3))
    with pytest.raises(ValueError, match="`background` must have shape"):
        likelihood_ratio(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="`outliers` must have shape"):
        auroc(torch.zeros(3), torch.zeros(1))
    with pytest.raises(ValueError, match="`inliers` must hold numbers"):
        auroc(torch.tensor([0.0, float("nan")]), torch.zeros(3))
    for empty in (torch.zeros(0), torch.zeros(2, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"`log_probs` must have shape \(m,\)"):
            typicality_test(empty, torch.zeros(3))
    with pytest.raises(ValueError, match="`reference` must be finite"):
        typicality(torch.zeros(3), torch.tensor([0.0, float("-inf")]))
    with pytest.raises(ValueError, match="none is a linear function"):
        joint_typicality(torch.zeros(3, 2), torch.arange(10.0).unsqueeze(-1).expand(10, 2))
    with pytest.raises(ValueError, match="none is a linear function"):
        joint_typicality(torch.zeros(3, 2), torch.cat([torch.randn(10, 1), torch.ones(10, 1)], 1))
    with pytest.raises(ValueError, match=r"`statistics` must end in shape \(2,\)"):
        joint_typicality(torch.zeros(3), torch.randn(10, 2))
    with pytest.raises(ValueError, match="must have a difference, got 1 NaN"):
        likelihood_ratio(torch.tensor([float("-inf"), 0.0]), torch.tensor([float("-inf"), 0.0]))


@pytest.mark.parametrize("p_value", [density_p_value, two_sided_p_value])
def test_strided_scores_have_the_ranks_of_contiguous_ones(p_value):
    scores, reference = torch.randn(3, 4), torch.randn(20)
    assert torch.equal(p_value(scores.T, reference), p_value(scores, reference).T)


def test_a_ratio_estimate_scores_outliers_without_densities():
    torch.manual_seed(0)
    model, background = torch.randn(4000, 2) * torch.tensor([1.0, 0.3]), torch.randn(4000, 2)
    ratio = pg.implicit.density_ratio((2,), hidden=())
    pg.fit(ratio, (model, background), steps=300, lr=5e-3, seed=0)
    inliers, outliers = model[:500], background[:500]
    with torch.no_grad():
        scores = [likelihood_ratio(ratio(x)) for x in (inliers, outliers)]
    exact = [-0.5 * x[:, 1].square() * (1 - 1 / 0.09) for x in (inliers, outliers)]
    assert auroc(*scores).value == pytest.approx(auroc(*exact).value, abs=0.02)
    assert torch.equal(scores[0], likelihood_ratio(ratio(inliers).detach(), torch.zeros(500)))
