"""Determinants, and Gaussian conditioning in units of noise: repairs, singular covariances, missing numbers."""

import pytest
import torch
from torch.func import hessian, jacfwd, jacrev, vmap

from pyrogen.numerics.linear import (
    krylov_solve,
    log_abs_det,
    matvec,
    solve,
    solved,
    white_log_density,
    whitening,
)


def test_negative_directions_count_as_zero():
    bad = torch.stack([torch.diag(torch.tensor([3.0, -1.0])), torch.eye(2)])
    factor = whitening(bad)
    expected = torch.stack([torch.diag(torch.tensor([4.0, 1.0])), 2 * torch.eye(2)]).double()
    torch.testing.assert_close(factor @ factor.mT, expected)
    residual = torch.randn(2, 2, dtype=torch.double)
    exact = torch.distributions.MultivariateNormal(residual.new_zeros(2), expected).log_prob(residual)
    found = white_log_density(residual, factor) - torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(matvec(expected, solve(factor, residual)), residual)


def test_a_huge_singular_covariance_is_factorized():
    torch.manual_seed(0)
    for scale in (1e4, 1e8, 1e16):
        operator = scale**0.5 * torch.randn(3, 6, 2)  # six numbers of two unknowns, in single precision
        factor = whitening(operator @ operator.mT)
        assert factor.isfinite().all()
        assert (factor.diagonal(dim1=-2, dim2=-1) > 0).all()
        assert (torch.linalg.svdvals(factor)[..., -1] > 0.9 if scale < 1e10 else torch.tensor(True)).all()


def test_one_matrix_of_missing_numbers_leaves_the_others_alone():
    covariance = torch.stack([torch.eye(2), torch.full((2, 2), torch.nan), torch.diag(torch.tensor([1.0, -3.0]))])
    factor = whitening(covariance)
    assert factor[1].isnan().all()
    torch.testing.assert_close(factor[0], 2**0.5 * torch.eye(2).double())
    torch.testing.assert_close(factor[2], torch.diag(torch.tensor([2**0.5, 1.0])).double())


def test_one_matrix_serves_many_vectors():
    torch.manual_seed(0)
    root = torch.randn(1, 2, 4, 4)
    factor, vectors = whitening(root @ root.mT), torch.randn(5, 2, 4).double()
    copied = factor.expand(5, 2, 4, 4)
    torch.testing.assert_close(solve(factor, vectors), solve(copied, vectors))
    torch.testing.assert_close(white_log_density(vectors, factor), white_log_density(vectors, copied))


def test_krylov_solutions_are_exact_with_as_many_passes_as_numbers_and_near_before():
    torch.manual_seed(0)
    root = torch.randn(3, 12, 12, dtype=torch.double)
    covariance = root @ root.mT * torch.tensor([1.0, 100.0, 1e6]).double()[:, None, None]
    right = torch.randn(3, 12)
    exact = torch.linalg.solve(torch.eye(12) + covariance, right.double())

    def error(passes):
        found = krylov_solve(lambda vector: matvec(covariance, vector), right, passes)
        return ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max()

    assert error(12) < 1e-5
    assert error(3) > 1e-2
    few = torch.eye(12).double()[:, :2]  # two directions that differ from the identity: two passes and one more
    found = krylov_solve(lambda vector: 5.0 * vector @ few @ few.mT, right, 2)
    assert torch.allclose(found, right.double() / (1 + 5.0 * few.square().sum(1)), atol=1e-12)
    assert (krylov_solve(lambda vector: -2.0 * vector, right, 12) - right).abs().max() < 1e-6  # counts as zero
    assert (krylov_solve(lambda vector: vector, torch.zeros(2, 4), 4) == 0).all()


def general(x):
    return torch.eye(3).double() + torch.outer(x, x) + 0.1 * torch.arange(9.0).reshape(3, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of torch itself
@pytest.mark.parametrize(
    "function",
    [lambda x: log_abs_det(general(x)), lambda x: solved(general(x), x[:, None]).square().sum()],
    ids=["log_abs_det", "solved"],
)
def test_derivatives_of_each_matrix_under_nested_maps(function):
    """Those of torch's `slogdet` and `solve` in forward mode are of the first matrix for all."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.double)
    slopes = torch.stack([torch.autograd.functional.jacobian(function, row) for row in x])
    curvatures = torch.stack([torch.autograd.functional.hessian(function, row) for row in x])
    for kind in (jacrev, jacfwd):
        torch.testing.assert_close(vmap(kind(function))(x), slopes)
    torch.testing.assert_close(vmap(hessian(function))(x), curvatures)


def test_determinants_and_solutions_are_those_of_torch():
    torch.manual_seed(0)
    matrix, right = torch.randn(5, 4, 4), torch.randn(5, 4, 2)
    torch.testing.assert_close(log_abs_det(matrix), torch.linalg.slogdet(matrix).logabsdet)
    torch.testing.assert_close(solved(matrix, right), torch.linalg.solve(matrix, right))
    assert log_abs_det(torch.zeros(2, 2)) == -torch.inf
    matrix[0, 0, 0] = torch.nan
    assert log_abs_det(matrix).isnan().tolist() == [True, *[False] * 4]
