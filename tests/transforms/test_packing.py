"""Vectors strung together of parts, each in a support of its own."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, constraints

from pyrogen.numerics.supports import OpenInterval, Packed, is_same, opened, point_inside
from pyrogen.transforms.packed import Packing
from pyrogen.transforms.triangular import LowerCholesky, PositiveDefinite

PARTS = {
    "real": ((2,), constraints.real),
    "positive": ((), constraints.positive),
    "interval": ((3,), OpenInterval(torch.tensor([0.0, -1.0, 2.0]), torch.tensor([1.0, 5.0, 2.5]))),
    "simplex": ((2, 3), constraints.simplex),
    "corr_cholesky": ((3, 3), constraints.corr_cholesky),
    "lower_cholesky": ((2, 2), constraints.lower_cholesky),
    "positive_definite": ((2, 2), constraints.positive_definite),
    "ordered": ((3,), dist.constraints.ordered_vector),
    "corr_matrix": ((3, 3), dist.constraints.corr_matrix),
    "below": ((2,), constraints.independent(constraints.less_than(3.0), 1)),
}
REALS = {"simplex": 4, "corr_cholesky": 3, "lower_cholesky": 3, "positive_definite": 3, "corr_matrix": 3}


@pytest.mark.parametrize("names", [[name] for name in PARTS] + [list(PARTS)])
def test_goes_to_the_support_and_back(names):
    support = Packed([PARTS[name] for name in names])
    transform = Packing(support)
    reals = sum(REALS.get(name, math.prod(PARTS[name][0])) for name in names)
    assert transform.inverse_shape(torch.Size((5, sum(support.sizes)))) == (5, reals)
    x = torch.randn(4, 5, reals, dtype=torch.double)
    y, log_det = transform.forward_and_log_det(x)
    assert y.shape == (4, 5, sum(support.sizes))
    assert log_det.shape == (4, 5)
    assert support.check(y).all()
    back, inverse_log_det = transform.inverse_and_log_det(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_log_det, -log_det)
    assert transform.forward_and_log_det(x[:0])[1].shape == (0, 5)


@pytest.mark.parametrize(
    ("name", "prior"),
    [
        ("positive", dist.Gamma(torch.tensor(2.0).double(), 1.5)),
        ("simplex", dist.Dirichlet(torch.tensor([2.0, 3.0, 1.5]).double())),
        ("ordered", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)),
        ("corr_cholesky", dist.LKJCholesky(3, torch.tensor(1.5).double())),
        ("corr_matrix", dist.LKJ(3, torch.tensor(1.5).double())),
        ("positive_definite", torch.distributions.Wishart(torch.tensor(5.0).double(), torch.eye(2).double())),
    ],
)
def test_the_density_has_the_measure_of_pyros_own_distributions(name, prior):
    """A density of Pyro's, in the unconstrained numbers and with the log-determinant, integrates to one.

    By quadrature, since the sampler of torch's ``LKJCholesky`` does not follow its density.
    """
    shape, constraint = ((3,), constraints.simplex) if name == "simplex" else PARTS[name]
    transform = Packing(Packed([(shape, constraint)]))
    numbers = transform.inverse_shape(torch.Size((math.prod(shape),)))[0]
    axis = torch.linspace(-8, 8, {1: 401, 2: 201, 3: 65}[numbers], dtype=torch.double)
    reals = torch.cartesian_prod(*[axis] * numbers).reshape(-1, numbers)
    values, log_det = transform.forward_and_log_det(reals)
    score = prior.log_prob(values.reshape(-1, *shape)) + log_det
    total = (score.logsumexp(0) + numbers * (axis[1] - axis[0]).log()).exp()
    expected = 1 / 6 if name == "ordered" else 1  # one of the orders of three normal numbers
    assert total.item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("transform", [LowerCholesky(3), PositiveDefinite(3)])
def test_log_determinants_of_matrices_are_those_of_their_lower_entries(transform):
    x = torch.randn(6, dtype=torch.double)
    rows, columns = torch.tril_indices(3, 3)
    jacobian = torch.autograd.functional.jacobian(lambda u: transform(u)[rows, columns], x)
    torch.testing.assert_close(transform.forward_and_log_det(x)[1], jacobian.slogdet()[1])


def test_elements_never_reach_an_end():
    transform = Packing(Packed([PARTS["positive"], PARTS["interval"], PARTS["below"]]))
    for size in (1e2, 1e4):
        values = transform(torch.tensor([[-size] * 6, [size] * 6]))
        assert transform.support.check(values).all()
        assert values.isfinite().all()


def test_pyro_finds_the_bijection():
    support = Packed([PARTS["simplex"], PARTS["positive"]])
    assert biject_to(support)(torch.zeros(2, 5)).shape == (2, 7)
    assert support.check(point_inside(support, torch.zeros(4, 7))).all()


def test_discrete_parts_are_checked_and_have_no_bijection():
    support = Packed([((), constraints.boolean), ((2,), constraints.nonnegative_integer), PARTS["positive"]])
    assert support.is_discrete
    inside = torch.tensor([[1.0, 4.0, 0.0, 0.5], [2.0, 4.0, 0.0, 0.5], [1.0, 4.5, 0.0, 0.5], [1.0, 4.0, 0.0, -0.5]])
    assert support.check(inside).tolist() == [True, False, False, False]
    assert support.check(point_inside(support, inside)).all()
    with pytest.raises(NotImplementedError):
        biject_to(support)


def test_an_unknown_support_is_refused():
    with pytest.raises(NotImplementedError):
        Packing(Packed([((3,), dist.constraints.sphere)]))


def test_opened_intervals_have_no_ends():
    assert is_same(opened(constraints.unit_interval), OpenInterval(0.0, 1.0))
    assert not opened(constraints.unit_interval).check(torch.tensor([0.0, 1.0])).any()
    assert opened(constraints.nonnegative).check(torch.tensor([0.0, 1.0])).tolist() == [False, True]
    assert opened(constraints.positive) is constraints.positive
    assert opened(constraints.boolean) is constraints.boolean
    same = opened(constraints.interval(torch.zeros(3), torch.ones(3)))
    assert (same.lower_bound, same.upper_bound) == (0.0, 1.0)
