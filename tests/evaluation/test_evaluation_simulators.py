"""Simulation-based calibration of simulators: no likelihood, plates inside, nuisance sites, ready and absent rows."""

from dataclasses import dataclass
from math import sqrt

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrogen.evaluation import EcdfNull, RegressionScore, simulation_based_calibration
from pyrogen.evaluation.simulated import joint_of, rows_of

GAIN, ROOT = 0.8, 0.2**0.5  # of the posterior of a standard normal mean seen with noise 1/2


@dataclass
class Simulations:
    latents: dict[str, Tensor]
    observed: dict[str, Tensor]


def simulated(rows, seed=0):
    generator = torch.Generator().manual_seed(1000 + seed)  # no stream that posterior draws have
    z = torch.randn(rows, 2, generator=generator)
    return Simulations({"z": z}, {"y": z + 0.5 * torch.randn(rows, 2, generator=generator)})


def posterior(scale=1.0, shift=0.0, gain=GAIN, root=ROOT):
    def draw(data, draws):
        return {"z": gain * data["y"] + shift + scale * root * torch.randn(draws, *data["y"].shape)}

    return draw


def calibrate(draw, simulations=600, **options):
    torch.manual_seed(0)
    return simulation_based_calibration(None, draw, simulations=simulated(simulations), draws=49, **options)


def test_ready_simulations_need_no_model():
    calibration = calibrate(posterior())
    assert set(calibration.ranks) == {"z[0]", "z[1]", "regression_score"}
    assert calibration.left_out == dict.fromkeys(("log_likelihood", "log_joint"), "there is no `model`")
    assert calibration.test().p_value > 0.05


@pytest.mark.parametrize("flaw", [{"scale": 0.7}, {"scale": 1.4}, {"shift": 0.2}])
def test_wrong_posteriors_are_caught(flaw):
    assert calibrate(posterior(**flaw)).test().p_value < 0.005


def test_draws_that_ignore_the_data_are_caught_by_the_regression_alone():
    """The density of such a posterior does not depend on the data either, so its rank says nothing."""
    quantities = {"log_posterior": lambda latents, data: -latents["z"].square().sum(1)}
    uniformity = calibrate(posterior(gain=0.0, root=1.0), quantities=quantities).uniformity()
    for name in ("z[0]", "z[1]", "log_posterior"):
        assert uniformity[name].p_value > 0.01, name
    assert uniformity["regression_score"].p_value < 0.001


def test_data_that_tell_only_the_size_of_a_latent_value():
    """The posterior mean is zero at all data, the regression of cosines of the latent value is not."""
    torch.manual_seed(0)
    z = torch.randn(800)
    simulations = Simulations({"z": z}, {"y": z.abs() + 0.1 * torch.randn(800)})

    def ignoring(data, draws):
        return {"z": torch.randn(draws, len(data["y"]))}

    calibration = simulation_based_calibration(None, ignoring, simulations=simulations, draws=49)
    assert calibration.uniformity()["z"].p_value > 0.01
    assert calibration.uniformity()["regression_score"].p_value < 0.001


@pytest.mark.slow
def test_the_score_that_parts_learn_from_earlier_ones_errs_as_rarely_as_promised():
    torch.manual_seed(0)
    repeats, null = 400, EcdfNull(60, 19)
    p_values = []
    for seed in range(repeats):
        found = simulation_based_calibration(None, posterior(), simulations=simulated(60, seed), draws=19)
        p_values.append(null.test(found.ranks["regression_score"]).p_value)
    for level in (0.05, 0.2, 0.5):
        share = float((torch.tensor(p_values) <= level).double().mean())
        assert share < level + 4 * sqrt(level * (1 - level) / repeats)


def test_parts_learn_from_the_past_alone():
    simulations, seen = simulated(100), []
    joint = joint_of(None, simulations, None, ())
    for part, quantities in joint.parts():
        seen += range(100)[part]
        score = quantities["regression_score"](*(rows_of(v, part) for v in (joint.latents, joint.data)))
        assert score.any() == (part.start > 0)
    assert seen == list(range(100))
    changed = Simulations(*({name: v.clone() for name, v in side.items()} for side in (joint.latents, joint.data)))
    changed.latents["z"][50:] += 5.0  # what comes later has no part in the score
    again = joint_of(None, changed, None, ()).parts()
    for (_, one), (_, other) in list(zip(joint.parts(), again, strict=True))[:3]:
        first, second = (q["regression_score"](joint.latents, joint.data) for q in (one, other))
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units_do_not_hide_draws_that_ignore_the_data(unit):
    simulations = simulated(200)
    simulations.observed["y"] *= unit
    torch.manual_seed(0)
    ignoring = posterior(gain=0.0, root=1.0)
    found = simulation_based_calibration(None, ignoring, simulations=simulations, draws=19)
    assert found.uniformity()["regression_score"].p_value < 1e-6


def test_ready_simulations_of_a_model_have_its_likelihood():
    def model(size=1):
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z, 0.5).to_event(1))

    calibration = simulation_based_calibration(model, posterior(), simulations=simulated(200), draws=19)
    assert set(calibration.ranks) == {"log_likelihood", "log_joint", "z[0]", "z[1]"}
    assert calibration.test().p_value > 0.01
    torch.manual_seed(0)
    drawn = simulation_based_calibration(model, posterior(), observed="y", simulations=200, draws=19)
    assert set(drawn.ranks) == set(calibration.ranks)


def hierarchy(size=1, groups=3, rows=4):
    """A latent value outside the plates, one for each group, a nuisance, and two observed sites."""
    with pyro.plate("simulations", size, dim=-3):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("offset", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        with pyro.plate("groups", groups, dim=-2):
            local = pyro.sample("local", dist.Normal(mean, 1.0))
            pyro.sample("count", dist.Poisson(local.exp()))
            with pyro.plate("rows", rows, dim=-1):
                pyro.sample("y", dist.Normal(local, 0.5))


def test_values_have_the_shapes_of_the_program_whatever_plates_are_inside():
    seen = {}

    def draw(data, draws):
        seen.update({name: value.shape[1:] for name, value in data.items()})
        rows = len(data["y"])
        return {"mean": torch.randn(draws, rows), "local": torch.randn(draws, rows, 3, 1)}

    calibration = simulation_based_calibration(hierarchy, draw, observed=["y", "count"], simulations=60, draws=9)
    assert seen == {"y": (3, 4), "count": (3, 1)}
    assert {"mean", "regression_score"} < set(calibration.ranks)
    assert calibration.left_out["log_likelihood"] == "site 'offset' is a nuisance"


def conjugate_sets(rows, least=1, most=20):
    """Sets of normal data with a common mean, of which each keeps a random number of rows."""
    mean = torch.randn(rows)
    y = mean[:, None] + torch.randn(rows, most)
    absent = torch.arange(most) >= torch.randint(least, most + 1, (rows, 1))
    return Simulations({"mean": mean}, {"y": y.masked_fill(absent, torch.nan)})


def test_sets_with_absent_rows():
    torch.manual_seed(1)

    def exact(data, draws):
        precision = 1 + (~data["y"].isnan()).sum(1)
        return {"mean": data["y"].nansum(1) / precision + torch.randn(draws, len(precision)) / precision.sqrt()}

    def ignores_how_many(data, draws):
        return {"mean": data["y"].nanmean(1) + torch.randn(draws, len(data["y"])) / 6}

    simulations = conjugate_sets(600)
    right = simulation_based_calibration(None, exact, simulations=simulations, draws=49)
    assert right.test().p_value > 0.01
    wrong = simulation_based_calibration(None, ignores_how_many, simulations=simulations, draws=49)
    assert wrong.test().p_value < 0.005


def test_discrete_latents():
    def model(size=1):
        with pyro.plate("data", size):
            coin = pyro.sample("coin", dist.Bernoulli(0.3))
            pyro.deterministic("y", coin + torch.randn(size), event_dim=0)

    def exact(data, draws):
        odds = 0.3 / 0.7 * (data["y"] - 0.5).exp()
        return {"coin": torch.bernoulli((odds / (1 + odds)).expand(draws, -1))}

    def ignoring(data, draws):
        return {"coin": torch.bernoulli(torch.full((draws, len(data["y"])), 0.3))}

    torch.manual_seed(0)
    assert simulation_based_calibration(model, exact, observed="y", simulations=500).test().p_value > 0.01
    assert simulation_based_calibration(model, ignoring, observed="y", simulations=500).test().p_value < 0.005


def test_a_nuisance_is_summed_out():
    def model(size=1):
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            noise = pyro.sample("noise", dist.Normal(0.0, 0.5))
            pyro.sample("y", dist.Normal(z + noise, 1e-3))

    def exact(data, draws):
        return {"z": 0.8 * data["y"] + ROOT * torch.randn(draws, len(data["y"]))}

    torch.manual_seed(0)
    options = {"observed": "y", "simulations": 400, "draws": 49}
    calibration = simulation_based_calibration(model, exact, nuisance="noise", **options)
    assert set(calibration.ranks) == {"z", "regression_score"}
    assert calibration.test().p_value > 0.01
    with pytest.raises(ValueError, match=r"`nuisance` must name latent sites of the model .*got 'w'"):
        simulation_based_calibration(model, exact, nuisance="w", **options)
    with pytest.raises(ValueError, match="must have a latent site that is no nuisance"):
        simulation_based_calibration(model, exact, nuisance=["z", "noise"], **options)


def test_the_share_that_the_data_explain():
    simulations = simulated(2000)
    score = RegressionScore(simulations.latents, simulations.observed)
    torch.testing.assert_close(score.explained, torch.full((2,), 0.8, dtype=torch.double), atol=0.05, rtol=0)
    shuffled = {"z": simulations.latents["z"].roll(1, 0)}
    # The score estimates the log-ratio, whose mean is the mutual information.
    information = float(score(simulations.latents, simulations.observed).mean())
    assert information > 0 > float(score(shuffled, simulations.observed).mean())


def test_a_summary_replaces_the_entries():
    simulations = simulated(300)
    total = RegressionScore(simulations.latents, simulations.observed, summary=lambda data: data["y"].sum(1, True))
    assert float(total.explained.max()) < 0.6
    with pytest.raises(ValueError, match=r"`summary` must give features of shape \(300, n\), got \(300,\)"):
        RegressionScore(simulations.latents, simulations.observed, summary=lambda data: data["y"].sum(1))


@pytest.mark.parametrize(
    ("simulations", "options", "error", "message"),
    [
        (object(), {}, TypeError, "`simulations` must be an int, or simulations with `latents` and `observed`"),
        (Simulations({}, {}), {}, TypeError, "must be a dict of tensors"),
        (Simulations({"z": torch.zeros(3)}, {"y": torch.zeros(2)}), {}, ValueError, "equally many rows at every site"),
        (Simulations({"z": torch.full((3,), torch.nan)}, {"y": torch.zeros(3)}), {}, ValueError, "latents.*NaN"),
        (Simulations({"z": torch.zeros(3)}, {"y": torch.full((3,), torch.inf)}), {}, ValueError, "must be finite"),
        (simulated(30), {"observed": "x"}, ValueError, r"`observed` must name the observed sites \['y'\]"),
        (10, {}, TypeError, "`model` must be given where `simulations` are 10 to be drawn, got None; or give ready"),
        (None, {}, TypeError, "`simulations` must be an int, got NoneType"),
    ],
)
def test_simulations_that_make_no_sense_are_refused(simulations, options, error, message):
    with pytest.raises(error, match=message):
        simulation_based_calibration(None, posterior(), simulations=simulations, draws=9, **options)


def test_simulations_of_another_model_are_refused():
    def model(size=1):
        with pyro.plate("data", size):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(w, 1.0))

    with pytest.raises(ValueError, match=r"must have sites of the model \['w', 'y'\], got \['z'\]"):
        simulation_based_calibration(model, posterior(), simulations=simulated(30), draws=9)


def test_noise_between_the_sites_leaves_no_likelihood():
    """Its log_prob belongs to noise that was not that of the data, and would hide draws that ignore them."""

    def model(size=1):
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z + 0.5 * torch.randn(size), 0.01))

    def exact(data, draws):
        gain = 1 / 1.2501
        return {"z": gain * data["y"] + (0.2501 * gain) ** 0.5 * torch.randn(draws, len(data["y"]))}

    def ignoring(data, draws):
        return {"z": torch.randn(draws, len(data["y"]))}

    torch.manual_seed(0)
    options = {"observed": "y", "simulations": 400, "draws": 49}
    right = simulation_based_calibration(model, exact, **options)
    assert set(right.ranks) == {"z", "regression_score"}
    assert "noise of its own" in right.left_out["log_likelihood"]
    assert right.test().p_value > 0.01
    assert simulation_based_calibration(model, ignoring, **options).test().p_value < 0.001


def test_a_regression_score_finds_nothing_to_explain_in_latents_without_spread():
    torch.manual_seed(0)
    observed = torch.randn(40, 3)
    alone = RegressionScore({"same": torch.ones(40, 1)}, {"x": observed})
    assert alone.explained.tolist() == [0.0]
    assert alone({"same": torch.ones(3, 1)}, {"x": observed[:3]}).tolist() == [0.0, 0.0, 0.0]
    latent = observed[:, :1] + 0.1 * torch.randn(40, 1)
    beside = RegressionScore({"same": torch.ones(40, 1), "other": latent}, {"x": observed})
    explained = beside.explained
    assert explained.min() == 0.0
    assert explained.max() > 0.5
