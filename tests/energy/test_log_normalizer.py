"""Normalizers against closed forms, sums and quadrature, and what is said where they cannot be known."""

from math import log, pi

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyrogen as pg
from pyrogen.energy import AnnealedImportanceSampling, Energy, ParallelTempering, log_normalizer


class Formula(nn.Module):
    """A network that is a formula."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x, *context):
        return self.formula(x, *context)


def energy_of(formula, event_shape, context_shape=None, **settings):
    return Energy(Formula(formula), event_shape, context_shape, **settings)


def within(found, truth, errors=4.0):
    return abs(found.value - truth) <= errors * found.standard_error


FEW = AnnealedImportanceSampling(temperatures=30, chains=100)
METHODS = [FEW, pytest.param(ParallelTempering(replicas=20, sweeps=60, warmup=20), marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("method", [AnnealedImportanceSampling(temperatures=1000, chains=400), None])
def test_a_wide_normal_of_16_dimensions(method):
    """The figure of issue 17: 40.454 within .05; with 500 temperatures and 100 chains one standard error is that."""
    torch.manual_seed(0)
    energy = energy_of(lambda x: (x / 5).square().sum(1) / 2, (16,))
    truth = 8 * log(2 * pi) + 16 * log(5)
    assert truth == pytest.approx(40.454, abs=5e-4)
    found = log_normalizer(energy, method=method)
    assert found.density == "lower bound"
    assert within(found, truth)
    assert found.standard_error < (0.07 if method is None else 0.03)
    if method is not None:
        assert found.value == pytest.approx(truth, abs=0.05)


def test_a_normal_from_its_own_moments_is_exact():
    torch.manual_seed(0)
    energy = energy_of(lambda x: (x / 5).square().sum(1) / 2, (16,))
    found = log_normalizer(energy, base=dist.Normal(torch.zeros(16), 5.0).to_event(1), method=FEW)
    assert found.value == pytest.approx(8 * log(2 * pi) + 16 * log(5), abs=1e-4)
    assert found.standard_error < 1e-4


def ring(x):
    """A ring of radius 3, more likely on the right."""
    return 2 * (x.norm(dim=1) - 3).square() - x[:, 0] / 2


def quadrature(formula, half_width=9.0, points=400):
    """Of a density of the plane; its grid is finer than anything in it."""
    side = torch.linspace(-half_width, half_width, points, dtype=torch.double)
    grid = torch.cartesian_prod(side, side)
    return float((-formula(grid)).logsumexp(0) + 2 * (side[1] - side[0]).log())


@pytest.mark.parametrize("method", METHODS)
def test_a_density_of_the_plane_by_quadrature(method):
    torch.manual_seed(1)
    found = log_normalizer(energy_of(ring, (2,)), base=dist.Normal(torch.zeros(2), 3.0).to_event(1), method=method)
    assert found.standard_error < 0.1
    assert within(found, quadrature(ring))


def test_exact_draws_make_a_bracket():
    torch.manual_seed(2)
    energy = energy_of(lambda x: (x / 2).square().sum(1) / 2, (3,))
    truth = 1.5 * log(2 * pi) + 3 * log(2)
    found = log_normalizer(energy, exact_draws=2 * torch.randn(200, 3), method=FEW)
    assert found.density == "estimate"
    assert found.standard_error < min(found.lower.standard_error, found.upper.standard_error)
    assert within(found, truth)
    assert within(found.lower, truth)
    assert within(found.upper, truth)
    assert f"between {found.lower.rounded()} and {found.upper.rounded()}" in str(found)
    assert found.upper.label == "upper bound in expectation"


def test_without_exact_draws_there_is_no_bracket():
    torch.manual_seed(3)
    found = log_normalizer(energy_of(lambda x: x.square().sum(1) / 2, (2,)), method=FEW)
    assert found.upper is None
    assert str(found).endswith("(lower bound in expectation)")


def two_modes(x):
    """Two normals of equal mass 12 apart, normalized."""
    ends = torch.tensor([6.0] + [0.0] * (x.shape[1] - 1)).to(x)
    both = torch.stack([-(x - end).square().sum(1) / 2 for end in (ends, -ends)])
    return x.shape[1] / 2 * log(2 * pi) + log(2) - both.logsumexp(0)


def exact_of_two_modes(draws):
    x = torch.randn(draws, 2)
    x[:, 0] += 12 * torch.randint(2, (draws,)) - 6
    return x


class TestOneOfTwoModesSeen:
    """Truth 0. Chains from a base at one mode find minus log 2 with no error, and nothing shows what they missed."""

    base = dist.Normal(torch.tensor([-6.0, 0.0]), 1.0).to_event(1)
    energy = energy_of(two_modes, (2,))

    def test_chains_alone_cannot_know(self):
        torch.manual_seed(4)
        blind = AnnealedImportanceSampling(temperatures=50, wider=False)
        found = log_normalizer(self.energy, base=self.base, method=blind)
        assert found.value == pytest.approx(-log(2), abs=1e-3)
        assert found.standard_error < 1e-3
        assert found.label == "lower bound in expectation"  # and it is one
        assert found.upper is None

    def test_exact_draws_show_it(self):
        torch.manual_seed(4)
        with pytest.warns(UserWarning, match="do not meet"):
            found = log_normalizer(self.energy, base=self.base, exact_draws=exact_of_two_modes(100), method=FEW)
        assert found.lower.value == pytest.approx(-log(2), abs=1e-3)
        assert found.upper.value == pytest.approx(0.0, abs=4 * found.upper.standard_error)
        assert found.upper.standard_error > 0.05
        assert within(found, 0.0)
        assert 0.05 < found.standard_error < 0.2

    @pytest.mark.parametrize("method", METHODS)
    def test_a_wider_base_shows_it(self, method):
        torch.manual_seed(5)
        with pytest.warns(UserWarning, match="missed part of the energy"):
            found = log_normalizer(self.energy, base=self.base, method=method)
        assert within(found, 0.0)
        assert found.standard_error > 0.01

    def test_a_base_of_both_is_not_warned_of(self):
        torch.manual_seed(6)
        wide = dist.Normal(torch.zeros(2), 6.0).to_event(1)
        assert within(log_normalizer(self.energy, base=wide, method=FEW), 0.0)


@pytest.mark.slow
def test_coverage_of_stated_standard_errors():
    """Fifty repeats: .95 of them within two standard errors, with a standard error of .03."""
    torch.manual_seed(7)
    energy = energy_of(lambda x: (x - 1).square().sum(1), (2,))
    method = AnnealedImportanceSampling(temperatures=4, chains=100, wider=False)
    found = [log_normalizer(energy, method=method) for _ in range(50)]
    inside = sum(within(one, log(pi), errors=1.96) for one in found)
    assert 41 <= inside <= 50
    assert max(one.standard_error for one in found) > 0.02


def test_bounded_events_in_closed_form():
    """A beta distribution of the unit interval."""
    torch.manual_seed(8)
    energy = energy_of(lambda x: -(2 * x.log() + 3 * (1 - x).log()).sum(1), (2,), support=constraints.unit_interval)
    truth = 2 * float(
        torch.lgamma(torch.tensor(3.0)) + torch.lgamma(torch.tensor(4.0)) - torch.lgamma(torch.tensor(7.0))
    )
    assert within(log_normalizer(energy, method=FEW), truth)


def test_each_context_has_a_normalizer():
    torch.manual_seed(9)
    energy = energy_of(lambda x, c: (x / c.unsqueeze(1)).square().sum(1) / 2, (2,), ())
    for scale in (0.5, 2.0):
        found = log_normalizer(energy, context=torch.tensor(scale), method=FEW)
        assert within(found, log(2 * pi) + 2 * log(scale))
    with pytest.raises(ValueError, match=r"`context` must be a single one"):
        log_normalizer(energy, context=torch.ones(3))


def test_a_correction_of_a_flow():
    """An energy of a flow's density times a constant: exact from the flow, which is also where its chains begin."""
    torch.manual_seed(10)
    flow = pg.flows.affine_coupling((2,), layers=1, hidden=(8,))
    energy = energy_of(lambda x: torch.full((len(x),), 3.0), (2,), base=flow)
    for base in (None, flow, flow()):
        found = log_normalizer(energy, base=base, method=AnnealedImportanceSampling(temperatures=5, wider=False))
        assert found.value == pytest.approx(-3.0, abs=1e-3)


def formula_of_bits(x):
    weights = torch.linspace(-2, 2, 8 * 5, device=x.device).reshape(8, 5).sin() * 1.5
    return -(x.flatten(1).to(weights) @ weights).cos().sum(1)


def formula_of_symbols(x):
    return formula_of_bits(x.flatten(1)[:, :8]) - x.flatten(1)[:, 8:].sum(1) / 2


@pytest.mark.parametrize("method", METHODS)
def test_networks_of_bits_and_symbols_by_enumeration(method):
    torch.manual_seed(11)
    bits = energy_of(formula_of_bits, (2, 4), support=constraints.boolean)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 8).reshape(-1, 2, 4)
    truth = float(bits().log_prob(every).double().logsumexp(0))
    base = dist.Bernoulli(logits=torch.randn(2, 4)).to_event(2)
    assert within(log_normalizer(bits, base=base, method=method), truth)
    symbols = energy_of(formula_of_symbols, (4,), support=constraints.integer_interval(0, 2))
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    truth = float(symbols().log_prob(every).double().logsumexp(0))
    found = log_normalizer(symbols, method=method)
    assert within(found, truth)
    assert found.draws.shape[1:] == (4,)
    assert set(found.draws.unique().tolist()) == {0, 1, 2}


def test_draws_and_weights_are_of_the_energy():
    torch.manual_seed(12)
    energy = energy_of(lambda x: (x - 2).square().sum(1) / 2, (2,))
    found = log_normalizer(energy, method=AnnealedImportanceSampling(temperatures=50, chains=1000, wider=False))
    mean = (found.log_weights.softmax(0).unsqueeze(1) * found.draws).sum(0)
    assert torch.allclose(mean, torch.full((2,), 2.0).double(), atol=0.15)
    assert 20 < found.effective_sample_size <= 1000


def test_few_chains_that_carry_the_weight_are_warned_of():
    torch.manual_seed(13)
    energy = energy_of(lambda x: (x / 20).square().sum(1) / 2, (8,))
    with pytest.warns(UserWarning, match="worth"):
        log_normalizer(energy, method=AnnealedImportanceSampling(temperatures=4, wider=False))


def test_replicas_that_do_not_mix_are_warned_of():
    torch.manual_seed(14)
    energy = energy_of(lambda x: (x / 20).square().sum(1) / 2, (8,))
    with pytest.warns(UserWarning, match="have not mixed"):
        log_normalizer(energy, method=ParallelTempering(temperatures=1, sweeps=10, warmup=0, replicas=4, wider=False))


def test_energies_get_no_gradient_and_keep_their_mode():
    energy = pg.energy.mlp((2,), hidden=(8,))
    energy.train()
    log_normalizer(energy, method=AnnealedImportanceSampling(temperatures=3, wider=False))
    assert energy.training
    assert all(parameter.grad is None for parameter in energy.parameters())


def test_double_precision():
    energy = energy_of(lambda x: x.square().sum(1) / 2, (2,)).double()
    found = log_normalizer(energy, method=AnnealedImportanceSampling(temperatures=3))
    assert found.value == pytest.approx(log(2 * pi), abs=1e-9)
    assert found.draws.dtype == torch.double


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"base": dist.Normal(0.0, 1.0)}, ValueError, r"`base` must have an empty batch shape and events"),
        ({"base": dist.Normal(torch.zeros(5, 2), 1.0).to_event(1)}, ValueError, r"empty batch shape"),
        ({"base": dist.Poisson(torch.ones(2)).to_event(1)}, ValueError, r"`base` must have real events"),
        ({"base": pg.energy.mlp((2,), hidden=(8,))}, NotImplementedError, r"`base` must have an exact density"),
        ({"base": 3.0}, TypeError, r"`base` must be a DistributionModule or a distribution"),
        ({"exact_draws": torch.zeros(2)}, ValueError, r"`exact_draws` must have shape \(n, 2\)"),
        ({"exact_draws": torch.zeros(1, 2)}, ValueError, r"`exact_draws` must have shape \(n, 2\)"),
        ({"exact_draws": torch.zeros(4, 2), "method": ParallelTempering()}, NotImplementedError, r"no bracket"),
        ({"context": torch.zeros(())}, ValueError, r"`context` must be None"),
        ({"method": 500}, TypeError, r"`method` must be a NormalizerMethod"),
    ],
)
def test_mistakes_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        log_normalizer(energy_of(lambda x: x.square().sum(1), (2,)), **settings)


def test_mistakes_in_methods_are_named():
    with pytest.raises(ValueError, match="`temperatures` must rise from 0 to 1"):
        AnnealedImportanceSampling(temperatures=torch.tensor([0.1, 1.0]))
    with pytest.raises(ValueError, match="`chains` must be at least 2"):
        AnnealedImportanceSampling(chains=1)
    with pytest.raises(ValueError, match="`replicas` must be at least 2"):
        ParallelTempering(replicas=1)
    with pytest.raises(TypeError, match="`energy` must be a EnergyModule"):
        log_normalizer(dist.Normal(0.0, 1.0))
    bits = energy_of(formula_of_bits, (8,), support=constraints.boolean)
    with pytest.raises(NotImplementedError, match="independent elements"):
        log_normalizer(bits, base=pg.autoregressive.made((8,), symbols=2))


@pytest.mark.parametrize("slope", [lambda x: 0.1 * x.square(), lambda x: x])
def test_energies_without_a_normalizer_are_an_error(slope):
    """Annealed, they run away where the base no longer holds them."""

    class Falling(nn.Module):
        def forward(self, x):
            return -slope(x).sum(1)

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="has no normalizer"):
        log_normalizer(Energy(Falling(), (2,)))


def test_energies_that_are_no_numbers_are_an_error():
    with pytest.raises(FloatingPointError, match="rows of"):
        log_normalizer(energy_of(lambda x: x.sum(1) * torch.nan, (2,)))
