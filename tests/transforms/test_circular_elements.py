"""Maps of angles: degree one, inverses, log-slopes and hand-written gradients, splines with learned ends."""

import math

import pytest
import torch

from pyrogen.transforms import CircularSpline, Mixed, Moebius, SegmentSpline, Spline
from pyrogen.transforms.elements import Element

CIRCULAR = [CircularSpline(2), CircularSpline(5), Moebius(1), Moebius(4)]
N = 200


def parameters_of(element: Element, scale: float = 1.0, count: int = N):
    torch.manual_seed(0)
    return scale * torch.randn(element.size, count, dtype=torch.float64)


def angles(count: int = N):
    torch.manual_seed(1)
    return 3 * math.pi * (2 * torch.rand(count, dtype=torch.float64) - 1)


def plain(element, parameters, x, *, inverse=False):
    """The same without a backward pass written by hand."""
    return element.kernel(inverse).forward(parameters, x)[:2]


@pytest.mark.parametrize("element", CIRCULAR)
def test_whole_turns_go_to_whole_turns(element):
    parameters, x = parameters_of(element), angles()
    y, slope = element.forward(parameters, x)
    turned, same = element.forward(parameters, x + 2 * math.pi)
    assert torch.allclose(turned, y + 2 * math.pi, atol=1e-9)
    assert torch.allclose(same, slope, atol=1e-8)


@pytest.mark.parametrize("element", CIRCULAR)
def test_slopes_are_those_of_autograd_on_both_sides_of_the_seam(element):
    parameters = parameters_of(element)
    x = torch.cat([angles(N - 4), torch.tensor([-1, -1 + 1e-9, 1 - 1e-9, 1]) * math.pi]).double().requires_grad_()
    y, slope = element.forward(parameters, x)
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(found.log(), slope, atol=1e-6)
    assert (found > 0).all()


@pytest.mark.parametrize("element", [*CIRCULAR, SegmentSpline(2), SegmentSpline(5)])
def test_inverse_undoes_the_map(element):
    parameters, x = parameters_of(element, 2.0), angles()
    x = x if element in CIRCULAR else x / (3 * math.pi)
    y, slope = element.forward(parameters, x)
    back, minus = element.inverse(parameters, y)
    assert torch.allclose(back, x, atol=1e-8)
    assert torch.allclose(minus, -slope, atol=1e-6)


@pytest.mark.parametrize("element", CIRCULAR)
def test_zero_parameters_are_the_identity(element):
    x = angles()
    y, slope = element.forward(0 * parameters_of(element), x)
    assert torch.allclose(y, x, atol=1e-12)
    assert slope.abs().max() < 1e-12


def test_one_moebius_transformation_is_that_of_complex_numbers():
    element = Moebius(1)
    parameters, x = parameters_of(element), angles()
    raw, shift = torch.complex(parameters[0], parameters[1]), parameters[3]
    w = 0.99 * raw / (1 + raw.abs())
    z = torch.polar(torch.ones_like(x), x)
    # equation 8 of Rezende et al. 2020
    expected = (1 - w.abs() ** 2) / (z - w).abs() ** 2 * (z - w) - w
    found = element.forward(parameters, x)[0] - shift
    assert torch.allclose(torch.polar(torch.ones_like(x), found), expected)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("element", [CircularSpline(2), CircularSpline(6), SegmentSpline(2), SegmentSpline(6)])
def test_hand_written_gradients_are_those_of_autograd(element, inverse):
    parameters, x = parameters_of(element), angles() / (3 * math.pi if isinstance(element, SegmentSpline) else 1)
    weights = torch.randn(2, N, dtype=torch.float64)
    found = []
    for function in (element.inverse if inverse else element.forward, None):
        given = [parameters.clone().requires_grad_(), x.clone().requires_grad_()]
        out = function(*given) if function else plain(element, *given, inverse=inverse)
        found.append(torch.autograd.grad((weights[0] * out[0] + weights[1] * out[1]).sum(), given))
    for hand, auto in zip(*found, strict=True):
        assert torch.allclose(hand, auto, atol=1e-8)


def test_a_segment_spline_keeps_its_ends_and_learns_their_slopes():
    element = SegmentSpline(4)
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    y, slope = element.forward(parameters_of(element, count=2), ends)
    assert torch.allclose(y, ends)
    assert (slope.abs() > 0.05).all()


def test_mixed_elements_map_each_kind_by_its_own():
    element = Mixed((CircularSpline(4), Spline(4)), (0, 1, 0))
    parameters, x = torch.randn(element.size, 3, 7).double(), torch.randn(3, 7).double()
    y, slope = element.forward(parameters, x)
    expected, own = Spline(4).forward(parameters[: Spline(4).size, 1], x[1])
    assert torch.equal(y[1], expected)
    assert torch.equal(slope[1], own)
    back, minus = element.inverse(parameters, y)
    assert torch.allclose(back, x)
    assert torch.allclose(minus, -slope, atol=1e-7)


@pytest.mark.parametrize("element", [CircularSpline, SegmentSpline])
def test_too_few_bins_are_refused(element):
    with pytest.raises(ValueError, match="`bins` must be at least 2, got 1"):
        element(1)
    with pytest.raises(ValueError, match="`components` must be at least 1, got 0"):
        Moebius(0)
