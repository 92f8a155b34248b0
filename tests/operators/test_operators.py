"""Operators: dot products, units, and use in a Pyro model."""

import math

import pytest
import torch

from pyrogen import inverse, operators

NAN, INF = math.nan, math.inf
POSITIVE = (0.0, -1.0, NAN, "1", None)

SHAPE = (3, 8, 12)
LINEAR = {
    "mask": lambda: operators.Mask(torch.rand(SHAPE) < 0.4),
    "matrix": lambda: operators.Matrix(torch.randn(7, 3 * 8 * 12), SHAPE),
    "grey": lambda: operators.Grey(SHAPE),
    "box": lambda: operators.box_downsampling(SHAPE, 4),
    "bicubic": lambda: operators.bicubic_downsampling(SHAPE, 2),
    "blur": lambda: operators.gaussian_blur(SHAPE, 1.3),
    "convolution": lambda: operators.Convolution(SHAPE, torch.randn(3, 5)),
    "radon": lambda: operators.Radon(SHAPE, torch.arange(3.0)),
    "fan": lambda: operators.FanBeam(SHAPE, torch.arange(3.0), source=9.0),
    "fourier": lambda: operators.Fourier((2, 3, 8, 12), torch.rand(8, 12) < 0.5),
    "real fourier": lambda: operators.Fourier((1, 3, 8, 12), torch.rand(8, 12) < 0.5),
    "nonuniform fourier": lambda: operators.NonuniformFourier((2, 8, 12), torch.rand(2, 9, 2) - 0.5),
    "coils": lambda: operators.Coils((1, 8, 12), operators.coil_maps((8, 12), 3)),
    "low pass": lambda: operators.LowPass(SHAPE, torch.randn(4), 3),
    "decimation": lambda: operators.decimation((50,), 2, lobes=2),
    "circular convolution": lambda: operators.CircularConvolution(SHAPE, torch.randn(3, 4)),
    "shift": lambda: operators.Shift(SHAPE, torch.tensor([0.3, -1.2])),
    "composition": lambda: operators.gaussian_blur((3, 4, 6), 1.0) @ operators.box_downsampling(SHAPE, 2),
    "function": lambda: operators.LinearMap(lambda x: x.sum(0).diff(), SHAPE),
    "sense": lambda: operators.Sense((2, 8, 12), operators.coil_maps((8, 12), 3), torch.arange(12) % 2 == 0),
    "diagonalized matrix": lambda: operators.Diagonalized(operators.Matrix(torch.randn(7, 3 * 8 * 12), SHAPE)),
    "diagonalized blur": lambda: operators.Diagonalized(operators.gaussian_blur(SHAPE, 1.3)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint_by_dot_products(name):
    torch.manual_seed(0)
    operator = LINEAR[name]()
    for cast in (torch.float32, torch.float64):
        x = torch.randn(5, *operator.shape, dtype=cast)
        y = torch.randn_like(operator(x))
        left, right = (operator(x) * y).sum(), (x * operator.adjoint(y)).sum()
        tolerance = 1e-5 if cast is torch.float32 else 1e-12
        assert operator(x).dtype == operator.adjoint(y).dtype == cast
        assert operator(x).shape == (5, *operator.output_shape)
        assert abs(left - right) < tolerance * operator(x).norm() * y.norm()
        assert operator.adjoint(y).shape == x.shape
        torch.testing.assert_close(operator.adjoint(y), operators.Linear.adjoint(operator, y))


@pytest.mark.parametrize("name", LINEAR)
def test_maps_nest_and_a_bad_row_spoils_no_other(name):
    operator = LINEAR[name]()
    x = torch.randn(2, 3, *operator.shape)
    y = operator(x)
    torch.testing.assert_close(torch.func.vmap(torch.func.vmap(operator))(x), y)
    torch.testing.assert_close(torch.func.vmap(operator.adjoint)(y), operator.adjoint(y))
    slopes = torch.func.vmap(torch.func.grad(lambda v: 0.5 * operator(v).square().sum()))(x[0])
    torch.testing.assert_close(slopes, operator.gram(x[0]), atol=1e-4, rtol=1e-4)
    bad = torch.cat([torch.full_like(x[:1], NAN), x[1:]])
    torch.testing.assert_close(operator(bad)[1], y[1])
    torch.testing.assert_close(operator.adjoint(operator(bad))[1], operator.adjoint(y)[1])


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("batch", [(0,), (3, 0)])
def test_no_signals_have_no_measurements(name, batch):
    operator = LINEAR[name]()
    x = torch.zeros(*batch, *operator.shape, requires_grad=True)
    y = operator(x)
    assert y.shape == (*batch, *operator.output_shape)
    assert operator.adjoint(y).shape == operator.gram(x).shape == x.shape
    assert torch.autograd.grad(operator.adjoint(y).sum(), x)[0].shape == x.shape


def test_no_signals_without_phase_and_from_projections():
    assert operators.PhaseRetrieval(2.0)(torch.zeros(0, 1, 6, 8)).shape == (0, 1, 12, 16)
    operator = operators.Radon((1, 8, 8), torch.arange(3.0))
    assert operator.filtered_back_projection(torch.zeros(0, *operator.output_shape)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "function"])
def test_inputs_are_where_the_operator_is(name):
    assert LINEAR[name]().to("meta").zero().device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize("name", LINEAR)
def test_on_a_gpu(name):
    operator = LINEAR[name]()
    moved = operators.LinearMap(operator.function, SHAPE, device="cuda") if name == "function" else operator.to("cuda")
    x = torch.randn(5, *operator.shape)
    torch.testing.assert_close(moved(x.cuda()).cpu(), operator(x), atol=1e-4, rtol=1e-4)
    y = torch.randn_like(operator(x))
    torch.testing.assert_close(moved.adjoint(y.cuda()).cpu(), operator.adjoint(y), atol=1e-4, rtol=1e-4)
    assert moved.norm() == pytest.approx(operator.norm(), rel=1e-4)


@pytest.mark.parametrize("name", ["grey", "box", "bicubic", "blur"])
def test_a_constant_image_keeps_its_value(name):
    measured = LINEAR[name]()(torch.full(SHAPE, 0.7))
    torch.testing.assert_close(measured, torch.full_like(measured, 0.7))


def test_box_is_the_mean_of_blocks_and_bicubic_keeps_a_ramp():
    x = torch.rand(SHAPE)
    torch.testing.assert_close(
        operators.box_downsampling(SHAPE, 4)(x), torch.nn.functional.avg_pool2d(x.unsqueeze(0), 4).squeeze(0)
    )
    ramp = torch.arange(32.0).expand(1, 32, 32)
    small = operators.bicubic_downsampling((1, 32, 32), 2)(ramp)[0, 8]
    torch.testing.assert_close(small[4:-4], torch.arange(16.0)[4:-4] * 2 + 0.5)


def test_phase_retrieval_forgets_shift_and_sign():
    operator, x = operators.PhaseRetrieval(2.0), torch.zeros(1, 8, 8)
    x[0, 2:5, 1:4] = torch.rand(3, 3)
    torch.testing.assert_close(operator(x), operator(-x.roll((2, 3), (-2, -1))), atol=1e-5, rtol=1e-4)
    assert (operator(x).square().sum() - x.square().sum()).abs() < 1e-4


def test_the_width_of_a_blur_may_be_latent():
    x = torch.randn(2, 3, 8, 12, dtype=torch.double)
    width = torch.tensor(1.3, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(operators.gaussian_blur(SHAPE, width)(x), operators.gaussian_blur(SHAPE, 1.3)(x))
    assert torch.autograd.gradcheck(lambda w: operators.gaussian_blur(SHAPE, w)(x), (width,))
    widths = torch.tensor([0.5, 2.0], dtype=torch.double)
    mapped = torch.func.vmap(lambda w: operators.gaussian_blur(SHAPE, w)(x))(widths)
    torch.testing.assert_close(mapped[1], operators.gaussian_blur(SHAPE, widths[1])(x))


def test_refusals():
    with pytest.raises(ValueError, match="`kept` must be boolean"):
        operators.Mask(torch.ones(3))
    with pytest.raises(ValueError, match="`factor` must divide"):
        operators.box_downsampling(SHAPE, 5)
    with pytest.raises(ValueError, match="`kernel` must have two odd sizes"):
        operators.Convolution(SHAPE, torch.ones(2, 3))
    with pytest.raises(ValueError, match="`x` must end in shape"):
        operators.Mask(torch.ones(SHAPE, dtype=torch.bool))(torch.ones(4))


REFUSED = [
    (operators.Mask, "kept", (torch.ones(3), torch.zeros(3).bool(), [True])),
    (operators.Matrix, "matrix", (torch.ones(3), torch.full((2, 2), NAN), [[1.0]])),
    (lambda **o: operators.Grey(**{"shape": (3, 4, 4), **o}), "shape", ((1, 4, 4), (4, 4), (3, 0, 4))),
    (lambda **o: operators.Grey((3, 4, 4), **o), "weights", ((1.0, NAN, 0.0), (1.0,))),
    *((lambda f=f, **o: f(**{"shape": (1, 4, 4), "factor": 2, **o}), name, values)
      for f in (operators.box_downsampling, operators.bicubic_downsampling)
      for name, values in (("shape", ((4, 4), (1, 4.0, 4))), ("factor", (0, 3, 2.0, NAN)))),
    (lambda **o: operators.gaussian_blur((1, 4, 4), **o), "width",
     (*POSITIVE, torch.tensor(0.0), torch.ones(2), torch.tensor(NAN), torch.tensor(1))),
    (lambda **o: operators.gaussian_blur(**{"width": 1.0, **o}), "shape", ((4,), (1, 4, -4))),
    (lambda **o: operators.Convolution((1, 4, 4), **o), "kernel", (torch.ones(2, 2), torch.ones(3), [[1.0]])),
    (lambda **o: operators.Separable(**{"shape": (1, 4, 4), "vertical": torch.eye(4), "horizontal": torch.eye(4), **o}),
     "vertical", (torch.eye(3), torch.full((4, 4), NAN))),
    (operators.PhaseRetrieval, "oversampling", (0.5, NAN, "2")),
]  # fmt: skip
CASES = [(entry, name, value) for entry, name, values in REFUSED for value in values]


@pytest.mark.parametrize(("entry", "name", "value"), CASES, ids=lambda part: str(part)[:20])
def test_a_bad_value_is_refused_by_the_name_of_its_argument(entry, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        entry(**{name: value})


def test_inverse_names_the_first_of_them_as_well():
    for name in (*(set(inverse.__all__) & set(operators.__all__)), "Mask", "Matrix", "Convolution"):
        assert getattr(inverse, name) is getattr(operators, name)
