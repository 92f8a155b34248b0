"""Simulation-based calibration: what it must pass, what it must catch, and what only some quantities can catch."""

from functools import partial
from math import sqrt

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.core.module import DistributionModule
from pyrogen.evaluation import (
    Amortized,
    Calibration,
    Departure,
    EcdfNull,
    central_coverage,
    chi_square_test,
    highest_coverage,
    simulation_based_calibration,
)

NOISE = 0.5
GAIN = 1 / (1 + NOISE**2)
ROOT = sqrt(NOISE**2 * GAIN)


def model(size=1):
    with pyro.plate("data", size):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z, NOISE).to_event(1))


def guide(y, scale=1.0, shift=0.0):
    with pyro.plate("data", len(y)):
        pyro.sample("z", dist.Normal(GAIN * y + shift, scale * ROOT).to_event(1))


def calibrate(posterior, **options):
    pyro.set_rng_seed(0)
    options = {"simulations": 600, "draws": 49} | options
    return simulation_based_calibration(model, posterior, observed=["y"], **options)


def prior_draws(data, draws):
    return {"z": torch.randn(draws, *data["y"].shape)}


def test_the_exact_posterior_passes():
    posterior = Amortized(guide, ["y"])
    calibration = calibrate(posterior, quantities={"log_q": posterior.log_prob})
    assert set(calibration.ranks) == {"log_likelihood", "log_joint", "z[0]", "z[1]", "log_q"}
    assert (calibration.simulations, calibration.draws) == (600, 49)
    assert calibration.test().p_value > 0.05
    for name, result in calibration.chi_square().items():
        assert result.p_value > 0.001, name
        assert calibration.ecdf(name, level=0.999).inside, name


@pytest.mark.parametrize("flaw", [{"scale": 0.7}, {"scale": 1.4}, {"shift": 0.2}])
def test_a_wrong_guide_is_caught(flaw):
    calibration = calibrate(Amortized(partial(guide, **flaw), ["y"]))
    assert calibration.test().p_value <= 0.001
    assert calibration.chi_square()["z[0]"].p_value < 1e-3
    assert not calibration.ecdf("z[0]").inside


def test_prior_draws_pass_but_for_quantities_that_depend_on_the_data():
    calibration = calibrate(prior_draws)
    uniformity = calibration.uniformity()
    assert uniformity["z[0]"].p_value > 0.01
    assert uniformity["z[1]"].p_value > 0.01
    assert uniformity["log_likelihood"].p_value < 0.001
    assert uniformity["log_joint"].p_value < 0.001
    overall = calibration.test()
    assert "of log_likelihood, worst of 4" in overall.name
    assert overall.p_value == pytest.approx(4 * uniformity["log_likelihood"].p_value)  # four quantities


def test_p_values_are_uniform_where_the_posterior_is_right():
    """200 calibrations at once, as blocks of one large one."""
    ranks = calibrate(Amortized(guide, ["y"]), simulations=20_000, draws=19).ranks
    null = EcdfNull(100, 19)
    for name in ("log_likelihood", "z[0]"):
        p_values = torch.tensor([null.test(block).p_value for block in ranks[name].split(100)])
        assert abs(float((p_values <= 0.1).double().mean()) - 0.1) < 4 * sqrt(0.09 / 200)


def test_coverage_of_a_narrow_guide():
    posterior = Amortized(partial(guide, scale=0.6), ["y"])
    calibration = calibrate(posterior, quantities={"log_q": posterior.log_prob}, simulations=2000, draws=99)
    levels = torch.tensor([0.5, 0.9])
    # The error over the guide's scale is normal with standard deviation 1 / 0.6.
    squared = -2 * 0.6**2 * torch.log1p(-levels.double())  # chi-square quantile, two degrees of freedom
    expected = 1 - torch.exp(-squared / 2)
    highest = calibration.highest_coverage("log_q", levels=levels)
    torch.testing.assert_close(highest.levels, levels.double(), atol=1e-6, rtol=0)
    assert ((highest.lower - 0.02 < expected) & (expected < highest.upper + 0.02)).all()
    quantiles = torch.special.ndtri((1 + levels.double()) / 2)
    central = calibration.central_coverage("z[1]", levels=levels)
    expected = 2 * torch.special.ndtr(0.6 * quantiles) - 1
    assert ((central.lower - 0.02 < expected) & (expected < central.upper + 0.02)).all()


def test_ranks_count_the_draws_below():
    def ordered(data, draws):
        """Draws 0, 1, ..., 8 beside a truth of 3.5."""
        return {"z": torch.arange(float(draws)).reshape(draws, 1).expand(draws, len(data["y"]))}

    def program(size=1):
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(3.5, 1e-6))
            pyro.sample("y", dist.Normal(0.0, 1.0))

    calibration = simulation_based_calibration(program, ordered, observed=["y"], simulations=5, draws=9)
    assert calibration.ranks["z"].tolist() == [4] * 5


def test_ties_are_broken_at_random():
    posterior = Amortized(guide, ["y"])
    calibration = calibrate(posterior, quantities={"constant": lambda latents, data: torch.zeros(len(data["y"]))})
    assert calibration.chi_square()["constant"].p_value > 0.001
    assert calibration.ranks["constant"].max() == 49


def test_blocks_change_no_shape_and_one_simulation_at_a_time_works():
    calibration = calibrate(Amortized(guide, ["y"]), batch_size=1, simulations=30)
    assert calibration.simulations == 30


def test_large_events_are_computed_few_at_a_time():
    """Of images of 3,072 numbers with as many measured no more than two million numbers at once."""

    def image(size=1):
        with pyro.plate("data", size):
            x = pyro.sample("x", dist.Normal(torch.zeros(3, 32, 32), 1.0).to_event(3))
            pyro.sample("y", dist.Normal(x, NOISE).to_event(3))

    seen = []

    def draw(data, draws):
        seen.append(len(data["y"]))
        return {"x": GAIN * data["y"] + ROOT * torch.randn(draws, *data["y"].shape)}

    simulation_based_calibration(image, draw, observed="y", simulations=50, draws=19, coordinates=())
    assert seen == [17, 17, 16]
    assert max(seen) * 19 * 2 * 3072 < 2**21


def test_a_function_may_take_its_time_for_each_data_set():
    def slow(data, draws):
        means = [torch.randn(draws, 2) * ROOT + GAIN * y for y in data["y"]]
        return {"z": torch.stack(means, 1)}

    assert calibrate(slow, simulations=200).test().p_value > 0.01


def test_every_pair_of_modules_can_be_checked():
    """A module with a latent variable, called with ``size`` and as a guide with the data."""

    class Pair(DistributionModule):
        def forward(self, context=None):
            raise NotImplementedError

        @property
        def model(self):
            return lambda x=None, context=None, size=None: model(size)

        @property
        def guide(self):
            return lambda x, context=None, size=None: guide(x)

    module = Pair((2,))
    result = simulation_based_calibration(module.model, Amortized(module.guide, ["y"]), observed=["y"], simulations=50)
    assert result.simulations == 50


def test_what_does_not_fit_is_refused():
    good = Amortized(guide, ["y"])

    def factor(size=1):
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(0.0, 1.0))
            pyro.factor("extra", torch.zeros(size))

    def outside(size=1):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        model(size)

    with pytest.raises(ValueError, match=r"`observed` must name sites of the model \['z', 'y'\], got \['x'\]"):
        simulation_based_calibration(model, good, observed=["x"])
    with pytest.raises(ValueError, match="`observed` must name at least one"):
        simulation_based_calibration(model, good, observed=[])
    with pytest.raises(ValueError, match="must have a latent site"):
        simulation_based_calibration(model, good, observed=["y", "z"])
    with pytest.raises(ValueError, match=r"must draw all its sites.*\['extra'\]"):
        simulation_based_calibration(factor, good, observed=["y"])
    with pytest.raises(ValueError, match=r"outside are \['w'\]"):
        simulation_based_calibration(outside, good, observed=["y"])
    with pytest.raises(ValueError, match=r"`posterior` must give draws of every latent site \['z'\], got \[\]"):
        calibrate(lambda data, draws: {})
    with pytest.raises(ValueError, match="`posterior` must give draws of 'z' of shape"):
        calibrate(lambda data, draws: {"z": torch.zeros(draws, 2)})
    with pytest.raises(ValueError, match="test quantity 'bad' is NaN"):
        calibrate(good, quantities={"bad": lambda latents, data: latents["z"][:, 0] * float("nan")})
    with pytest.raises(ValueError, match="`name` must be one of"):
        calibrate(good, simulations=10).ecdf("nothing")


@pytest.mark.parametrize(("simulations", "draws"), [(50, 9), (200, 30)])
def test_the_ecdf_test_and_its_band_err_as_rarely_as_promised(simulations, draws):
    torch.manual_seed(0)
    null, repeats = EcdfNull(simulations, draws), 1000
    rejected = outside = 0
    for ranks in torch.randint(draws + 1, (repeats, simulations)):
        rejected += null.test(ranks).p_value <= 0.05
        outside += not null.band(ranks, 0.95).inside
    # Counts are discrete, so a test at 0.05 may err less often.
    assert outside == rejected
    assert 0.02 < rejected / repeats < 0.05 + 4 * sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("bins", [None, 7])
def test_the_chi_square_test_errs_as_rarely_as_promised(bins):
    torch.manual_seed(0)
    p_values = torch.tensor(
        [chi_square_test(ranks, 49, bins=bins).p_value for ranks in torch.randint(50, (1500, 300))], dtype=torch.double
    )
    for level in (0.01, 0.1, 0.5):
        spread = sqrt(level * (1 - level) / 1500)
        assert abs(float((p_values <= level).double().mean()) - level) < 4 * spread + 0.005
    skewed = (torch.rand(300).pow(1.3) * 50).long()
    assert chi_square_test(skewed, 49, bins=bins).p_value < 0.01


def test_the_chi_square_statistic_is_pearsons():
    from scipy.stats import chisquare

    ranks = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
    expected = chisquare([4, 6])
    result = chi_square_test(ranks, 3, bins=2)
    assert result.statistic == pytest.approx(expected.statistic)
    assert result.p_value == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("coverage", [highest_coverage, central_coverage])
@pytest.mark.parametrize("draws", [9, 10, 99])
def test_each_rank_once_is_perfect_coverage(coverage, draws):
    result = coverage(torch.arange(draws + 1), draws)
    torch.testing.assert_close(result.coverage, result.levels)
    assert ((result.lower <= result.coverage) & (result.coverage <= result.upper)).all()
    assert result.levels.max() == 1


def test_ranks_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`ranks` must be between 0 and 9, got 0 to 10"):
        chi_square_test(torch.arange(11), 9)
    with pytest.raises(ValueError, match="`ranks` must be integers"):
        highest_coverage(torch.rand(5), 9)
    with pytest.raises(ValueError, match="`bins` must be between 2 and"):
        chi_square_test(torch.arange(10), 9, bins=11)
    with pytest.raises(ValueError, match="`ranks` must hold 10 ranks, got 20"):
        EcdfNull(10, 9).test(torch.randint(0, 10, (20,)))
    with pytest.raises(ValueError, match="`ranks` must hold 10 ranks, got 5"):
        EcdfNull(10, 9).band(torch.randint(0, 10, (5,)))
    with pytest.raises(ValueError, match="`draws` must be at least 1, got 0"):
        EcdfNull(10, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulations": 0}, "`simulations` must be at least 1, got 0"),
        ({"draws": 0}, "`draws` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"coordinates": ["w"]}, r"`coordinates` must name latent sites \['z'\], got \['w'\]"),
        ({"quantities": {"sum": lambda latents, data: latents["z"].sum()}}, r"'sum' must give one number a row"),
        ({"quantities": {"log_joint": lambda latents, data: latents["z"].sum(1)}}, "names of their own"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(Amortized(guide, ["y"]), **options)


def test_a_name_is_one_name():
    def named(size=1):
        with pyro.plate("data", size):
            z = pyro.sample("latent", dist.Normal(0.0, 1.0))
            pyro.sample("data_point", dist.Normal(z, NOISE))

    def named_guide(y):
        with pyro.plate("data", len(y)):
            pyro.sample("latent", dist.Normal(GAIN * y, ROOT))

    posterior = Amortized(named_guide, "data_point")
    calibration = simulation_based_calibration(
        named, posterior, observed="data_point", coordinates="latent", simulations=20
    )
    assert list(calibration.ranks) == ["log_likelihood", "log_joint", "latent"]


def test_a_guide_of_auxiliary_sites_has_draws_but_no_density():
    def auxiliary(y):
        with pyro.plate("data", len(y)):
            u = pyro.sample("u", dist.Normal(GAIN * y, ROOT).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u, event_dim=1))

    posterior = Amortized(auxiliary, ["y"])
    assert calibrate(posterior).test().p_value > 0.01
    with pytest.raises(NotImplementedError, match=r"auxiliary sites \['u'\]"):
        calibrate(posterior, quantities={"log_q": posterior.log_prob})


# Simulators without a likelihood


class Implicit(dist.TorchDistribution):
    """A normal that has draws and no log_prob."""

    arg_constraints: dict = {}
    support = dist.constraints.real
    density = None

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Implicit(self.loc.expand(batch_shape), self.scale)

    def sample(self, sample_shape=torch.Size()):
        return self.loc + self.scale * torch.randn(self.shape(sample_shape))

    def log_prob(self, value):
        raise NotImplementedError("implicit")


def simulator(how):
    def program(size=1):
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0))
            y = z + 0.5 * torch.randn(size)
            if how == "implicit":
                pyro.sample("y", Implicit(z, 0.5))
            elif how == "point mass":
                pyro.sample("y", dist.Delta(y))
            else:
                pyro.deterministic("y", y, event_dim=0)

    return program


def exact_posterior(data, draws):
    return {"z": 0.8 * data["y"] + 0.2**0.5 * torch.randn(draws, len(data["y"]))}


def from_the_prior(data, draws):
    return {"z": torch.randn(draws, len(data["y"]))}


@pytest.mark.parametrize("how", ["implicit", "point mass", "deterministic"])
def test_a_simulator_without_a_likelihood_is_calibrated_by_what_is_left(how):
    torch.manual_seed(0)
    aware = {"distance": lambda latents, data: (latents["z"] - data["y"]).abs()}
    arguments = {"observed": "y", "simulations": 300, "draws": 99, "quantities": aware}
    right = simulation_based_calibration(simulator(how), exact_posterior, **arguments)
    assert set(right.ranks) == {"z", "distance", "regression_score"}
    assert set(right.left_out) == {"log_likelihood", "log_joint"}
    assert right.test().p_value > 0.01
    assert "without log_likelihood, log_joint" in repr(right)
    prior = simulation_based_calibration(simulator(how), from_the_prior, **arguments)
    assert prior.uniformity()["z"].p_value > 0.01
    assert prior.uniformity()["distance"].p_value < 0.001
    assert prior.uniformity()["regression_score"].p_value < 0.001


def test_too_few_simulations_for_a_regression_are_warned_of():
    with pytest.warns(UserWarning, match=r"leaves out log_likelihood .*'y'.*at least 20 simulations.*RegressionScore"):
        simulation_based_calibration(simulator("implicit"), exact_posterior, observed="y", simulations=10, draws=9)


def test_a_prior_without_a_log_prob_leaves_the_likelihood():
    def program(size=1):
        with pyro.plate("data", size):
            z = pyro.sample("z", Implicit(torch.zeros(size), 1.0))
            pyro.sample("y", dist.Normal(z, 0.5))

    torch.manual_seed(0)
    result = simulation_based_calibration(program, exact_posterior, observed="y", simulations=100, draws=9)
    assert set(result.ranks) == {"log_likelihood", "z"}
    assert result.left_out == {"log_joint": "site 'z' has no log_prob"}
    assert result.test().p_value > 0.01


def test_nan_among_posterior_draws_is_refused():
    def lost(data, draws):
        return {"z": torch.full((draws, len(data["y"]), 2), torch.nan)}

    with pytest.raises(ValueError, match="`posterior` must give numbers, got .* NaN in 'z'"):
        calibrate(lost, coordinates=[])


@pytest.mark.parametrize(("simulations", "draws"), [(1, 4), (3, 2), (4, 3)])
def test_p_values_of_the_ecdf_are_those_of_all_possible_ranks(simulations, draws):
    null = EcdfNull(simulations, draws)
    every = torch.cartesian_prod(*[torch.arange(draws + 1)] * simulations).reshape(-1, simulations)
    found = [null.test(ranks) for ranks in every]
    statistics = torch.tensor([result.statistic for result in found])
    for result in found:
        exact = float((statistics >= result.statistic - 1e-9).double().mean())
        assert result.p_value == pytest.approx(exact, rel=1e-9)


def test_many_quantities_cannot_hide_a_fault():
    """The smallest p-value is multiplied by their number, so it must not have a floor."""
    ranks = {f"z[{i}]": torch.randint(20, (300,), generator=torch.Generator().manual_seed(i)) for i in range(400)}
    assert Calibration(ranks, 19).test().p_value > 0.01
    assert Calibration(ranks | {"z[0]": torch.zeros(300, dtype=torch.long)}, 19).test().p_value < 1e-9


@pytest.mark.parametrize(("simulations", "draws"), [(10, 9), (20, 9), (24, 10), (30, 6), (47, 99)])
def test_default_bins_hold_five_ranks_each(simulations, draws):
    assert 0 <= chi_square_test(torch.arange(simulations) % (draws + 1), draws).p_value <= 1


@pytest.mark.parametrize(("shift", "spread"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.5), (0.0, 0.7), (1.0, 1.0), (0.4, 1.3)])
def test_a_departure_is_the_shift_and_the_spread_of_normal_truths(shift, spread):
    torch.manual_seed(0)
    count, draws = 20_000, 99
    truth = shift + spread * torch.randn(count)
    found = Departure.of((torch.randn(draws, count) < truth).sum(0), draws)
    # Of n normal values the mean of the quartiles has the standard error 1.11 s / sqrt(n), their distance 1.17 s.
    assert found.shift == pytest.approx(shift, abs=0.01 + 4 * 1.11 * spread / sqrt(count))
    assert found.spread == pytest.approx(spread, abs=0.02 + 4 * 1.17 * spread / sqrt(count))
    z = torch.linspace(-4, 4, 2001)
    normal = torch.special.ndtr
    exact = (normal((z - shift) / spread) - normal(z)).abs().max().item()
    assert found.distance == pytest.approx(exact, abs=1 / (draws + 1) + 2 / sqrt(count))


def test_a_departure_of_uniform_ranks_is_none():
    for draws in (1, 2, 9, 99):
        found = Departure.of(torch.arange(draws + 1).repeat(5), draws)
        assert (found.shift, found.spread, found.distance) == pytest.approx((0.0, 1.0, 0.0), abs=1e-6)
    with pytest.raises(ValueError, match="`ranks` must be between 0 and 9, got 10 to 10"):
        Departure.of(torch.tensor([10]), 9)


def test_a_calibration_prints_one_p_value_of_all_and_the_size_of_each_fault():
    ranks = {"right": torch.arange(100).repeat(10), "low": torch.arange(50, 100).repeat(20)}
    found = Calibration(ranks, 99)
    first, right, low = str(found).splitlines()
    assert first == f"2 quantities in 1000 simulations: p = {found.test().p_value:.2g}"
    assert right == f"right: p = 1, {found.departure('right')}"
    assert "probabilities off by up to 0.00" in right
    assert low.endswith(f"{found.departure('low')}")
    assert "probabilities off by up to 0.50" in low
    with pytest.raises(ValueError, match="`name` must be one of"):
        found.departure("lost")


def test_a_learned_posterior_is_no_function_of_draws():
    class Learned(DistributionModule):
        def forward(self, context=None):
            return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    with pytest.raises(TypeError, match="`posterior` must be a function of the data.*the module Learned: .* `draw`"):
        simulation_based_calibration(model, Learned((2,)), observed="y")
    with pytest.raises(TypeError, match="`observed` must be given where `simulations` are 1000 to be drawn, got None"):
        simulation_based_calibration(model, prior_draws)
