"""The page of a report, its verdicts, and the figures it is composed of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyrogen.analysis import (
    local_shifts,
    posterior_pairs,
    predictive_statistics,
    simulation_checks,
    simulation_verdicts,
)
from pyrogen.analysis.pairs import _level, _shares, read_coordinates
from pyrogen.evaluation import Calibration, LocalCalibration, TestResult, predictive_check
from pyrogen.training.progress import Fit, History


def uniform(rows=400, draws=99):
    return torch.randint(draws + 1, (rows,), generator=torch.Generator().manual_seed(0))


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def calibration(**ranks):
    return Calibration({"z[0]": uniform(), **ranks}, 99)


def local(p=0.4, shift=0.0, spread=1.0):
    result, draws = TestResult(0.1, p, "local classifier"), {"z[0]": normal(100)}
    return LocalCalibration(result, {"z[0]": result}, {"z[0]": shift}, {"z[0]": spread}, draws, draws)


FIT = Fit(History([[3.0, 2.0, 1.0]], [[]], {1: 2.0, 3: 1.5}), 3, "patience")
PREDICTIVE = predictive_check({"x": normal(200, 6)}, torch.zeros(6) + normal(6))
DISTANCE = TestResult(1.0, 0.4, "distance to neighbours", null=normal(200).abs())
DRAWS = {"z": normal(500, 2), "scale": normal(500).exp(), "count": torch.poisson(torch.full((500,), 3.0))}

ALL = {
    "fit": FIT,
    "calibration": calibration(log_posterior=uniform(), log_likelihood=uniform()),
    "local": local(),
    "misspecification": DISTANCE,
    "predictive": PREDICTIVE,
    "draws": DRAWS,
    "truth": {"z": torch.zeros(2), "scale": 1.0},
    "prior": {"scale": normal(300).abs()},
}


@pytest.mark.parametrize(
    "parts",
    [
        ALL,
        {"draws": {"z": normal(100, 11)}},
        {"fit": FIT.history},
        {"calibration": Calibration({"log_likelihood": uniform()}, 99)},
        {"misspecification": TestResult(1.0, 0.2)},
        {"calibration": Calibration({f"z[{i}]": uniform() for i in range(12)}, 99), "local": local()},
    ],
    ids=["all", "many numbers", "history", "likelihood alone", "no null", "many quantities"],
)
def test_a_page_can_be_saved(parts, tmp_path):
    figure = simulation_checks(**parts, title="Two moons")
    assert isinstance(figure, Figure)
    assert figure.get_size_inches()[0] < 8.3
    assert figure.get_size_inches()[1] < 14
    figure.savefig(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000


def shown(**parts):
    figure = simulation_checks(**parts)
    return "\n".join(text.get_text() for axes in figure.axes[:1] for text in axes.texts)


def test_the_verdict_is_on_the_page():
    assert "No fault found by 4 checks." in shown(**ALL)
    assert "Do not rely on this posterior: 1 of 4 checks failed." in shown(**ALL | {"local": local(0.001, 0.5)})
    assert "Doubtful: 1 of 4 checks" in shown(**ALL | {"misspecification": replace(DISTANCE, p_value=0.03)})
    assert "Nothing was checked." in shown(fit=FIT)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (torch.cat([torch.arange(25), torch.arange(75, 100)]).repeat(8), "draws of w are too narrow"),
        (torch.arange(25, 75).repeat(8), "draws of w are too wide"),
        (torch.arange(50, 100).repeat(8), "draws of w are too low"),
        (torch.arange(50).repeat(8), "draws of w are too high"),
    ],
)
def test_ranks_are_put_into_words(ranks, words):
    (verdict,) = simulation_verdicts(calibration=calibration(w=ranks))
    assert verdict.grade == "failed"
    assert words in verdict.text
    assert "z[0]" not in verdict.text


def test_a_small_fault_is_doubtful_however_sure_it_is():
    torch.manual_seed(0)
    for shift, grade, size in ((0.08, "doubtful", "a small fault"), (0.3, "failed", "a fault")):
        ranks = (torch.randn(99, 20_000) < shift + torch.randn(20_000)).sum(0)
        found = Calibration({"z": ranks}, 99)
        (verdict,) = simulation_verdicts(calibration=found)
        assert found.test().p_value < 1e-6
        assert verdict.grade == grade
        assert f": {size}, p = " in verdict.text
        assert f"draws of z are too low by {found.departure('z').shift:.2f} sd; probabilities are off" in verdict.text


def test_print_page_and_verdict_show_the_same_p_value():
    odd = predictive_check({"x": normal(1000, 6)}, torch.full((6,), 9.0))
    joint, single = (TestResult(1.0, p, "local classifier", normal(999)) for p in (0.4, 0.001))
    unlike = LocalCalibration(joint, {"z": single}, {"z": 0.5}, {"z": 1.0}, {"z": normal(9)}, {"z": normal(9)})
    faulty = calibration(w=torch.arange(50).repeat(8))
    verdicts = simulation_verdicts(calibration=faulty, local=unlike, predictive=odd)
    for verdict, p, printed in zip(
        verdicts, (faulty.test().p_value, unlike.p_value, odd.p_value), (faulty, unlike, odd), strict=True
    ):
        assert f"p = {p:.2g}" in verdict.text
        assert f"p = {p:.2g}" in str(printed).splitlines()[0]
    assert f"mean of x: two-sided p = {float(odd.two_sided['mean of x']):.2g}" in str(odd)


def test_verdicts_name_what_is_wrong():
    (verdict,) = simulation_verdicts(calibration=calibration(log_likelihood=torch.arange(50).repeat(8)))
    assert "ranks of log_likelihood are not uniform" in verdict.text
    (verdict,) = simulation_verdicts(local=local(0.002, shift=-0.4, spread=1.5))
    assert "z[0]: truths lie 0.40 sd below, posterior too narrow by a factor of 1.50" in verdict.text
    (verdict,) = simulation_verdicts(misspecification=replace(DISTANCE, p_value=0.002))
    assert (verdict.grade, "the posterior extrapolates" in verdict.text) == ("failed", True)
    odd = predictive_check({"x": normal(1000, 6)}, torch.full((6,), 9.0))
    (verdict,) = simulation_verdicts(predictive=odd)
    assert verdict.grade == "failed"
    assert "mean of x" in verdict.text
    (verdict,) = simulation_verdicts(fit=FIT)
    assert verdict.text == (
        "Training: 3 steps, until the held-out loss no longer fell; best held-out loss 1.5 nats per datum, at step 3."
    )


def test_checks_that_could_not_fail_say_so():
    few = predictive_check({"x": normal(50, 14)}, torch.full((14,), 9.0), statistics={"all": lambda data: data["x"]})
    odd = TestResult(9.0, 1 / 11, "distance", null=normal(10).abs())
    found = simulation_verdicts(predictive=few, misspecification=odd, local=replace(local(), test=odd))
    assert [verdict.grade for verdict in found] == ["noted"] * 3
    assert found[2].text == "Not checked: 50 replications are too few to judge 14 statistics."
    assert found[1].text == "Not checked: 10 simulations are too few for the test (distance)."


def test_predictive_verdicts_err_as_rarely_as_promised():
    torch.manual_seed(0)
    grades = []
    for _ in range(300):
        check = predictive_check({"x": torch.randn(700, 14)}, torch.randn(14), statistics={"all": lambda d: d["x"]})
        grades.append(simulation_verdicts(predictive=check)[0].grade)
    assert grades.count("passed") > 300 * (0.95 - 4 * (0.05 * 0.95 / 300) ** 0.5)
    assert grades.count("passed") < 300


def test_the_curves_shown_are_the_worst():
    ranks = {f"z[{i}]": torch.randint(100, (400,), generator=torch.Generator().manual_seed(i)) for i in range(30)}
    ranks["z[11]"] = torch.arange(50).repeat(8)
    page = simulation_checks(calibration=Calibration(ranks, 99))
    for axes in page.axes[1:3]:
        names = axes.get_legend_handles_labels()[1]
        assert "z[11]" in names
        assert len(names) <= 10


def test_a_page_of_nothing_or_of_something_else_is_refused():
    with pytest.raises(ValueError, match="`simulation_checks` needs at least one of"):
        simulation_checks()
    with pytest.raises(TypeError, match="`local` must be what the check of that name gives, got TestResult"):
        simulation_checks(local=DISTANCE)


# Figures


def test_panels_of_many_show_the_worst():
    results = {f"z[{i}]": TestResult(1.0, 0.001 if i == 29 else 0.5, "local classifier") for i in range(30)}
    numbers = dict.fromkeys(results, 1.0)
    many = LocalCalibration(TestResult(0.1, 0.4), results, numbers, numbers, {}, {})
    scattered = torch.zeros(30).index_fill(0, torch.tensor(29), 9.0)
    check = predictive_check({"x": normal(500, 30)}, scattered, statistics={"x": lambda data: data["x"]})
    page = simulation_checks(local=many, predictive=check)
    local_names, statistics = ([label.get_text() for label in axes.get_yticklabels()] for axes in page.axes[1:3])
    assert (len(local_names), len(statistics)) == (12, 10)
    assert "z[29]" in local_names
    assert "x[29]" in statistics


def test_whole_numbers_of_a_wide_range_are_no_bars():
    draws = {"n": torch.randint(0, 10**7, (200,)), "m": torch.tensor([0.0, 1e7] * 100), "few": torch.arange(200) % 7}
    found = {c.name: c for c in read_coordinates(draws, None, None)}
    assert [c.whole for c in found.values()] == [False, False, True]
    assert found["few"].edges().tolist() == [i - 0.5 for i in range(8)]
    posterior_pairs(draws)


def test_bars_of_coordinates_and_points_of_statistics():
    figure = local_shifts(local(0.001, 0.5, 1.4))
    (bar,) = figure.axes[0].containers
    assert float(bar.lines[0].get_xdata()[0]) == 0.5
    figure = predictive_statistics(PREDICTIVE)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(PREDICTIVE.observed)
    with pytest.raises(TypeError, match="`found` must be a LocalCalibration, got TestResult"):
        local_shifts(DISTANCE)
    with pytest.raises(TypeError, match="`check` must be a PredictiveCheck"):
        predictive_statistics(None)


def test_pairs_can_be_saved(tmp_path):
    figure = posterior_pairs(DRAWS, truth={"z": torch.zeros(2), "count": 3}, prior={"z": normal(300, 2)})
    figure.savefig(tmp_path / "pairs.png")
    names = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert names == ["z[0]", "z[1]", "scale", "count"]
    posterior_pairs({"one": np.full(50, 2.0)}).savefig(tmp_path / "constant.png")
    posterior_pairs({"one": np.full(50, 2.5), "two": np.full(50, 2.5)}).savefig(tmp_path / "constants.png")
    posterior_pairs({"coin": torch.rand(50) > 0.5, "z": normal(50)}).savefig(tmp_path / "coin.png")


def test_no_density_leaks_over_a_bound():
    draws = {"p": torch.rand(5000, generator=torch.Generator().manual_seed(0)) ** 0.5}
    figure = posterior_pairs(draws, truth={"p": 0.9})
    line = next(line for line in figure.axes[0].lines if len(line.get_xdata()) > 10)
    places, density = line.get_xdata(), line.get_ydata()
    assert 0 <= places.min() < places.max() <= 1
    assert density[-1] == pytest.approx(2, abs=0.15)  # of the density 2 p, at its highest where it ends
    assert np.trapezoid(density, places) == pytest.approx(1, abs=0.03)


def test_regions_hold_their_share():
    counts = np.random.default_rng(0).poisson(3.0, (20, 20)).astype(float)
    for share in (0.5, 0.9):
        level = _level(counts, share)
        assert counts[counts > level].sum() < share * counts.sum() <= counts[counts >= level].sum()
    assert _shares(counts).max() == pytest.approx(1.0)


def test_numbers_are_read_by_site():
    found = read_coordinates({"a": torch.zeros(20, 2, 1), "b": torch.arange(20)}, {"a": torch.ones(2, 1)}, None)
    assert [c.name for c in found] == ["a[0,0]", "a[1,0]", "b"]
    assert [c.truth for c in found] == [1.0, 1.0, None]
    assert found[2].whole


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"draws": {}}, TypeError, "`draws` must be a dict by site"),
        ({"draws": normal(20)}, TypeError, "`draws` must be a dict by site, got Tensor"),
        ({"draws": {"z": normal(5)}}, ValueError, r"`draws\['z'\]` must have shape \(draws, ...\) with at least ten"),
        ({"draws": {"z": normal(20, 9)}}, ValueError, "`draws` must hold at most 8 numbers, got 9"),
        ({"draws": {"z": normal(20) * torch.nan}}, ValueError, r"`draws\['z'\]` must hold numbers, got 20 NaN"),
        ({"draws": {"z": normal(20)}, "truth": {"w": 1.0}}, ValueError, r"`truth` must have sites of `draws` \['z'\]"),
        ({"draws": {"z": normal(20)}, "truth": {"z": [1.0]}}, ValueError, r"`truth\['z'\]` must have shape \(\)"),
        ({"draws": {"z": normal(20)}, "prior": {"z": normal(20, 2)}}, ValueError, r"`prior\['z'\]` must have shape"),
    ],
)
def test_draws_that_cannot_be_shown_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        posterior_pairs(**options)
