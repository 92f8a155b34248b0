"""Derivatives of measurements as operators: with a matrix and without one, and what is known of their covariance."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
from pyrogen.inverse import TemperedSMC, derivative
from pyrogen.inverse.inflated import Inflated
from pyrogen.inverse.powered import Powered
from pyrogen.inverse.problem import InverseProblem
from pyrogen.inverse.split_move import tempered_likelihood
from pyrogen.inverse.unknowns import Unknowns
from pyrogen.operators import (
    CircularConvolution,
    Convolution,
    Diagonalized,
    ExactSpectrum,
    Fourier,
    KrylovSpectrum,
    Mask,
    Matrix,
    Sense,
    box_downsampling,
    coil_maps,
)


class Shaped(GaussianMixtureDenoiser):
    """Independent standard normal numbers in any shape."""

    def __init__(self, shape):
        super().__init__(dist.Normal(torch.zeros(torch.Size(shape).numel()), 1.0).to_event(1), LinearVP())
        self.event_shape = tuple(shape)


def target_of(operator, noise=0.3, problems=None):
    prior = Diffusion(Shaped(operator.shape))

    def model(y):
        with pyro.plate("problems", problems) if problems else pyro.plate("one", 1):
            x = pyro.sample("x", prior())
            pyro.sample("y", dist.Normal(operator(x), noise).to_event(len(operator.output_shape)), obs=y)

    y = torch.randn(problems or 1, *operator.output_shape)
    problem = InverseProblem(model, (y,), {}, "x")
    return Unknowns(problem).target, model, y


KEPT = torch.arange(36).reshape(1, 6, 6) % 3 == 0
LINES = torch.arange(6).unsqueeze(1).expand(6, 6) % 2 == 0
KERNEL = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.5, 0.3], [0.0, 0.2, 0.1]])
OPERATORS = {
    "mask": Mask(KEPT),
    "boxes": box_downsampling((1, 6, 6), 2),
    "frequencies": Fourier((2, 6, 6), LINES),
    "circular": CircularConvolution((1, 6, 6), KERNEL),
    "blur": Convolution((1, 6, 6), KERNEL),
    "matrix": Matrix(torch.randn(7, 9, generator=torch.Generator().manual_seed(0))),
    # Rows of all sizes, down to what is rounding in single precision:
    "diagonalized": Diagonalized(Sense((2, 6, 6), coil_maps((6, 6), 4), LINES[:, 0])),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_products_do_not_need_the_matrix(name, monkeypatch):
    """Both are the operator of the program in units of its noise, and each other's transpose."""
    operator = OPERATORS[name]
    target, _, y = target_of(operator)
    point = torch.zeros(1, 1, operator.zero().numel())
    known = target.linearized(point)
    monkeypatch.setattr(derivative, "_ROOM", 0)
    free = target.linearized(point)
    assert free.operator.matrix is None
    assert known.operator.matrix is not None
    x = torch.randn(3, 1, point.shape[-1])
    expected = operator(x.reshape(3, *operator.shape)).reshape(3, 1, -1).double() / 0.3
    torch.testing.assert_close(free.operator(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(known.operator(x), expected, atol=1e-5, rtol=1e-5)
    w = torch.randn_like(expected)
    torch.testing.assert_close(free.operator.adjoint(w), known.operator.adjoint(w), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(free.residual, y.reshape(1, 1, -1).double() / 0.3, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("room", [2**24, 0], ids=["matrix", "products"])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_spectrum_is_that_of_the_covariance(name, room, monkeypatch):
    monkeypatch.setattr(derivative, "_ROOM", room)
    target, _, _ = target_of(OPERATORS[name])
    operator = target.linearized(torch.zeros(1, 1, target.shape[1])).operator
    closed = name in ("mask", "boxes", "frequencies", "circular", "diagonalized")
    spectrum = operator.spectrum(dense=0 if closed else 4096)  # closed forms do not depend on how large it is
    assert isinstance(spectrum, ExactSpectrum)
    covariance = torch.eye(operator.output_shape[0]) + 0.7 * operator._covariance()[0]
    y = torch.randn(2, 1, len(covariance), dtype=torch.double)
    solved = spectrum.solve(y, 1.0, 0.7)
    torch.testing.assert_close(solved[:, 0] @ covariance, y[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(spectrum.resolve(y).square(1.0, 0.7), (y * solved).sum(-1), atol=1e-4, rtol=1e-4)
    assert abs(spectrum.norm - torch.linalg.eigvalsh(operator._covariance())[0, -1].sqrt()) < 1e-3


def test_several_problems_have_several_spectra():
    """Each problem of a plate has its own noise; that of one does not reach another."""
    noise = torch.tensor([[0.1], [1.0], [3.0]])
    target, _, _ = target_of(OPERATORS["matrix"], noise, 3)
    operator = target.linearized(torch.zeros(1, 3, 9)).operator
    spectrum = operator.spectrum()
    matrix = OPERATORS["matrix"].matrix.double()
    y = torch.randn(5, 3, 7, dtype=torch.double)
    found = spectrum.resolve(y).square(1.0, 2.0)
    draws = spectrum.draw((20_000, 3), 1.0, 2.0)
    for place, scale in enumerate(noise.flatten()):
        covariance = torch.eye(7) + 2 * matrix @ matrix.T / scale**2
        torch.testing.assert_close(found[:, place], (y[:, place] @ covariance.inverse() * y[:, place]).sum(-1))
        white = draws[:, place] @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        assert (white.T @ white / len(white) - torch.eye(7)).abs().max() < 6 / len(white) ** 0.5


def test_what_is_large_is_not_decomposed(monkeypatch):
    operator = Convolution((1, 6, 6), KERNEL)
    target, model, y = target_of(operator)
    spectrum = target.linearized(torch.zeros(1, 1, 36)).operator.spectrum(dense=8)
    assert isinstance(spectrum, KrylovSpectrum)
    unknowns = Unknowns(InverseProblem(model, (y,), {}, "x"))
    assert isinstance(tempered_likelihood(unknowns, 30.0), Inflated)
    monkeypatch.setattr(derivative.Derivative, "spectrum", lambda self, dense=0: spectrum)
    assert isinstance(tempered_likelihood(unknowns, 30.0), Powered)


def tempered_blur_and_mask(shape, noise):
    kept = torch.arange(torch.Size(shape).numel()).reshape(shape) % 2 == 0
    for operator in (Mask(kept), CircularConvolution(shape, KERNEL)):
        _, model, y = target_of(operator, noise)
        answer = TemperedSMC(model, site="x", particles=32, moves=2, groups=2).run(y)
        values = operator.spectrum().values.flatten()
        waves = operator.spectrum().into(y[0].double()).flatten()
        exact = dist.Normal(0.0, (noise**2 + values).sqrt()).log_prob(waves).sum()
        # At every level the weights of an effective share 0.7 of 32 particles; two groups cannot tell their own error.
        error = (len(answer.diagnostics().widths) * (1 / 0.7 - 1) / 32) ** 0.5
        assert abs(answer.log_evidence - exact) < 4 * error


def test_images_without_a_matrix(monkeypatch):
    monkeypatch.setattr(derivative, "_ROOM", 2**12)
    tempered_blur_and_mask((1, 16, 16), 2.0)


@pytest.mark.slow
def test_large_images_with_a_spectrum_of_their_own():
    """6,912 of 13,824 numbers, and as many blurred ones, of which a matrix would take 1.5 gigabytes."""
    tempered_blur_and_mask((3, 48, 96), 3.0)


@pytest.mark.parametrize("room", [2**24, 0], ids=["matrix", "products"])
@pytest.mark.parametrize("name", ["matrix", "boxes", "blur"])
def test_a_precise_measurement_does_not_hide_what_others_have_in_common(name, room, monkeypatch):
    """Beside an operator one number of its own is measured: its noise is a part in a hundred thousand of theirs."""
    monkeypatch.setattr(derivative, "_ROOM", room)
    operator = OPERATORS[name]
    size = operator.zero().numel()
    prior = Diffusion(Shaped((size + 1,)))

    def model(y, precise):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(operator(x[1:].reshape(operator.shape)).flatten(), 0.3).to_event(1), obs=y)
        pyro.sample("precise", dist.Normal(x[0], 3e-6), obs=precise)

    data = torch.randn(operator(operator.zero()).numel()), torch.tensor(0.4)
    target = Unknowns(InverseProblem(model, data, {}, "x")).target
    derived = target.linearized(torch.zeros(1, 1, size + 1)).operator
    spectrum, covariance = derived.spectrum(), torch.eye(derived.output_shape[0]) + derived._covariance()[0]
    y = torch.randn(2, 1, len(covariance), dtype=torch.double)
    y[..., -1] *= 1e5  # of the order of what is expected
    torch.testing.assert_close(spectrum.solve(y, 1.0, 1.0)[:, 0], y[:, 0] @ covariance.inverse(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(
    ("measured", "linear"), [(lambda x: x.sum(), True), (lambda x: torch.tanh(x).sum(), False), (lambda x: x**2, False)]
)
def test_whether_a_measurement_is_linear_does_not_depend_on_its_unit(measured, linear, unit):
    prior = Diffusion(Shaped((3,)))

    def model(y):
        found = unit * measured(pyro.sample("x", prior()))
        pyro.sample("y", dist.Normal(found, 0.1 * unit).to_event(found.dim()), obs=y.expand(found.shape))

    target = Unknowns(InverseProblem(model, (torch.tensor(0.3 * unit),), {}, "x")).target
    assert target.is_linear(torch.zeros(1, 1, 3)) == linear
