"""Parallel imaging row by row: the same as by Fourier transforms and coils, with the spectrum of dense matrices."""

import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.operators import Coils, Diagonalized, Fourier, Sense, coil_maps, random_lines
from pyrogen.operators.blocks import BlockMatrix

DOUBLE = torch.double
SETTINGS = [(1, 6, 5, 2), (2, 5, 8, 3), (2, 4, 7, 1), (1, 1, 6, 2), (2, 7, 1, 2)]


def sense(channels, height, width, coils):
    torch.manual_seed(height)
    maps = torch.randn(coils, height, width, dtype=torch.cdouble)
    columns = torch.rand(width) < 0.5
    columns[width // 2] = True
    return Sense((channels, height, width), maps, columns)


def dense(operator):
    """The matrix, ``(numbers, n)``."""
    size = math.prod(operator.shape)
    return operator(torch.eye(size, dtype=DOUBLE).reshape(size, *operator.shape)).flatten(1).T


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_is_a_fourier_transform_after_coils(setting):
    operator = sense(*setting)
    channels, height, width, coils = setting
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[:, operator.transform.index.unique() % width] = True
    mask = mask.roll((height // 2, width // 2), (0, 1))
    other = Fourier((2, coils, height, width), mask) @ Coils(operator.shape, operator.coils.maps)
    x = torch.randn(3, 2, *operator.shape, dtype=DOUBLE)
    y = torch.randn(3, 2, *operator.output_shape, dtype=DOUBLE)
    torch.testing.assert_close(operator(x), other(x))
    torch.testing.assert_close(operator.adjoint(y), other.adjoint(y))
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_spectrum_is_that_of_the_matrix(setting):
    operator = sense(*setting)
    matrix, spectrum = dense(operator), operator.spectrum()
    covariance = matrix @ matrix.T
    torch.testing.assert_close(spectrum.values.flatten().sort().values, torch.linalg.eigvalsh(covariance).clamp_min(0))
    assert operator.norm() == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item())
    y = torch.randn(4, *operator.output_shape, dtype=DOUBLE)
    torch.testing.assert_close(spectrum.back(spectrum.into(y)), y)
    torch.testing.assert_close(spectrum.into(y).square().sum(), y.square().sum())
    whole = 0.3 * torch.eye(len(matrix), dtype=DOUBLE) + 2.0 * covariance
    expected = torch.linalg.solve(whole, y.flatten(1).T).T.reshape(y.shape)
    torch.testing.assert_close(spectrum.solve(y, 0.3, 2.0), expected)
    normal = torch.distributions.MultivariateNormal(torch.zeros(len(matrix), dtype=DOUBLE), whole)
    torch.testing.assert_close(spectrum.log_prob(y, 0.3, 2.0), normal.log_prob(y.flatten(1)))


@pytest.mark.parametrize("setting", SETTINGS)
def test_diagonalized_measurements_are_orthogonal_and_as_likely(setting):
    operator = sense(*setting)
    plain, matrix = Diagonalized(operator), dense(operator)
    rows = dense(plain)
    covariance = rows @ rows.T
    torch.testing.assert_close(covariance, covariance.diagonal().diag())
    torch.testing.assert_close(plain.spectrum().values.flatten().clamp_min(0), operator.spectrum().values.flatten())
    assert plain.norm() == pytest.approx(operator.norm())
    x, y = torch.randn(operator.shape, dtype=DOUBLE), torch.randn(3, *operator.output_shape, dtype=DOUBLE)
    torch.testing.assert_close(plain.adjoint(y).flatten(1), y.flatten(1) @ rows)
    distances = [(plain.coefficients(y) - plain(x)).square().sum(), (y - operator(x)).square().sum()]
    torch.testing.assert_close(*distances)
    torch.testing.assert_close(rows.T @ rows, matrix.T @ matrix)
    assert plain.to(torch.float)(x.float()).dtype == torch.float
    torch.testing.assert_close(pickle.loads(pickle.dumps(plain))(x), plain(x), rtol=0, atol=0)


def test_coordinates_stay_when_an_operator_moves():
    """Of all frequencies most eigenvalues are equal, and their eigenvectors any: those of rounded maps are others."""
    maps = coil_maps((8, 8), 3).to(torch.cdouble) * 1.1
    plain = Diagonalized(Sense((2, 8, 8), maps / maps.abs().square().sum(0).sqrt(), torch.ones(8, dtype=torch.bool)))
    x, y = torch.randn(2, 8, 8, dtype=DOUBLE), torch.randn(plain.output_shape, dtype=DOUBLE)
    moved = plain.to(torch.float)
    torch.testing.assert_close(moved(x.float()), plain(x).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.coefficients(y.float()), plain.coefficients(y).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.adjoint(y.float()), plain.adjoint(y).float(), atol=1e-5, rtol=1e-5)


def test_the_posterior_of_diagonalized_numbers_is_exact():
    """An independent Gaussian prior, all frequencies and several coils: moments by their formulas."""
    from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
    from pyrogen.inverse import SplitGibbs

    size, deviation = 6, 0.2
    mri = Sense((2, size, size), coil_maps((size, size), 3), random_lines((size, size), 1)[0])
    plain = Diagonalized(mri)
    prior = Diffusion(GaussianMixtureDenoiser(dist.Normal(torch.zeros(2 * size**2), 1.0).to_event(1), LinearVP()))
    pyro.set_rng_seed(0)
    truth = torch.randn(2, size, size)
    y = mri(truth) + deviation * torch.randn(mri.output_shape)

    def model(coefficients):
        x = pyro.sample("x", prior()).unflatten(-1, mri.shape)
        pyro.sample("y", dist.Normal(plain(x), deviation).to_event(3), obs=coefficients)

    answer = SplitGibbs(model, site="x", chains=40, draws=60, warmup=20, steps=10).run(plain.coefficients(y))
    draws = answer.get_samples()["x"].reshape(-1, *mri.shape)
    # The squares of these maps sum to one and all frequencies are measured: A'A is the identity.
    variance = 1 / (1 + deviation**-2)
    mean = variance * mri.adjoint(y) / deviation**2
    off = (draws.mean(0) - mean) / variance**0.5
    assert off.square().mean() < 0.01  # 2,400 draws, correlated from one to the next
    assert draws.std(0).square().mean().item() == pytest.approx(variance, rel=0.02)


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch's own, in forward mode
def test_block_matrices_are_mapped_and_differentiated():
    torch.manual_seed(0)
    matrix, x = BlockMatrix(torch.randn(3, 4, 2, dtype=DOUBLE)), torch.randn(5, 3, 2, dtype=DOUBLE, requires_grad=True)
    expected = torch.stack([x[:, place] @ block.T for place, block in enumerate(matrix.blocks)], 1)
    torch.testing.assert_close(matrix(x), expected)
    torch.testing.assert_close(torch.func.vmap(matrix, in_dims=1)(x.movedim(0, 1)), expected)
    whole = torch.block_diag(*matrix.blocks)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(jacobian(matrix)(x[0]).reshape(12, 6), whole)
    y = torch.randn(5, 3, 4, dtype=DOUBLE)
    torch.testing.assert_close(matrix.transposed(y).flatten(1), y.flatten(1) @ whole)
    assert torch.autograd.gradcheck(matrix, x)
    assert torch.autograd.gradgradcheck(matrix, x)


@pytest.mark.parametrize("columns", [torch.ones(4, dtype=torch.bool), torch.ones(5), [True] * 5, None])
def test_columns_that_are_none_are_refused(columns):
    with pytest.raises(ValueError, match=r"`columns` must be booleans of shape \(5,\), got"):
        Sense((2, 6, 5), coil_maps((6, 5), 2), columns)


def test_no_columns_at_all_are_refused():
    with pytest.raises(ValueError, match="`columns` must keep a column, got none"):
        Sense((2, 6, 5), coil_maps((6, 5), 2), torch.zeros(5, dtype=torch.bool))


def test_what_is_too_large_to_be_decomposed_is_refused():
    mask = torch.ones(40, 40, dtype=torch.bool)
    operator = Fourier((2, 3, 40, 40), mask) @ Coils((2, 40, 40), 2 * coil_maps((40, 40), 3).roll(1, 1))
    operator.operators[1].maps[0] *= 3
    with pytest.raises(ValueError, match="`operator` must have an exact spectrum"):
        Diagonalized(operator)
