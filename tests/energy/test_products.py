"""Products of experts against the products of densities that they are."""

import pyro.distributions as dist
import pytest
import torch
from small_energies import gaussian

import pyrogen as pg
from pyrogen import energy


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
    with pytest.raises(ValueError, match="`weights`"):
        energy.Product([gaussian(2)], weights=[1.0, 2.0])
    with pytest.raises(TypeError, match="`experts`"):
        energy.Product([])


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
