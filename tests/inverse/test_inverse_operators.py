"""Operators: dot products, units, and use in a Pyro model."""

import pytest
import torch

from pyrogen import inverse

SHAPE = (3, 8, 12)
LINEAR = {
    "mask": lambda: inverse.Mask(torch.rand(SHAPE) < 0.4),
    "matrix": lambda: inverse.Matrix(torch.randn(7, 3 * 8 * 12), SHAPE),
    "grey": lambda: inverse.Grey(SHAPE),
    "box": lambda: inverse.box_downsampling(SHAPE, 4),
    "bicubic": lambda: inverse.bicubic_downsampling(SHAPE, 2),
    "blur": lambda: inverse.gaussian_blur(SHAPE, 1.3),
    "convolution": lambda: inverse.Convolution(SHAPE, torch.randn(3, 5)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint_by_dot_products(name):
    torch.manual_seed(0)
    operator = LINEAR[name]()
    for cast in (torch.float32, torch.float64):
        if cast is torch.float64 and name == "matrix":
            operator.matrix = operator.matrix.double()
        x = torch.randn(5, *SHAPE, dtype=cast)
        y = torch.randn_like(operator(x))
        left, right = (operator(x) * y).sum(), (x * operator.adjoint(y)).sum()
        tolerance = 1e-5 if cast is torch.float32 else 1e-12
        assert abs(left - right) < tolerance * operator(x).norm() * y.norm()
        assert operator.adjoint(y).shape == x.shape
        torch.testing.assert_close(operator.adjoint(y), inverse.Linear.adjoint(operator, y))


@pytest.mark.parametrize("name", ["grey", "box", "bicubic", "blur"])
def test_a_constant_image_keeps_its_value(name):
    measured = LINEAR[name]()(torch.full(SHAPE, 0.7))
    torch.testing.assert_close(measured, torch.full_like(measured, 0.7))


def test_box_is_the_mean_of_blocks_and_bicubic_keeps_a_ramp():
    x = torch.rand(SHAPE)
    torch.testing.assert_close(
        inverse.box_downsampling(SHAPE, 4)(x), torch.nn.functional.avg_pool2d(x.unsqueeze(0), 4).squeeze(0)
    )
    ramp = torch.arange(32.0).expand(1, 32, 32)
    small = inverse.bicubic_downsampling((1, 32, 32), 2)(ramp)[0, 8]
    torch.testing.assert_close(small[4:-4], torch.arange(16.0)[4:-4] * 2 + 0.5)


def test_phase_retrieval_forgets_shift_and_sign():
    operator, x = inverse.PhaseRetrieval(2.0), torch.zeros(1, 8, 8)
    x[0, 2:5, 1:4] = torch.rand(3, 3)
    torch.testing.assert_close(operator(x), operator(-x.roll((2, 3), (-2, -1))), atol=1e-5, rtol=1e-4)
    assert (operator(x).square().sum() - x.square().sum()).abs() < 1e-4


def test_refusals():
    with pytest.raises(ValueError, match="`kept` must be boolean"):
        inverse.Mask(torch.ones(3))
    with pytest.raises(ValueError, match="`factor` must divide"):
        inverse.box_downsampling(SHAPE, 5)
    with pytest.raises(ValueError, match="`kernel` must have two odd sizes"):
        inverse.Convolution(SHAPE, torch.ones(2, 3))
    with pytest.raises(ValueError, match="`x` must end in shape"):
        inverse.Mask(torch.ones(SHAPE, dtype=torch.bool))(torch.ones(4))
