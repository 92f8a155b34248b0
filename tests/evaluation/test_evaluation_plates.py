"""Evaluation means the same whatever the size of the data plate: fixed, of the rows at hand, or subsampled."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyrogen.evaluation import (
    Amortized,
    amortization_gap,
    collapse_report,
    importance_log_weights,
    importance_weighted_log_probs,
    pareto_k,
    simulation_based_calibration,
)
from pyrogen.evaluation.pairs import Pair
from pyrogen.latent import Marginal
from pyrogen.programs.layouts import DrawsTogether, OneDraw, RowsRepeated

NOISE, ROWS = 0.5, 20
DEVIATION = (1 / (1 + 1 / NOISE**2)) ** 0.5  # of the posterior
MEAN = DEVIATION**2 / NOISE**2


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(ROWS) * (1 + NOISE**2) ** 0.5


def fixed(x):
    return pyro.plate("data", ROWS)


def own(x):
    return pyro.plate("data", len(x))


def subsampled(x):
    return pyro.plate("data", ROWS, subsample_size=len(x))


def of_many(x):
    return pyro.plate("data", 1000, subsample_size=len(x))


def pair(plate, scale=1.0):
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(MEAN * x, scale * DEVIATION))

    return model, guide


def log_marginal(x):
    return dist.Normal(0.0, (1 + NOISE**2) ** 0.5).log_prob(x).double()


PLATES = [fixed, own, subsampled, of_many]


@pytest.mark.parametrize("plate", PLATES)
@pytest.mark.parametrize("batch_size", [7, 4096])
def test_log_marginals_do_not_depend_on_the_plate(x, plate, batch_size):
    weights = importance_log_weights(*pair(plate), x, draws=100, batch_size=batch_size)
    torch.testing.assert_close(weights, log_marginal(x).expand(100, ROWS), atol=1e-4, rtol=0)


@pytest.mark.parametrize("plate", PLATES)
def test_scales_of_annealing_do_not_count(x, plate):
    scaled = [poutine.scale(program, 0.1) for program in pair(plate)]
    torch.testing.assert_close(importance_weighted_log_probs(*scaled, x, draws=30), log_marginal(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("plate", PLATES)
def test_collapse_and_amortization_do_not_depend_on_the_plate(x, plate):
    torch.manual_seed(0)
    report = collapse_report(*pair(plate), x, draws=50)
    exact = torch.distributions.kl_divergence(dist.Normal(MEAN * x, DEVIATION), dist.Normal(0.0, 1.0)).double()
    torch.testing.assert_close(report.sites["z"].kl, exact, atol=1e-5, rtol=0)
    gap = amortization_gap(*pair(plate, scale=1.5), x, steps=200, evaluation_draws=200)
    # KL(N(m, (1.5 s)^2) | N(m, s^2)) = (1.5^2 - 1) / 2 - log 1.5
    assert gap.amortization.value == pytest.approx(0.2195, abs=0.06)
    assert gap.approximation.value == pytest.approx(0.0, abs=0.01)


def test_a_guide_with_numbers_for_each_row_keeps_them(x):
    model, _ = pair(fixed)
    guide = AutoNormal(model, init_scale=DEVIATION)
    guide(x)
    with torch.no_grad():
        guide.locs.z.copy_(MEAN * x)
    torch.testing.assert_close(
        importance_weighted_log_probs(model, guide, x, draws=50), log_marginal(x), atol=1e-3, rtol=0
    )


def test_numbers_of_rows_that_nobody_named_are_refused(x):
    table = torch.randn(1000)
    model, _ = pair(of_many)

    def guide(x):
        with of_many(x) as rows:
            pyro.sample("z", dist.Normal(table[rows], DEVIATION))

    for draws in (1, 30):
        with pytest.raises(ValueError, match="`guide` must give the same draws and data the same log-probability"):
            importance_log_weights(model, guide, x, draws=draws)


def test_a_program_that_picks_rows_itself_is_refused(x):
    def picks(x):
        with pyro.plate("data", len(x), subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x[rows])

    def its_guide(x):
        with pyro.plate("data", len(x), subsample_size=5) as rows:
            pyro.sample("z", dist.Normal(MEAN * x[rows], DEVIATION))

    with pytest.raises(ValueError, match="`guide` takes its own subsample of 5 of the 20 rows in plate 'data'"):
        importance_log_weights(picks, its_guide, x, draws=3)


def test_a_network_of_one_batch_dimension_gets_its_draws_as_rows(x):
    class Decoder(nn.Module):
        def forward(self, z):
            assert z.dim() == 2
            return z

    decoder = Decoder()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), NOISE).to_event(1), obs=x[:, None])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(MEAN * x[:, None], DEVIATION).to_event(1))

    layouts = Pair(model, guide, [x], rows=ROWS).layouts(50, 30)
    assert [type(layout) for layout in layouts] == [RowsRepeated, RowsRepeated]
    torch.testing.assert_close(
        importance_log_weights(model, guide, x, draws=50), log_marginal(x).expand(50, ROWS), atol=1e-4, rtol=0
    )


def test_a_program_that_mixes_rows_runs_draw_by_draw(x):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z - z.mean(), NOISE), obs=x)

    _, guide = pair(own)
    assert [type(layout) for layout in Pair(model, guide, [x], rows=ROWS).layouts(3, 99)] == [OneDraw] * 3


# One datum: a global latent

PRIOR = dist.Normal(1.0, 2.0)


def evidence(x):
    covariance = NOISE**2 * torch.eye(len(x), dtype=torch.double) + 4.0
    return float(dist.MultivariateNormal(torch.ones(len(x), dtype=torch.double), covariance).log_prob(x.double()))


def location_pair(plate, data):
    precision = 1 / 4 + len(data) / NOISE**2
    mean = (1 / 4 + data.sum() / NOISE**2) / precision

    def model(x):
        location = pyro.sample("location", PRIOR)
        with plate(x):
            pyro.sample("x", dist.Normal(location, NOISE), obs=x)

    def guide(x):
        pyro.sample("location", dist.Normal(mean, precision**-0.5))

    return model, guide


@pytest.mark.parametrize("plate", PLATES)
def test_the_evidence_of_a_global_latent_is_exact(x, plate):
    programs = location_pair(plate, x)
    log_weights = importance_log_weights(*programs, x, draws=40, whole=True)
    torch.testing.assert_close(log_weights, torch.full((40, 1), evidence(x), dtype=torch.double), atol=1e-3, rtol=0)
    assert [type(layout) for layout in Pair(*programs, [x], rows=None).layouts(40, 40)] == [DrawsTogether]
    result = pareto_k(*programs, x, draws=40, whole=True)
    assert float(result.effective_sample_size) == pytest.approx(40, rel=1e-3)


@pytest.mark.parametrize("plate", PLATES)
def test_a_global_latent_is_refused_where_data_count_one_by_one(x, plate):
    for function in (importance_log_weights, pareto_k):
        with pytest.raises(ValueError, match="`whole=True`"):
            function(*location_pair(plate, x), x, draws=30)


def test_local_and_global_latents_have_one_evidence(x):
    """The data are N(location, 1 + noise^2) given the location."""

    def model(x):
        location = pyro.sample("location", PRIOR)
        with pyro.plate("data", ROWS, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(location, 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    variance = 1 + NOISE**2
    precision = 1 / 4 + ROWS / variance
    mean = (1 / 4 + x.sum() / variance) / precision

    def guide(x):
        location = pyro.sample("location", dist.Normal(mean, precision**-0.5))
        with pyro.plate("data", ROWS, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(location + MEAN * (x - location), DEVIATION))

    covariance = variance * torch.eye(ROWS, dtype=torch.double) + 4.0
    exact = dist.MultivariateNormal(torch.ones(ROWS, dtype=torch.double), covariance).log_prob(x.double())
    weights = importance_log_weights(model, guide, x, draws=25, whole=True)
    torch.testing.assert_close(weights, exact.expand(25, 1), atol=1e-3, rtol=0)


# The marginal as a distribution


class Of(nn.Module):
    """A program as a module."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x):
        return self.program(x)


@pytest.mark.parametrize("plate", [own, subsampled, of_many])
@pytest.mark.parametrize("rows", [1, 7, ROWS])
def test_the_marginal_does_not_depend_on_the_plate(x, plate, rows):
    model, guide = map(Of, pair(plate))
    marginal = Marginal(model, guide, event_shape=(), draws=300)()
    torch.testing.assert_close(marginal.log_prob(x[:rows]).double(), log_marginal(x[:rows]), atol=1e-4, rtol=0)
    draws = marginal.sample((4000,))
    assert float(draws.var()) == pytest.approx(1 + NOISE**2, rel=0.15)


def test_a_marginal_of_a_plate_of_fixed_size_is_refused(x):
    model, guide = map(Of, pair(fixed))
    marginal = Marginal(model, guide, event_shape=(), draws=10)()
    for call in (lambda: marginal.log_prob(x), lambda: marginal.sample((3,))):
        with pytest.raises(ValueError, match=r"`plate` 'data' must take the rows .* got the fixed size 20"):
            call()


def test_a_marginal_refuses_other_scales(x):
    model, guide = (Of(poutine.scale(program, 0.5)) for program in pair(of_many))
    with pytest.raises(ValueError, match="must not be scaled"):
        Marginal(model, guide, event_shape=(), draws=10)().log_prob(x)


# Other plates of the same length


@pytest.mark.parametrize(("rows", "batch_size"), [(3, 4096), (20, 9), (21, 3), (20, 1)])
def test_a_feature_plate_as_long_as_the_data_is_not_the_data_plate(rows, batch_size):
    def features(program):
        def nested(x):
            with pyro.plate("data", len(x), dim=-2), pyro.plate("features", 3, dim=-1):
                program(x)

        return nested

    model = features(lambda x: pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), NOISE), obs=x))
    guide = features(lambda x: pyro.sample("z", dist.Normal(MEAN * x, DEVIATION)))
    torch.manual_seed(0)
    x = torch.randn(rows, 3)
    found = importance_weighted_log_probs(model, guide, x, draws=5, batch_size=batch_size)
    torch.testing.assert_close(found, log_marginal(x).sum(1), atol=1e-4, rtol=0)


def test_calibration_does_not_depend_on_the_plate():
    def simulating(plate):
        def model(x=None, size=None):
            with plate(torch.zeros(size)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, NOISE), obs=x)

        return model

    results = []
    for plate in (own, of_many):
        torch.manual_seed(0)
        posterior = Amortized(pair(plate)[1], "x")
        results.append(
            simulation_based_calibration(
                simulating(plate), posterior, observed="x", simulations=200, draws=19, generator=torch.manual_seed(1)
            )
        )
        assert results[-1].test().p_value > 0.01
    assert set(results[0].ranks) == set(results[1].ranks) == {"log_likelihood", "log_joint", "z"}
    with pytest.raises(ValueError, match="`model` must have all its sites in one data plate of 200 rows"):
        simulation_based_calibration(
            simulating(fixed), Amortized(pair(fixed)[1], "x"), observed="x", simulations=200, draws=19
        )
