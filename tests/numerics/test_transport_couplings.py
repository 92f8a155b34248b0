"""Couplings against enumeration and their marginals."""

from itertools import permutations

import pytest
import torch

from pyrogen.numerics.transport import IndependentCoupling, OptimalTransport, assignment, sinkhorn


def test_the_assignment_is_the_cheapest_of_all():
    torch.manual_seed(0)
    cost = torch.rand(6, 6)
    cheapest = min(sum(cost[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    columns = assignment(cost)
    assert sorted(columns.tolist()) == list(range(6))
    assert cost[torch.arange(6), columns].sum().item() == pytest.approx(cheapest.item(), rel=1e-6)


def test_sinkhorn_keeps_its_marginals_and_nears_the_assignment():
    torch.manual_seed(0)
    cost = torch.rand(6, 6, dtype=torch.float64)
    plan = sinkhorn(cost, temperature=0.005, iterations=5000).exp()
    assert (plan.sum(1) * 6 - 1).abs().max() < 1e-6
    assert (plan.sum(0) * 6 - 1).abs().max() < 2e-3
    exact = cost[torch.arange(6), assignment(cost)].mean()
    assert exact - 1e-3 < (plan * cost).sum() < exact + 0.02


def test_sinkhorn_satisfies_the_equations_of_two_states():
    temperature = 0.7
    plan = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64), temperature=temperature).exp()
    assert (plan[0, 0] / plan[0, 1]).log().item() == pytest.approx(1 / temperature, rel=1e-6)


@pytest.mark.parametrize("regularization", [None, 0.05])
def test_optimal_pairs_are_closer_than_independent_ones(regularization):
    torch.manual_seed(0)
    x, noise = torch.randn(200, 2), torch.randn(200, 2)
    coupled = OptimalTransport(regularization)(x, noise)
    assert IndependentCoupling()(x, noise) is noise
    assert (x - coupled).square().sum(-1).mean() < 0.3 * (x - noise).square().sum(-1).mean()
    if regularization is None:
        assert torch.equal(coupled.sort(0).values, noise.sort(0).values)
    with pytest.raises(ValueError, match="`regularization` must be positive"):
        OptimalTransport(0.0)
