"""Are observed data like simulated ones: p-values that are exact, and what each distance finds; predictive checks."""

from dataclasses import dataclass
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrogen.evaluation import Mahalanobis, NearestNeighbours, misspecification_test, mmd_test, predictive_check
from pyrogen.evaluation.features import Features


def ring(rows):
    angle = 2 * torch.pi * torch.rand(rows)
    return torch.stack([angle.cos(), angle.sin()], 1) * (1 + 0.05 * torch.randn(rows, 1))


@pytest.mark.parametrize("distance", [None, Mahalanobis(), NearestNeighbours(1), NearestNeighbours(50)])
def test_p_values_are_uniform_under_the_model(distance):
    torch.manual_seed(0)
    repeats = 300
    p_values = torch.tensor(
        [misspecification_test(ring(1)[0], {"x": ring(39)}, distance=distance).p_value for _ in range(repeats)]
    )
    for level in (0.05, 0.25, 0.5):  # multiples of 1 / 40, so that the level is exact
        share = float((p_values <= level + 1e-9).double().mean())
        assert abs(share - level) < 4 * sqrt(level * (1 - level) / repeats), level


def test_the_centre_of_a_ring_is_close_to_the_mean_and_far_from_all_data():
    torch.manual_seed(0)
    centre, simulated = torch.tensor([0.1, -0.1]), {"x": ring(500)}
    assert misspecification_test(centre, simulated).p_value < 0.01
    assert misspecification_test(centre, simulated, distance=Mahalanobis()).p_value > 0.9


@pytest.mark.parametrize("distance", [Mahalanobis(), NearestNeighbours()])
def test_a_datum_against_the_correlation_is_found_in_many_dimensions(distance):
    torch.manual_seed(0)
    common = torch.randn(400, 1)
    simulated = {"x": common + 0.1 * torch.randn(400, 30)}
    assert misspecification_test(torch.linspace(-1, 1, 30), simulated, distance=distance).p_value < 0.005
    assert misspecification_test(1 + 0.1 * torch.randn(30), simulated, distance=distance).p_value > 0.05


def test_mahalanobis_distances_are_those_of_the_covariance():
    torch.manual_seed(0)
    points = (torch.randn(20_000, 3) @ torch.randn(3, 3)).double()
    centered = points - points.mean(0)
    exact = (centered @ torch.linalg.inv(points.T.cov()) * centered).sum(1).sqrt()
    torch.testing.assert_close(Mahalanobis()(points), exact, rtol=1e-2, atol=1e-2)


def test_distances_to_neighbours_are_those_of_all_pairs():
    points = torch.eye(4, dtype=torch.double)
    torch.testing.assert_close(NearestNeighbours(1)(points).diff(), torch.zeros(3, dtype=torch.double))
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0]], dtype=torch.double)
    found = NearestNeighbours(2)(line)
    torch.testing.assert_close(found / found[0], torch.tensor([1.0, 0.5, 1.0, 4.5], dtype=torch.double))


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 1000))
def test_units_do_not_matter(scale, shift, seed):
    torch.manual_seed(seed)
    simulated, datum = torch.randn(50, 3).double(), torch.randn(3).double() * 2
    first = misspecification_test(datum, {"x": simulated}).p_value
    moved = misspecification_test(scale * (datum + shift), {"x": scale * (simulated + shift)}).p_value
    assert moved == pytest.approx(first, abs=0.021)


def test_several_data_are_compared_as_a_sample():
    torch.manual_seed(0)
    simulated = {"x": torch.randn(300, 2)}
    several = misspecification_test(0.5 + torch.randn(50, 2), simulated, permutations=199)
    assert several.name == mmd_test(torch.randn(5, 2), torch.randn(5, 2), permutations=9).name
    assert several.p_value < 0.05
    assert misspecification_test(torch.randn(50, 2), simulated, permutations=199).p_value > 0.05


def test_a_summary_decides_what_is_compared():
    torch.manual_seed(0)
    simulated, datum = {"x": torch.randn(300, 5)}, torch.tensor([5.0, -5.0, 0.0, 0.0, 0.0])
    assert misspecification_test(datum, simulated).p_value < 0.01
    total = misspecification_test(datum, simulated, summary=lambda data: data["x"].sum(1, keepdim=True))
    assert total.p_value > 0.05


def test_sets_with_absent_rows_and_several_sites():
    torch.manual_seed(0)
    x = torch.randn(300, 1) + torch.randn(300, 6)
    x[:150, 3:] = torch.nan
    simulated = {"x": x, "count": torch.poisson(torch.full((300,), 4.0))}
    short = torch.tensor([0.1, -0.3, 1.0] + [torch.nan] * 3)
    good = {"x": short, "count": torch.tensor(3.0)}
    assert misspecification_test(good, simulated).p_value > 0.05
    assert misspecification_test(good | {"count": torch.tensor(30.0)}, simulated).p_value < 0.01
    wide = torch.tensor([9.0, -9.0, 5.0] + [torch.nan] * 3)
    assert misspecification_test(good | {"x": wide}, simulated).p_value < 0.01


def test_what_never_happens_in_simulations_is_found():
    simulated = {"x": torch.stack([torch.randn(200), torch.zeros(200)], 1)}
    assert misspecification_test(torch.tensor([0.0, 1.0]), simulated).p_value < 0.01
    assert misspecification_test(torch.zeros(2), simulated).p_value > 0.01
    assert misspecification_test(torch.zeros(1), {"x": torch.zeros(20, 1)}).p_value == 1


@pytest.mark.parametrize(
    ("datum", "error", "message"),
    [
        (torch.zeros(3), ValueError, r"`observed\['x'\]` must have shape \(2,\), got \(3,\)"),
        (torch.zeros(4, 3), ValueError, r"`observed\['x'\]` must have shape \(2,\), got \(3,\)"),
        (torch.tensor([0.0, torch.nan]), ValueError, r"`observed\['x'\]` must hold numbers, got 1 NaN"),
        (torch.full((4, 2), torch.nan), ValueError, r"`observed\['x'\]` must hold numbers"),
        (torch.tensor([0.0, torch.inf]), ValueError, r"`observed\['x'\]` must be finite"),
        ({"y": torch.zeros(2)}, ValueError, r"`observed` must have values of the sites \['x'\], got \['y'\]"),
        ({"x": [0.0, 1.0]}, TypeError, r"`observed\['x'\]` must be a tensor"),
        ("x", ValueError, "`observed` must have values of the sites"),
        (None, ValueError, "`observed` must have values of the sites"),
    ],
)
def test_data_that_do_not_fit_are_refused(datum, error, message):
    with pytest.raises(error, match=message):
        misspecification_test(datum, {"x": torch.randn(20, 2)})


def test_distances_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="`distance` must be a distance"):
        misspecification_test(torch.zeros(2), {"x": torch.randn(20, 2)}, distance="euclidean")
    with pytest.raises(ValueError, match="`neighbours` must be at least 1, got 0"):
        NearestNeighbours(0)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_neither_units_nor_origins_hide_odd_data(unit, offset):
    torch.manual_seed(0)
    simulated = {"x": unit * (offset + torch.randn(200, 6).double())}
    assert misspecification_test(unit * (offset + 9.0 * torch.eye(6).double()[0]), simulated).p_value < 0.01
    quiet = {"x": unit * (offset + torch.randn(200, 1).double() + torch.randn(200, 6).double())}
    wide = unit * (offset + 30 * torch.randn(6).double())
    assert misspecification_test(wide, quiet, summary=lambda d: Features(d)(d)[:, -2:]).p_value < 0.01  # the deviation


def test_data_between_whole_numbers_stay_there():
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((300, 1), 0.3)).clamp(max=1)
    for simulated in (counts.long(), counts.bool(), counts):
        assert misspecification_test(torch.tensor([1.9]), {"x": simulated}).p_value < 0.01
    constant = {"x": torch.cat([torch.randn(300, 1), torch.full((300, 1), 0.1)], 1)}
    same = torch.tensor([0.0, 0.1], dtype=torch.double)  # 0.1 is another number in single precision
    assert misspecification_test(same, constant).p_value > 0.1


# Posterior predictive checks


def test_few_replications_and_few_values_make_no_small_p_value():
    torch.manual_seed(0)
    for draws in (9, 99):
        found = torch.stack(
            [
                predictive_check({"x": torch.randn(draws, 200)}, torch.randn(200), statistics={"x": lambda d: d["x"]})
                .two_sided["x"]
                for _ in range(20)
            ]
        )  # fmt: skip
        for level in (0.02, 0.2, 0.5):
            share = float((found <= level).double().mean())
            assert share < level + 4 * sqrt(level * (1 - level) / found.numel())
    coins = predictive_check({"x": torch.tensor([[0.0], [1.0]] * 50)}, torch.tensor([1.0]))
    assert float(coins.two_sided["x"]) == 1.0


def test_the_share_of_replications_beyond_the_data():
    replicated = {"x": torch.arange(10.0)[:, None].expand(10, 3)}
    check = predictive_check(replicated, torch.full((3,), 8.0), statistics={"first": lambda data: data["x"][:, 0]})
    assert float(check.p_values["first"]) == pytest.approx(0.15)  # 9 lies above, 8 counts half
    assert float(check.two_sided["first"]) == pytest.approx(2 * 3 / 11)  # 8 and 9 are as far out, and so are the data
    assert str(check) == "1 statistic: p = 0.55\nfirst: two-sided p = 0.55"
    assert repr(check) == "<PredictiveCheck of first in 10 replications>"


def test_what_the_model_cannot_reproduce_is_extreme():
    torch.manual_seed(0)
    observed = torch.cat([torch.randn(49), torch.tensor([20.0])])
    replicated = {"x": observed.mean() + observed.std() * torch.randn(500, 50)}
    check = predictive_check(replicated, observed)
    assert set(check.p_values) == {f"{name} of x" for name in ("mean", "standard deviation", "minimum", "maximum")}
    assert 0.1 < float(check.p_values["mean of x"]) < 0.9
    assert min(float(p) for p in check.two_sided.values()) < 0.05


def test_statistics_may_have_shapes_and_rows_may_be_absent():
    replicated = {"x": torch.randn(20, 4), "n": torch.ones(20)}
    replicated["x"][:, 2:] = torch.nan
    observed = {"x": torch.tensor([0.0, 1.0, 2.0, torch.nan]), "n": torch.tensor(1.0)}
    check = predictive_check(replicated, observed)
    assert float(check.p_values["n"]) == 0.5
    assert float(check.observed["maximum of x"]) == 2.0
    pair = predictive_check(replicated, observed, statistics={"pair": lambda data: data["x"][:, :2]})
    assert pair.p_values["pair"].shape == (2,)
    assert "p from" in str(pair)


def test_statistics_that_make_no_sense_are_refused():
    replicated, observed = {"x": torch.randn(20, 4)}, torch.zeros(4)
    with pytest.raises(TypeError, match="`statistics` must be a dict of functions"):
        predictive_check(replicated, observed, statistics={"mean": 1})
    with pytest.raises(ValueError, match=r"`statistics\['lost'\]` must hold numbers, got 20 NaN"):
        predictive_check(replicated, observed, statistics={"lost": lambda data: data["x"][:, 0] * torch.nan})
    with pytest.raises(ValueError, match=r"statistic 'sum' must give 20 rows, got shape \(\)"):
        predictive_check(replicated, observed, statistics={"sum": lambda data: data["x"].sum()})


@dataclass
class Drawn:
    latents: dict
    observed: dict


def test_simulations_do_as_well_as_their_observed_values():
    torch.manual_seed(0)
    drawn = Drawn({}, {"x": torch.randn(200, 3)})
    datum = torch.tensor([0.5, 1.0, -2.0])
    assert misspecification_test(datum, drawn) == misspecification_test(datum, drawn.observed)
    assert str(predictive_check(drawn, datum)) == str(predictive_check(drawn.observed, datum))
    for check, name in (
        (lambda odd: misspecification_test(datum, odd), "simulated"),
        (lambda odd: predictive_check(odd, datum), "replicated"),
    ):
        with pytest.raises(
            TypeError, match=f"`{name}` must be a dict of tensors by site, or simulations with `observed`"
        ):
            check(drawn.observed["x"])


def test_one_p_value_of_all_statistics_is_their_smallest_times_their_number():
    check = predictive_check(
        {"x": torch.arange(99.0)[:, None].expand(-1, 2)},
        torch.tensor([98.5, 40.0]),
        statistics={"x": lambda data: data["x"]},
    )
    assert float(check.two_sided["x"].min()) == pytest.approx(0.02)
    assert check.p_value == pytest.approx(0.04)
    assert str(check).splitlines()[0] == "2 statistics: p = 0.04"
