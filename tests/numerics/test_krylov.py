"""Large symmetric matrices by their products: against dense ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrogen.numerics.krylov import apply, conjugate_gradients, largest_eigenvalue, quadrature


def matrix(size, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, rank, generator=generator, dtype=torch.double)
    return factor @ factor.T / rank


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([(), (3,), (2, 2)]), st.integers(0, 9))
def test_solutions_and_quadratic_forms(size, rank, batch, seed):
    dense = matrix(size, rank, seed)
    right = torch.randn(*batch, size, dtype=torch.double)
    shifted = dense + 0.5 * torch.eye(size, dtype=torch.double)
    solved = conjugate_gradients(lambda v: v @ shifted, right, tolerance=1e-10)
    torch.testing.assert_close(solved, right @ shifted.inverse(), atol=1e-7, rtol=1e-7)
    *_, (nodes, weights) = quadrature(lambda v: v @ dense, right, size + 3)
    for function in (lambda v: 1 / (0.5 + v), lambda v: v, torch.ones_like):
        values, vectors = torch.linalg.eigh(dense)
        exact = ((right @ vectors).square() * function(values)).sum(-1)
        torch.testing.assert_close((weights * function(nodes.clamp_min(0))).sum(-1), exact, atol=1e-7, rtol=1e-7)


def test_each_row_stops_where_it_is_solved_and_a_bad_row_spoils_no_other():
    dense = matrix(20, 30) + torch.eye(20, dtype=torch.double)
    right = torch.randn(4, 20, dtype=torch.double)
    right[1], right[2] = 0.0, math.nan
    solved = conjugate_gradients(lambda v: v @ dense, right, tolerance=1e-12)
    assert solved[2].isnan().all()
    torch.testing.assert_close(solved[[0, 1, 3]], right[[0, 1, 3]] @ dense.inverse())


def test_what_does_not_converge_is_an_error():
    steep = torch.logspace(-12, 0, 200, dtype=torch.double)
    with pytest.raises(RuntimeError, match="did not converge in 20 steps"):
        conjugate_gradients(lambda v: steep * v, torch.ones(200, dtype=torch.double), steps=20)
    with pytest.raises(RuntimeError, match="too steep"):
        apply(lambda v: (v + 1e-9).sqrt(), lambda v: v, torch.ones(3), largest=1.0, steps=50)
    with pytest.raises(RuntimeError, match="did not converge"):
        largest_eigenvalue(lambda v: steep * v, torch.ones(200, dtype=torch.double), steps=4)


def test_quadratures_in_single_precision_and_after_loss_of_orthogonality():
    """More steps than directions: copies of an eigenvalue share its weight."""
    values = torch.logspace(-3, 2, 60, dtype=torch.double)
    vector = torch.randn(5, 60, dtype=torch.double)
    exact = (vector.square() / (0.01 + values)).sum(-1)
    for cast, tolerance in ((torch.double, 1e-6), (torch.float, 3e-3)):
        *_, (nodes, weights) = quadrature(lambda v, c=cast: values.to(c) * v, vector.to(cast), 150)
        torch.testing.assert_close((weights / (0.01 + nodes)).sum(-1).double(), exact, rtol=tolerance, atol=0)


@pytest.mark.parametrize("size", [1, 2, 7, 80])
def test_the_largest_eigenvalue(size):
    dense = matrix(size, 3 * size)
    top = largest_eigenvalue(lambda v: dense @ v, torch.randn(size, dtype=torch.double))
    assert top == pytest.approx(torch.linalg.matrix_norm(dense, 2).item(), rel=1e-8)
    assert largest_eigenvalue(lambda v: 0 * v, torch.randn(size, dtype=torch.double)) == 0.0


def test_functions_of_a_matrix():
    dense, vector = matrix(30, 40), torch.randn(2, 30, dtype=torch.double)
    values, vectors = torch.linalg.eigh(dense)
    top = values.max().item()
    root = apply(lambda v: (2 * top - v).sqrt(), lambda v: v @ dense, vector, largest=top)
    torch.testing.assert_close(
        root, vector @ vectors @ (2 * top - values).sqrt().diag() @ vectors.T, atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(apply(torch.ones_like, lambda v: v @ dense, vector, largest=top), vector)
