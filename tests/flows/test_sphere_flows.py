"""Flows on spheres: contract, area, log-determinants by charts, a known density, smoothness at no pole."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to

import pyrogen as pg
from pyrogen import flows
from pyrogen.distributions import UniformSphere
from pyrogen.numerics.sphere import Sphere, log_area
from pyrogen.testing import check_distribution
from pyrogen.transforms import Stereographic
from pyrogen.transforms.sphere import heights, point

SMALL = {"layers": 2, "hidden": (16,), "bins": 5}


def made(size, *shapes, spread=0.3, **options):
    torch.manual_seed(0)
    flow = flows.sphere((size,), *shapes, **{**SMALL, **options}).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return flow


def directions(size, count=50):
    torch.manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(count, size, dtype=torch.float64), dim=-1)


def grid(count=200):
    """Points of the sphere that stand for equal areas, by height and angle."""
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return point(torch.cartesian_prod(2 * middles - 1, 2 * math.pi * middles - math.pi))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_contract_on_other_spheres(size):
    check_distribution(
        lambda: flows.sphere((size,), (3,), **SMALL), event_shape=(size,), context=torch.randn(5, 3)
    ).raise_if_failed()


def test_contract_on_the_sphere():
    check_distribution(
        lambda: flows.sphere((3,), classes=4, layers=1, hidden=(8,), bins=4),
        event_shape=(3,),
        context=torch.arange(4),
    ).raise_if_failed()


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_heights_and_angle_are_coordinates(size):
    x = directions(size)
    assert heights(x).shape == (50, size - 1)
    assert torch.allclose(point(heights(x)), x, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_stereographic_projection_is_a_bijection_by_area(size):
    torch.manual_seed(0)
    z = 2 * torch.randn(20, size - 1, dtype=torch.float64)
    transform = Stereographic()
    x, log_det = transform.forward_and_log_det(z)
    assert Sphere().check(x).all()
    back, minus = transform.inverse_and_log_det(x)
    assert torch.allclose(back, z)
    assert torch.allclose(minus, -log_det)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda z: transform(z), z[row])
        area = 0.5 * (jacobian.T @ jacobian).slogdet().logabsdet
        assert torch.allclose(area, log_det[row])


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_log_determinants_are_those_of_autograd_in_a_chart(size):
    flow, chart = made(size), Stereographic()
    z = chart.inverse_and_log_det(directions(size, 4))[0]
    for layer in flow.bijections:
        transform = layer()
        for there in (transform.forward_and_log_det, transform.inverse_and_log_det):
            for row in z:
                x, start = chart.forward_and_log_det(row)
                y, log_det = there(x)
                jacobian = torch.autograd.functional.jacobian(
                    lambda z, f=there: chart.inverse_and_log_det(f(chart(z))[0])[0], row
                )
                end = -chart.inverse_and_log_det(y)[1]
                expected = jacobian.slogdet().logabsdet + end - start
                assert torch.allclose(expected, log_det, atol=1e-8)
        y = transform(directions(size))
        assert torch.allclose(transform.inv(y), directions(size), atol=1e-7)


@pytest.mark.parametrize("layers", [1, 3])
def test_integral_over_the_sphere_is_one(layers):
    flow = made(3, layers=layers)
    with torch.no_grad():
        total = flow().log_prob(grid()).exp().mean() * 4 * math.pi
    assert abs(total - 1) < 5e-3


@pytest.mark.parametrize("size", [4, 5])
def test_integral_over_higher_spheres_is_one(size):
    flow = made(size, spread=0.2)
    torch.manual_seed(0)
    x = UniformSphere(size, torch.zeros((), dtype=torch.float64)).sample((40_000,))
    with torch.no_grad():
        weights = (flow().log_prob(x) + log_area(size - 1)).exp()
    assert abs(weights.mean() - 1) < 5 * weights.std() / len(x) ** 0.5
    assert weights.std() > 0.2


def test_areas_of_spheres():
    for dimensions, area in ((1, 2 * math.pi), (2, 4 * math.pi), (3, 2 * math.pi**2)):
        assert abs(math.exp(log_area(dimensions)) - area) < 1e-9


def test_a_von_mises_density_on_the_sphere_is_learned():
    """The divergence from a density that Pyro knows; its mode is at a pole of the first layer."""
    target = dist.VonMises3D(torch.tensor([0.0, 0.0, 8.0]))
    x = grid(100).float()
    log_p = target.log_prob(x)
    torch.manual_seed(0)
    data = x[torch.multinomial(log_p.exp(), 4000, replacement=True)]
    data = torch.nn.functional.normalize(data + 0.01 * torch.randn_like(data), dim=-1)
    flow = flows.sphere((3,), layers=2, hidden=(32,), bins=6)
    pg.fit(flow, data, steps=300, batch_size=256, lr=1e-2, seed=0)
    with torch.no_grad():
        log_q = flow.eval()().log_prob(x)
    cell = 4 * math.pi / len(x)
    assert abs((log_p.exp() * cell).sum() - 1) < 3e-3
    assert 0 <= (log_p.exp() * (log_p - log_q) * cell).sum() < 0.05


def test_poles_are_points_like_others():
    flow = made(3)
    poles = torch.cat([torch.eye(3), -torch.eye(3)]).double().requires_grad_()
    score = flow().log_prob(poles)
    assert score.isfinite().all()
    assert torch.autograd.grad(score.sum(), poles)[0].isfinite().all()


def test_support_is_known_to_guides():
    support = flows.sphere((3,), **SMALL)().support
    assert isinstance(support, Sphere)
    x = biject_to(support)(torch.randn(7, 2))
    assert support.check(x).all()
    assert not support.check(2 * x).any()
    with pytest.raises(ValueError, match="must lie within the support"):
        flows.sphere((3,), **SMALL)().log_prob(2 * x)


@pytest.mark.parametrize("shape", [(), (1,), (2, 2)])
def test_other_events_are_refused(shape):
    with pytest.raises(ValueError, match="`event_shape` must be that of a vector of at least 2 elements"):
        flows.sphere(shape)
