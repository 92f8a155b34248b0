"""Spectra of operators: Gaussian measurements against dense covariances."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyrogen import operators
from pyrogen.operators import ExactSpectrum, KrylovSpectrum, Linear, LinearMap, Matrix

DOUBLE = torch.double
SHAPE = (2, 6, 4)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


OPERATORS = {
    "mask": lambda: operators.Mask(random(*SHAPE) > 0.3),
    "few numbers": lambda: Matrix(random(7, 48), SHAPE),
    "more numbers than unknowns": lambda: Matrix(random(60, 48), SHAPE),
    "rank one": lambda: Matrix(random(7, 1) * random(1, 48), SHAPE),
    "nothing": lambda: Matrix(torch.zeros(3, 48, dtype=DOUBLE), SHAPE),
    "box": lambda: operators.box_downsampling(SHAPE, 2),
    "bicubic": lambda: operators.bicubic_downsampling(SHAPE, 2),
    "blur": lambda: operators.gaussian_blur(SHAPE, 0.7),
    "convolution": lambda: operators.Convolution(SHAPE, random(3, 3)),
    "grey": lambda: operators.Grey((3, 4, 4)),
    "radon": lambda: operators.Radon(SHAPE, torch.arange(3.0, dtype=DOUBLE), detectors=5),
    "composed": lambda: operators.Mask(random(2, 3, 2) > 0) @ operators.bicubic_downsampling(SHAPE, 2),
    "function": lambda: LinearMap(lambda x: x.sum(0).diff(dim=-1), SHAPE),
    "number": lambda: LinearMap(lambda x: x.sum(), SHAPE),
}


def matrix_of(operator: Linear) -> torch.Tensor:
    size = math.prod(operator.shape)
    return operator(torch.eye(size, dtype=DOUBLE).reshape(size, *operator.shape)).reshape(size, -1).T


@pytest.mark.parametrize("krylov", [False, True], ids=["exact", "krylov"])
@pytest.mark.parametrize("name", OPERATORS)
def test_gaussian_measurements(name, krylov):
    operator = OPERATORS[name]()
    spectrum = KrylovSpectrum(operator, steps=80, tolerance=1e-9) if krylov else operator.spectrum()
    assert isinstance(spectrum, KrylovSpectrum if krylov else ExactSpectrum)
    dense, norm = matrix_of(operator), operator.norm()
    assert norm == pytest.approx(torch.linalg.matrix_norm(dense, 2).item(), rel=1e-7)
    y, x = random(3, 2, *operator.output_shape), random(3, *operator.shape)
    flat = y.reshape(3, 2, -1)
    resolved = spectrum.resolve(y)
    for noise, signal in ((0.3, 2.0), (1.0, 0.0), (1.0, -0.5 / max(norm, 1.0) ** 2)):
        covariance = noise * torch.eye(len(dense), dtype=DOUBLE) + signal * dense @ dense.T
        torch.testing.assert_close(
            spectrum.solve(y, noise, signal).reshape(flat.shape), flat @ covariance.inverse(), atol=1e-6, rtol=1e-6
        )
        inner = noise * torch.eye(dense.shape[1], dtype=DOUBLE) + signal * dense.T @ dense
        solved = spectrum.solve_signal(x, noise, signal).flatten(1)
        torch.testing.assert_close(solved, x.flatten(1) @ inner.inverse(), atol=1e-6, rtol=1e-6)
        exact = MultivariateNormal(torch.zeros(len(dense), dtype=DOUBLE), covariance).log_prob(flat)
        error = float(spectrum.log_det_error(noise, signal)) if krylov else 0.0
        torch.testing.assert_close(resolved.log_prob(noise, signal), exact, atol=2.5 * error + 1e-6, rtol=1e-7)
        assert spectrum.log_prob(y, noise, signal).shape == (3, 2)


@pytest.mark.parametrize("name", ["mask", "few numbers", "blur"])
def test_variances_may_differ_from_row_to_row(name):
    operator = OPERATORS[name]()
    spectrum, y = operator.spectrum(), random(3, *operator.output_shape)
    noise, signal = torch.tensor([0.3, 1.0, 2.0], dtype=DOUBLE), torch.tensor([1.0, 0.0, 3.0], dtype=DOUBLE)
    for row in range(3):
        pair = noise[row].item(), signal[row].item()
        torch.testing.assert_close(spectrum.log_prob(y, noise, signal)[row], spectrum.log_prob(y[row], *pair))
        torch.testing.assert_close(spectrum.solve(y, noise, signal)[row], spectrum.solve(y[row], *pair))
        torch.testing.assert_close(
            spectrum.solve_signal(operator.adjoint(y), noise, signal)[row],
            spectrum.solve_signal(operator.adjoint(y[row]), *pair),
        )


@pytest.mark.parametrize("krylov", [False, True], ids=["exact", "krylov"])
@pytest.mark.parametrize("name", ["blur", "few numbers", "mask"])
def test_draws_have_the_covariance(name, krylov):
    torch.manual_seed(0)
    operator, count = OPERATORS[name](), 20_000
    spectrum = KrylovSpectrum(operator) if krylov else operator.spectrum()
    dense = matrix_of(operator)
    for noise, signal in ((0.5, 1.0), (1.0, -0.8 / operator.norm() ** 2)):
        draws = spectrum.draw((count,), noise, signal).flatten(1)
        exact = noise * torch.eye(len(dense), dtype=DOUBLE) + signal * dense @ dense.T
        # An entry has the variance (C_ii C_jj + C_ij^2) / n; five standard errors, over at most 2,304 entries.
        variance = exact.diagonal().outer(exact.diagonal()) + exact.square()
        assert ((draws.T @ draws / count - exact).abs() < 5 * (variance / count).sqrt()).all()


def test_conditional_draws_by_matherons_rule():
    """The mean of x given y, of what such draws are made of: s A' (r + s A A')^-1 y."""
    operator = OPERATORS["bicubic"]()
    dense, y = matrix_of(operator), random(*operator.output_shape)
    mean = 2.0 * operator.adjoint(operator.spectrum().solve(y, 0.1, 2.0))
    exact = 2.0 * dense.T @ (0.1 * torch.eye(len(dense), dtype=DOUBLE) + 2.0 * dense @ dense.T).inverse() @ y.flatten()
    torch.testing.assert_close(mean.flatten(), exact)


def test_the_determinant_of_a_large_operator_is_estimated_with_its_error():
    operator = operators.gaussian_blur((1, 24, 24), 1.0)
    exact, estimate = operator.spectrum(), KrylovSpectrum(operator)
    error = (estimate.log_det(0.01, 1.0) - exact.log_det(0.01, 1.0)).abs()
    assert error < 3 * estimate.log_det_error(0.01, 1.0) < 30
    assert isinstance(operators.Radon((1, 6, 6), torch.arange(3.0)).spectrum(dense=10), KrylovSpectrum)


def test_too_few_steps_are_noticed():
    operator = Matrix(torch.logspace(-4, 0, 100, dtype=DOUBLE).diag() @ random(100, 100))
    resolved = KrylovSpectrum(operator, steps=8).resolve(random(100))
    with pytest.raises(RuntimeError, match="`steps` of the spectrum are too few"):
        resolved.log_prob(1e-6, 1.0)


@pytest.mark.parametrize("krylov", [False, True])
def test_covariances_that_are_none_are_refused(krylov):
    operator = OPERATORS["blur"]()
    spectrum = KrylovSpectrum(operator) if krylov else operator.spectrum()
    for noise, signal in ((0.0, 0.0), (1.0, -2.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="`noise` and `signal` must make a positive definite"):
            spectrum.log_prob(random(*operator.output_shape), noise, signal)


def test_compositions_and_functions():
    down, kept = operators.bicubic_downsampling(SHAPE, 2), operators.Mask(random(2, 3, 2) > 0)
    both = kept @ down
    x = random(4, *SHAPE)
    torch.testing.assert_close(both(x), kept(down(x)))
    torch.testing.assert_close(matrix_of(both), matrix_of(kept) @ matrix_of(down))
    torch.testing.assert_close(both.adjoint(both(x)), both.gram(x))
    assert both.output_shape == kept.output_shape
    assert both.to(torch.float32).operators[1].vertical.dtype == torch.float32
    with pytest.raises(ValueError, match="`operators` must fit"):
        down @ kept
    with pytest.raises(TypeError, match="`operators` must be"):
        operators.Composition(down, torch.ones(3))
    with pytest.raises(ValueError, match="`function` must be linear"):
        LinearMap(lambda x: x + 1, (3,))
    with pytest.raises(TypeError, match="`function`"):
        LinearMap(3, (3,))


@pytest.mark.parametrize("size", [1.0, 1e4, 1e5, 1e7])
def test_a_large_row_does_not_hide_what_others_have_in_common(size):
    """Two rows overlap; a third that is orthogonal to both may have any size."""
    matrix = torch.tensor([[size, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]], dtype=DOUBLE)
    y = torch.tensor([0.3 * size, 1.0, 2.0], dtype=DOUBLE)
    covariance = 0.5 * torch.eye(3, dtype=DOUBLE) + 2 * matrix @ matrix.T
    exact = MultivariateNormal(torch.zeros(3, dtype=DOUBLE), covariance).log_prob(y)
    torch.testing.assert_close(Matrix(matrix).spectrum().log_prob(y, 0.5, 2.0), exact)


def test_rows_of_any_size_that_are_orthogonal_are_known_to_be():
    matrix = torch.tensor([[1e5, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, -1e-3, 1e-3, 0.0]], dtype=DOUBLE)
    found = Matrix(torch.cat([matrix, torch.zeros(1, 4, dtype=DOUBLE)]))._diagonal()
    torch.testing.assert_close(found, torch.tensor([1e10, 2.0, 2e-6, 0.0], dtype=DOUBLE))
