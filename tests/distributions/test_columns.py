"""Rows of mixed columns: the sum of their parts, in the order of the table."""

import math
import pickle

import pytest
import torch

import pyrogen as pg
from pyrogen.distributions import Incomplete, families
from pyrogen.distributions.abilities import log_prob_by_element
from pyrogen.distributions.columns import ColumnsDistribution
from pyrogen.numerics.supports import point_inside
from pyrogen.testing import check_distribution

LABELS = families.categorical(3)
KINDS = (LABELS, families.diagonal_normal, families.poisson, families.diagonal_normal, families.bernoulli, LABELS)
FAMILY = families.columns(KINDS)


def rows(*batch):
    return FAMILY(torch.randn(*batch, *FAMILY.numbers_shape((6,))), 1)


def test_a_row_is_the_sum_of_its_columns_in_the_order_of_the_table():
    torch.manual_seed(0)
    numbers = torch.randn(5, *FAMILY.numbers_shape((6,)))
    distribution = FAMILY(numbers, 1)
    x = distribution.sample()
    assert numbers.shape == (5, 12)
    labels, normals, counts, binary = numbers.split([6, 4, 1, 1], -1)
    expected = torch.zeros(5, 6)
    expected[:, [0, 5]] = LABELS(labels.reshape(5, 3, 2), 1).base_dist.log_prob(x[:, [0, 5]])
    loc, log_scale = normals.reshape(5, 2, 2).unbind(1)
    scale = families.positive(log_scale)
    expected[:, [1, 3]] = torch.distributions.Normal(loc, scale).log_prob(x[:, [1, 3]])
    expected[:, 2] = torch.distributions.Poisson(families.positive(counts[:, 0])).log_prob(x[:, 2])
    expected[:, 4] = torch.distributions.Bernoulli(logits=binary[:, 0]).log_prob(x[:, 4])
    assert torch.allclose(distribution.log_prob_by_element(x), expected, atol=1e-6)
    assert torch.allclose(distribution.log_prob(x), expected.sum(-1), atol=1e-5)
    assert torch.allclose(distribution.mean[:, [1, 3]], loc)
    assert torch.allclose(distribution.variance[:, [1, 3]], scale.square())


def test_draws_have_the_kind_of_their_column():
    torch.manual_seed(1)
    x = rows(500).sample((3,))
    assert x.shape == (3, 500, 6)
    assert set(x[..., [0, 5]].unique().tolist()) == {0, 1, 2}
    assert set(x[..., 4].unique().tolist()) == {0, 1}
    assert torch.equal(x[..., 2], x[..., 2].floor())
    assert not torch.equal(x[..., [1, 3]], x[..., [1, 3]].floor())
    assert rows(4).expand((2, 4)).sample().shape == (2, 4, 6)


def test_one_bad_entry_spoils_no_other_column_or_gradient():
    numbers = torch.randn(4, 12, requires_grad=True)
    distribution = FAMILY(numbers, 1)
    x = distribution.sample()
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(torch.full((4, 6), 0.5))
    spoiled = x.clone()
    spoiled[1] = math.nan
    scores = distribution.log_prob_by_element(spoiled)
    assert scores[1].isnan().all()
    (gradient,) = torch.autograd.grad(scores[[0, 2, 3]].sum(), numbers)
    assert gradient.isfinite().all()


def test_contract():
    check_distribution(
        lambda: pg.Parametric(torch.nn.Linear(2, 12), FAMILY, event_shape=(6,), context_shape=(2,)),
        event_shape=(6,),
        context=torch.randn(4, 2),
    ).raise_if_failed()


def test_contract_of_real_columns():
    family = families.columns([families.diagonal_normal, families.laplace])
    check_distribution(
        lambda: pg.Parametric(torch.nn.Linear(2, 4), family, event_shape=(2,), context_shape=(2,)),
        event_shape=(2,),
        context=torch.randn(4, 2),
    ).raise_if_failed()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`event_shape` must be \(6,\), one element a column, got \(5,\)"):
        FAMILY.numbers_shape((5,))
    with pytest.raises(ValueError, match="name each column once"):
        ColumnsDistribution([([0, 0], families.poisson(torch.zeros(1, 2), 0))])


def test_the_family_pickles():
    again = pickle.loads(pickle.dumps(FAMILY))
    numbers = torch.randn(3, 12)
    x = FAMILY(numbers, 1).sample()
    assert torch.allclose(again(numbers, 1).log_prob(x), FAMILY(numbers, 1).log_prob(x))


ELEMENTWISE = (families.diagonal_normal, families.bernoulli, families.discretized_logistic(4), families.gamma)


@pytest.mark.parametrize("family", ELEMENTWISE)
@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
def test_what_is_missing_leaves_the_sum(family, event):
    torch.manual_seed(2)
    base = family(torch.randn(5, *family.numbers_shape(event)), len(event))
    x = base.sample()
    parts = log_prob_by_element(base, x)
    assert parts.shape == (5, *event)
    missing = torch.rand(5, *event) < 0.4
    distribution = Incomplete(base)
    expected = torch.where(missing, 0.0, parts).reshape(5, -1).sum(-1)
    assert torch.allclose(distribution.log_prob(torch.where(missing, math.nan, x)), expected, atol=1e-5)
    assert torch.allclose(distribution.log_prob(x), base.log_prob(x), atol=1e-5)
    completed, weight = distribution.complete(torch.where(missing, math.nan, x))
    assert torch.equal(completed[~missing], x[~missing])
    assert base.support.check(completed).all()
    assert torch.allclose(weight, expected, atol=1e-5)


def test_points_inside_lie_inside():
    for family in (*ELEMENTWISE, families.beta, families.continuous_bernoulli, families.poisson):
        base = family(torch.randn(5, *family.numbers_shape((3,))), 1)
        assert base.support.check(point_inside(base.support, torch.zeros(5, 3))).all()
    assert rows(4).support.check(point_inside(rows(4).support, torch.zeros(4, 6))).all()
