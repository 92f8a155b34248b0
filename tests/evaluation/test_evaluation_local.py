"""Local calibration and coverage by random points: rates of error where the posterior is right, power where not."""

from dataclasses import dataclass
from math import sqrt

import pytest
import torch
from torch import Tensor

from pyrogen.core.estimate import smallest_p_value
from pyrogen.evaluation import TestResult, joint_coverage, local_calibration_test

ROOT = 0.2**0.5
DATUM = {"y": torch.tensor([1.2, -0.5])}


@dataclass
class Simulations:
    latents: dict[str, Tensor]
    observed: dict[str, Tensor]


def simulated(rows, seed=0):
    generator = torch.Generator().manual_seed(1000 + seed)  # no stream that posterior draws have
    z = torch.randn(rows, 2, generator=generator)
    return Simulations({"z": z}, {"y": z + 0.5 * torch.randn(rows, 2, generator=generator)})


def posterior(scale=1.0, shift=0.0, where=lambda y: torch.ones_like(y[:, :1])):
    """The exact posterior, with a flaw in the first coordinate at some data."""
    first = torch.tensor([1.0, 0.0])

    def draw(data, draws):
        y, noise = data["y"], torch.randn(draws, *data["y"].shape)
        flawed = where(y) * first
        return {"z": 0.8 * y + ROOT * (flawed * (shift + (scale - 1) * noise) + noise)}

    return draw


def attempt(draw, datum=DATUM, rows=800, **options):
    torch.manual_seed(0)
    return local_calibration_test(draw, simulated(rows), observed=datum, **{"permutations": 199} | options)


def test_the_exact_posterior_passes():
    found = attempt(posterior())
    assert found.test.p_value > 0.05
    assert min(result.p_value for result in found.coordinates.values()) > 0.05
    assert all(abs(value) < 0.15 for value in found.shift.values())
    assert all(abs(value - 1) < 0.15 for value in found.spread.values())
    assert "agree in mean and spread" in found.reading("z[0]")
    assert set(found.draws) == set(found.ratio) == {"z[0]", "z[1]"}
    assert len(found.draws["z[0]"]) == len(found.ratio["z[0]"]) >= 1000


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"scale": 0.7}, "posterior too narrow by a factor of 1.[3-5]"),
        ({"scale": 1.4}, "posterior too wide by a factor of 1.[3-5]"),
        ({"shift": 0.4}, "truths lie 0.[34]. sd below"),
    ],
)
def test_a_wrong_coordinate_is_found_and_described(flaw, words):
    import re

    found = attempt(posterior(**flaw))
    assert found.test.p_value < 0.01
    assert found.coordinates["z[0]"].p_value < 0.01
    assert found.coordinates["z[1]"].p_value > 0.02
    assert re.search(words, found.reading("z[0]"))
    assert words.split()[0] in str(found)


def test_the_ratio_of_densities_is_that_of_truths_over_draws():
    found = attempt(posterior(shift=1.0), rows=2000)
    z = (found.draws["z[0]"] - 0.8 * 1.2) / ROOT  # standard normal under the exact posterior
    exact = torch.exp(0.5 * (z - 1).square() - 0.5 * z.square())
    inside = exact < 3
    error = (found.ratio["z[0]"] - exact).abs()[inside]
    assert float(error.mean()) < 0.25
    assert float(found.ratio["z[0]"].mean()) == pytest.approx(1.0, abs=0.2)


def test_a_flaw_elsewhere_is_no_flaw_here():
    draw = posterior(shift=0.8, where=lambda y: (y[:, :1] > 0).float())
    here = attempt(draw, {"y": torch.tensor([1.5, 0.0])}, rows=1500)
    assert here.coordinates["z[0]"].p_value < 0.01
    assert here.shift["z[0]"] < -0.5
    there = attempt(draw, {"y": torch.tensor([-1.5, 0.0])}, rows=1500)
    assert abs(there.shift["z[0]"]) < 0.2
    assert there.test.statistic < 0.2 * here.test.statistic


@pytest.mark.slow
def test_p_values_are_uniform_where_the_posterior_is_right():
    repeats, found = 300, []
    for seed in range(repeats):
        torch.manual_seed(seed)
        result = local_calibration_test(
            posterior(), simulated(150, seed), observed=DATUM, permutations=99, evaluated=100
        )
        found.append([result.test.p_value, result.coordinates["z[0]"].p_value])
    shares = torch.tensor(found, dtype=torch.double)
    for level in (0.05, 0.1, 0.5):
        spread = sqrt(level * (1 - level) / repeats)
        assert ((shares <= level).double().mean(0) - level).abs().max() < 4 * spread, level


def test_units_do_not_matter_nor_do_those_of_other_coordinates():
    """Latents and data in tiny units; and a fault in one coordinate beside another one of huge numbers."""
    generator = torch.Generator().manual_seed(1000)
    plain, noise = simulated(400), torch.randn(400, generator=generator)
    for unit, other in ((1e-12, 1e-12), (1.0, 1e12)):
        known = {"y": unit * plain.observed["y"]}
        simulations = Simulations({"z": unit * plain.latents["z"], "w": other * noise}, known)

        def draw(data, draws, unit=unit, other=other):
            rows = len(data["y"])
            z = posterior(shift=1.0)({"y": data["y"] / unit}, draws)["z"]
            return {"z": unit * z, "w": other * torch.randn(draws, rows)}

        found = attempt_on(draw, simulations, {"y": unit * DATUM["y"]})
        assert found.test.p_value < 0.02
        assert found.shift["z[0]"] == pytest.approx(-1.0, abs=0.2)


def attempt_on(draw, simulations, datum):
    torch.manual_seed(0)
    return local_calibration_test(draw, simulations, observed=datum, permutations=99)


def test_the_smallest_p_value_is_adjusted_exactly():
    """Of copies of one test it is that of one; of independent ones nearly Bonferroni's; below its floor too."""
    torch.manual_seed(0)
    null = torch.randn(8, 999)
    one = TestResult(2.0, (1 + int((null[0] >= 2.0).sum())) / 1000, null=null[0])
    assert smallest_p_value([one] * 5) == pytest.approx(one.p_value)
    many = [TestResult(float(v), 0.5, null=n) for v, n in zip([2.5] + [0.0] * 7, null, strict=True)]
    expected = 1 - (1 - float((null[0] >= 2.5).double().mean())) ** 8
    assert smallest_p_value(many) == pytest.approx(expected, abs=0.03)
    assert smallest_p_value([TestResult(9.0, 0.001, null=n) for n in null]) == pytest.approx(0.001)
    assert smallest_p_value([TestResult(1.0, 0.2), TestResult(1.0, 0.4)]) == pytest.approx(0.4)
    p_values = torch.tensor(
        [smallest_p_value([TestResult(float(n[0]), 0.5, null=n[1:]) for n in torch.randn(8, 100)]) for _ in range(500)]
    )
    for level in (0.05, 0.2, 0.5):
        assert float((p_values <= level).double().mean()) < level + 4 * sqrt(level * (1 - level) / 500)


def test_a_classifier_of_ones_own():
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    options = {"classifier": QuadraticDiscriminantAnalysis(reg_param=0.1), "permutations": 29, "rows": 300}
    assert attempt(posterior(scale=0.5), **options).test.p_value == pytest.approx(1 / 30)
    assert attempt(posterior(), **options).test.p_value > 0.04
    with pytest.raises(TypeError, match="`classifier` must be a scikit-learn classifier"):
        attempt(posterior(), classifier="forest")


def test_many_coordinates_several_sites_and_absent_rows():
    """Ten coordinates at two sites, one of them discrete, and sets of data."""
    torch.manual_seed(0)
    mean, coin = torch.randn(400, 9), torch.bernoulli(torch.full((400,), 0.4))
    y = mean[:, None] + torch.randn(400, 4, 9)
    y[:200, 2:] = torch.nan
    simulations = Simulations({"mean": mean, "coin": coin}, {"y": y, "w": coin + torch.randn(400)})

    def exact(data, draws):
        precision = 1 + (~data["y"].isnan()).sum(1)
        odds = 0.4 / 0.6 * (data["w"] - 0.5).exp()
        return {
            "mean": data["y"].nansum(1) / precision + torch.randn(draws, len(precision), 9) / precision.sqrt(),
            "coin": torch.bernoulli((odds / (1 + odds)).expand(draws, -1)),
        }

    datum = {"y": y[0], "w": torch.tensor(0.3)}
    found = local_calibration_test(exact, simulations, observed=datum, permutations=99)
    assert list(found.coordinates) == [*(f"mean[{i}]" for i in range(9)), "coin"]
    assert found.test.p_value > 0.02


def test_what_does_not_fit_is_refused():
    for datum, message in (
        ({}, r"`observed` must have values of the sites \['y'\], got \[\]"),
        ({"y": torch.zeros(3)}, r"`observed\['y'\]` must have shape \(2,\), got \(3,\)"),
        ({"y": torch.full((2,), torch.nan)}, r"`observed\['y'\]` must hold numbers, got 2 NaN"),
        ({"y": torch.full((2,), torch.inf)}, r"`observed\['y'\]` must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            attempt(posterior(), datum)
    with pytest.raises(ValueError, match="`simulations` must hold at least 50, got 10"):
        attempt(posterior(), rows=10)
    with pytest.raises(ValueError, match="`draws` must be at least 4, got 2"):
        attempt(posterior(), draws=2)
    with pytest.raises(ValueError, match="must give draws of 'z' of shape"):
        attempt(lambda data, draws: {"z": torch.zeros(draws, 3)})
    assert 0 < attempt(posterior(), DATUM["y"], rows=60).test.p_value <= 1  # a tensor where one site is observed


# Coverage by random points


def drawn(simulations, draws=99, scale=1.0, gain=0.8, root=ROOT):
    torch.manual_seed(1)
    y = simulations.observed["y"]
    return {"z": gain * y + scale * root * torch.randn(draws, *y.shape)}


def test_balls_around_any_reference_hold_the_truth_as_often_as_they_say():
    simulations = simulated(500)
    for references in (None, {"z": simulations.observed["y"]}, {"z": torch.ones(500, 2)}):
        right = joint_coverage(simulations.latents, drawn(simulations), references=references)
        assert right.test().p_value > 0.01
        coverage = right.highest_coverage("closeness", levels=torch.tensor([0.5, 0.9]))
        assert ((coverage.lower - 0.02 < coverage.levels) & (coverage.levels < coverage.upper + 0.02)).all()
        for scale in (0.6, 1.6):
            wrong = joint_coverage(simulations.latents, drawn(simulations, scale=scale), references=references)
            assert wrong.test().p_value < 0.005


def test_draws_that_ignore_the_data_need_references_that_do_not():
    simulations = simulated(500)
    ignoring = drawn(simulations, gain=0.0, root=1.0)
    assert joint_coverage(simulations.latents, ignoring).test().p_value > 0.01
    informed = joint_coverage(simulations.latents, ignoring, references={"z": simulations.observed["y"]})
    assert informed.test().p_value < 0.001


@pytest.mark.parametrize(("rows", "coordinates"), [(20, 60), (60, 300)])
def test_many_coordinates_of_few_simulations_err_as_rarely_as_promised(rows, coordinates):
    torch.manual_seed(0)
    rejected = 0
    for _ in range(60):
        z = torch.randn(rows, coordinates)
        draws = {"z": torch.randn(19, rows, coordinates)}
        rejected += joint_coverage({"z": z}, draws).test().p_value <= 0.05
    assert rejected <= 60 * (0.05 + 4 * sqrt(0.05 * 0.95 / 60))


def test_points_that_do_not_fit_are_refused():
    simulations = simulated(20)
    good = drawn(simulations, 9)
    with pytest.raises(ValueError, match=r"`drawn\['z'\]` must have shape \(9, 20, 2\), got \(9, 20\)"):
        joint_coverage(simulations.latents, {"z": good["z"][..., 0]})
    with pytest.raises(ValueError, match=r"`drawn\['z'\]` must hold numbers, got .* NaN"):
        joint_coverage(simulations.latents, {"z": good["z"] * torch.nan})
    with pytest.raises(ValueError, match="`references` must hold a point for each of the 20 simulations, got 3"):
        joint_coverage(simulations.latents, good, references={"z": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match="`latents` must hold at least two simulations, got 1"):
        joint_coverage({"z": torch.zeros(1, 2)}, {"z": torch.zeros(9, 1, 2)})
