"""Products of experts against the products of densities that they are."""

import pyro.distributions as dist
import pytest
import torch
from small_energies import gaussian
from torch.distributions import constraints

import pyrogen as pg
from pyrogen import energy
from pyrogen.numerics.supports import is_same


class Normal(pg.DistributionModule):
    def __init__(self, mean, scale, density="exact"):
        super().__init__((2,))
        self.density = density
        self.register_buffer("mean", torch.tensor(mean))
        self.scale = scale

    def forward(self, context=None):
        return dist.Normal(self.mean, self.scale).to_event(1)


def test_a_product_of_normals_is_the_normal_between_them():
    torch.manual_seed(0)
    one, other = Normal([2.0, 0.0], 1.0), Normal([0.0, -3.0], 0.5)
    product = energy.Product([one, gaussian(2), other], weights=[1.0, 2.0, 0.5])
    precision = 1 + 2 + 0.5 * 4
    mean = (torch.tensor([2.0, 0.0]) + 0.5 * 4 * torch.tensor([0.0, -3.0])) / precision
    truth = dist.Normal(mean, precision**-0.5).to_event(1)
    x = torch.randn(50, 2)
    difference = product().log_prob(x) - truth.log_prob(x)
    assert difference.std() < 1e-4
    draws = product().sample((10_000,))
    assert torch.allclose(draws.mean(0), mean, atol=0.03)
    assert torch.allclose(draws.std(0), torch.tensor(precision**-0.5), rtol=0.05)


def test_experts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'lower bound' at 1"):
        energy.Product([gaussian(2), Normal([0.0, 0.0], 1.0, "lower bound")])
    with pytest.raises(ValueError, match=r"\(3,\)"):
        energy.Product([gaussian(2), gaussian(3)])
    with pytest.raises(ValueError, match="support"):
        energy.Product([gaussian(2), energy.mlp((2,), symbols=2, hidden=(4,))])
    for weights in ([1.0, 2.0], [float("nan")]):
        with pytest.raises(ValueError, match="`weights`"):
            energy.Product([gaussian(2)], weights=weights)
    with pytest.raises(TypeError, match="`experts`"):
        energy.Product([])


def within(low, high):
    return pg.flows.spline_coupling((2,), layers=1, hidden=(4,), interval=(low, high))


def of_bounds(low, high):
    return energy.mlp((2,), hidden=(4,), interval=(low, high))


@pytest.mark.parametrize(
    "experts",
    [
        [of_bounds(0, 1), of_bounds(-5, 5)],
        [gaussian(2), of_bounds(0, 1)],
        [gaussian(2), within(0, 1)],
        [within(0, 1), pg.flows.affine_coupling((2,), layers=1)],
        [gaussian(2), pg.autoregressive.made((2,), symbols=3, hidden=(4,))],
    ],
)
def test_experts_of_different_supports_are_refused(experts):
    with pytest.raises(ValueError, match="support"):
        energy.Product(experts)


def test_supports_with_contexts_are_known_when_there_is_one():
    flow = pg.flows.spline_coupling((2,), (1,), layers=1, hidden=(4,), interval=(0, 1))
    product = energy.Product([energy.mlp((2,), (1,), hidden=(4,)), flow])
    with pytest.raises(ValueError, match="`experts` must have events in the support"):
        product(torch.zeros(1)).log_prob(torch.zeros(2))
    based = energy.Energy(energy.mlp((2,), (1,)).network, (2,), (1,), base=flow)
    with pytest.raises(ValueError, match="`base` must have events in the support"):
        based(torch.zeros(1)).log_prob(torch.zeros(2))


def test_a_base_lies_where_the_energy_does():
    network = energy.mlp((2,), hidden=(4,)).network
    with pytest.raises(ValueError, match="`base` must have events in the support"):
        energy.Energy(network, (2,), base=within(0, 1))
    module = energy.Energy(network, (2,), base=within(0, 1), support=constraints.unit_interval)
    x = module().sample((5,))
    assert ((x > 0) & (x < 1)).all()


def test_the_support_of_a_product_is_that_of_its_parts():
    assert is_same(energy.tempered(within(0, 1), 0.5)().support, of_bounds(0, 1)().support)


def test_a_tempered_autoregressive_model_of_symbols():
    torch.manual_seed(0)
    module = pg.autoregressive.made((2,), symbols=3, hidden=(8,))
    states = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    expected = (module().log_prob(states) / 0.5).softmax(0)
    cold = energy.tempered(module, 0.5)
    assert torch.allclose(cold().log_prob(states).softmax(0), expected)
    draws = cold().sample((4000,))
    shares = torch.bincount(3 * draws[:, 0] + draws[:, 1], minlength=9) / 4000
    assert ((shares - expected).square() / expected).sum() * 4000 < 30  # of 8 degrees of freedom


@pytest.mark.slow
def test_contract_of_a_product():
    def make():
        parts = [energy.mlp((2,), (1,), hidden=(8,)), pg.flows.affine_coupling((2,), layers=1, hidden=(8,))]
        module = energy.Product(parts)
        module.chains.steps = 80
        return module

    checks = ["declaration", "batch_invariance", "bad_row", "vmap", "samples_follow_log_prob", "state_dict", "nuts"]
    report = pg.testing.check_distribution(make, event_shape=(2,), context=torch.randn(3, 1), only=checks)
    report.raise_if_failed()
