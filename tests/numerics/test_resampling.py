"""Resampling: right on average, small in spread, and the conditional law is that of the unconditional one."""

import torch

from pyrogen.numerics.resampling import (
    conditional_systematic,
    effective_sample_size,
    normalized,
    order,
    systematic,
    take,
)


def counts(chosen, particles):
    return torch.stack([(chosen == index).sum(0) for index in range(particles)])


def test_systematic_counts_are_the_expected_number_rounded():
    torch.manual_seed(0)
    log_weights = torch.randn(50, 7)
    found = counts(systematic(log_weights), 50)
    expected = 50 * log_weights.softmax(0)
    assert ((found >= expected.floor()) & (found <= expected.ceil())).all()
    average = torch.stack([counts(systematic(log_weights), 50).double() for _ in range(2000)]).mean(0)
    assert ((average - expected).abs() < 5 * 0.5 / 2000**0.5).all()


def test_systematic_makes_as_many_copies_as_are_wanted():
    torch.manual_seed(0)
    log_weights = torch.randn(50, 7)
    for count in (8, 120):
        found, expected = counts(systematic(log_weights, count=count), 50), count * log_weights.softmax(0)
        assert found.sum(0).eq(count).all()
        assert ((found >= expected.floor()) & (found <= expected.ceil())).all()


def test_conditional_systematic_is_systematic_given_its_first_copy():
    # Given a rotation of systematic resampling whose first copy is of the first particle, counts of all particles are
    # weighed by the count of the first: brute force from unconditional draws.
    torch.manual_seed(1)
    for first in (0.5, 0.15, 0.27):
        weights = torch.cat([torch.tensor([first]), torch.tensor([0.3, 0.5, 0.2]) * (1 - first)])
        log_weights = weights.log().unsqueeze(-1).expand(4, 40_000)
        free = counts(systematic(log_weights), 4).double()
        expected = (free * free[0]).sum(-1) / free[0].sum()
        chosen = conditional_systematic(log_weights)
        assert (chosen[0] == 0).all()
        found = counts(chosen, 4).double().mean(-1)
        assert ((found - expected).abs() < 5 / 40_000**0.5).all()


def test_effective_sample_size():
    log_weights = torch.tensor([[0.0, 0.0], [0.0, -torch.inf], [0.0, -torch.inf], [0.0, -torch.inf]])
    torch.testing.assert_close(effective_sample_size(log_weights), torch.tensor([4.0, 1.0]))
    assert systematic(torch.full((5,), -torch.inf)).tolist() == [0, 1, 2, 3, 4]


def test_order_puts_clusters_side_by_side():
    torch.manual_seed(2)
    cluster = torch.randint(4, (200,))
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 11.0], [10.0, 12.0]])[cluster] + 0.1 * torch.randn(200, 2)
    along = order(points.unsqueeze(1)).squeeze(1)
    assert (cluster[along][1:] != cluster[along][:-1]).sum() <= 6
    assert sorted(along.tolist()) == list(range(200))


def test_take_follows_each_column():
    values = torch.arange(12.0).reshape(3, 2, 2)
    chosen = torch.tensor([[2, 0], [2, 1]])
    torch.testing.assert_close(take(values, chosen), torch.stack([values[[2, 2], 0], values[[0, 1], 1]], 1))


def test_a_dead_cloud_is_worth_nothing():
    dead = [torch.full((5,), -torch.inf), torch.tensor([0.0, torch.nan, 0.0]), torch.tensor([0.0, torch.inf])]
    assert [effective_sample_size(log_weights).item() for log_weights in dead] == [0, 0, 0]
    clouds = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf], [-torch.inf, -torch.inf]])
    torch.testing.assert_close(effective_sample_size(clouds), torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(normalized(clouds), torch.tensor([[0.5, 1 / 3], [0.5, 1 / 3], [0.0, 1 / 3]]))
    for scheme in (systematic, conditional_systematic):
        assert set(scheme(clouds)[:, 0].tolist()) <= {0, 1}
    assert sorted(systematic(clouds)[:, 1].tolist()) == [0, 1, 2]
