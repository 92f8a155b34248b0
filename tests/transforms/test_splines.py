"""The fused spline: right values, gradients and inverses, at the bound and beyond it."""

import math

import pytest
import torch

from pyrogen.transforms.affine import Affine
from pyrogen.transforms.monotone import Sigmoids
from pyrogen.transforms.spline import Spline

ELEMENTS = [Affine(2.0), Spline(5, 4.0), Sigmoids(4)]


def textbook(parameters, x, bound):
    """Durkan et al. 2019, one number at a time, in plain Python."""

    bins = (len(parameters) + 1) // 3

    def sizes(raw):
        weights = [math.exp(a / (1 + abs(a) / math.log(10))) for a in raw]
        return [2 * bound * weight / sum(weights) for weight in weights]

    def slope(a):
        return math.exp(a / (1 + (a / math.log(100) if a > 0 else a / math.log(1e-3))))

    if abs(x) > bound:
        return x, 0.0
    w, h = sizes(parameters[:bins]), sizes(parameters[bins : 2 * bins])
    d = [1.0, *map(slope, parameters[2 * bins :]), 1.0]
    k, left, low = 0, -bound, -bound
    while k < bins - 1 and x >= left + w[k]:
        left, low, k = left + w[k], low + h[k], k + 1
    z, s = (x - left) / w[k], h[k] / w[k]
    den = s + (d[k] + d[k + 1] - 2 * s) * z * (1 - z)
    y = low + h[k] * (s * z**2 + d[k] * z * (1 - z)) / den
    return y, math.log(s**2 * (d[k + 1] * z**2 + 2 * s * z * (1 - z) + d[k] * (1 - z) ** 2) / den**2)


def test_equals_the_formula_of_the_paper():
    torch.manual_seed(0)
    parameters, x = 2 * torch.randn(14, 300).double(), 3 * torch.randn(300).double()
    y, log_slope = Spline(5, 4.0).forward(parameters, x)
    expected = [textbook(parameters[:, i].tolist(), x[i].item(), 4.0) for i in range(300)]
    assert torch.allclose(y, torch.tensor([a for a, _ in expected]).double(), atol=1e-12)
    assert torch.allclose(log_slope, torch.tensor([b for _, b in expected]).double(), atol=1e-10)


@pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: type(element).__name__)
class TestElement:
    def numbers(self, element, count=40, scale=1.0):
        torch.manual_seed(1)
        return scale * torch.randn(element.size, count).double(), 3 * torch.randn(count).double()

    def test_log_slope_is_that_of_the_value(self, element):
        parameters, x = self.numbers(element)
        for map_ in (element.forward, element.inverse):
            x.requires_grad_()
            y, log_slope = map_(parameters, x)
            (slope,) = torch.autograd.grad(y.sum(), x)
            assert torch.allclose(slope.log(), log_slope, atol=1e-8)

    def test_inverse(self, element):
        parameters, x = self.numbers(element, 2000, 2.0)
        y, log_slope = element.forward(parameters, x)
        back, inverse_log_slope = element.inverse(parameters, y)
        assert torch.allclose(back, x, atol=1e-8)
        assert torch.allclose(inverse_log_slope, -log_slope, atol=1e-6)

    def test_gradients(self, element):
        parameters, x = self.numbers(element, 8)
        inputs = parameters.requires_grad_(), x.requires_grad_()
        assert torch.autograd.gradcheck(element.forward, inputs)
        assert torch.autograd.gradcheck(element.inverse, inputs)
        assert torch.autograd.gradgradcheck(element.forward, inputs)

    def test_vmap_equals_a_loop(self, element):
        parameters, x = self.numbers(element, 12)
        for map_ in (element.forward, element.inverse):
            many = torch.vmap(map_, in_dims=(1, 0))(parameters.unflatten(1, (4, 3)), x.unflatten(0, (4, 3)))
            assert torch.allclose(torch.stack(many).flatten(1), torch.stack(map_(parameters, x)), atol=1e-12)

    def test_far_tails_go_back_and_forth(self, element):
        parameters, _ = self.numbers(element, 6)
        x = torch.tensor([-1e4, -300.0, -30.0, 30.0, 300.0, 1e4]).double()
        back, _ = element.inverse(parameters, element.forward(parameters, x)[0])
        assert torch.allclose(back, x, rtol=1e-6)


def test_zero_parameters_are_the_identity():
    x = torch.linspace(-8, 8, 101).double()
    for element in ELEMENTS[:2]:
        y, log_slope = element.forward(torch.zeros(element.size, 101).double(), x)
        assert torch.allclose(y, x, atol=1e-14)
        assert torch.allclose(log_slope, torch.zeros_like(x), atol=1e-14)


def test_spline_at_and_beyond_the_bound():
    torch.manual_seed(0)
    x = torch.tensor([-9.0, -4.0, 4.0, 9.0, torch.inf, -torch.inf, torch.nan])
    parameters = torch.randn(14, 7)
    for map_ in (Spline(5, 4.0).forward, Spline(5, 4.0).inverse):
        y, log_slope = map_(parameters, x)
        assert torch.allclose(y, x, atol=1e-6, equal_nan=True)
        assert torch.allclose(log_slope[:6], torch.zeros(6), atol=1e-5)


def test_round_trip_of_wild_splines_in_single_precision():
    torch.manual_seed(0)
    for sigma, share, most in ((3.0, 0.999, 1e-3), (10.0, 0.99, 1e-2)):
        parameters, x = sigma * torch.randn(23, 100_000), 5 * (2 * torch.rand(100_000) - 1)
        element = Spline(8, 5.0)
        error = (element.inverse(parameters, element.forward(parameters, x)[0])[0] - x).abs()
        assert error.isfinite().all()
        assert error.quantile(share) < most


@pytest.mark.parametrize("inverse", [False, True])
def test_knots_of_wild_splines_in_single_precision(inverse):
    """Where bins meet, small slopes stand beside large ones."""
    torch.manual_seed(0)
    element, count = Spline(8, 5.0), 20_000
    parameters, bins = 100 * torch.randn(23, count), torch.randint(7, (1, count))
    logits = parameters.double()[8:16] if inverse else parameters.double()[:8]
    sizes = (logits / (1 + logits.abs() / math.log(10))).softmax(0)
    x = (10 * sizes.cumsum(0).gather(0, bins)[0] - 5).float().requires_grad_()
    y, log_slope = element.inverse(parameters, x) if inverse else element.forward(parameters, x)
    assert y.isfinite().all()
    assert log_slope.isfinite().all()
    assert torch.autograd.grad((y + log_slope).sum(), x)[0].isfinite().all()
    x = 10 * torch.rand(count) - 5
    found, exact = (element.inverse(*each)[1] for each in ((parameters, x), (parameters.double(), x.double())))
    assert (found - exact).abs().quantile(0.99) < 1e-4


def test_affine_scale_is_bounded_both_ways():
    raw = torch.tensor([[0.0, 0.0], [-1e9, 1e9]])
    _, log_scale = Affine(2.0).forward(raw, torch.ones(2))
    assert torch.allclose(log_scale, torch.tensor([-2.0, 2.0]))


def test_arguments_are_checked():
    for wrong, name in (
        (lambda: Spline(1), "bins"),
        (lambda: Spline(8, 0.0), "bound"),
        (lambda: Spline(8, math.inf), "bound"),
        (lambda: Affine(0.0), "log_scale_bound"),
        (lambda: Sigmoids(0), "units"),
        (lambda: Sigmoids(2, -1.0), "log_slope_bound"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            wrong()
    for wrong, name in ((lambda: Spline(2.0), "bins"), (lambda: Spline(8, None), "bound")):
        with pytest.raises(TypeError, match=f"`{name}` must be"):
            wrong()
