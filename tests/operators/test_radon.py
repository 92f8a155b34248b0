"""Tomography: analytic projections, the transpose of the very matrix, and geometry as a latent site."""

import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta

from pyrogen.operators import FanBeam, Radon

DOUBLE = torch.double


def angles(views, turn=math.pi):
    return torch.arange(views, dtype=DOUBLE) * turn / views


@st.composite
def geometries(draw):
    """A parallel or fan-beam operator of any image, detector and views, fixed or differentiable."""
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    turned = torch.tensor(draw(st.lists(st.floats(-7, 7), min_size=1, max_size=4)), dtype=DOUBLE)
    turned.requires_grad_(draw(st.booleans()))
    settings = {
        "detectors": draw(st.none() | st.integers(1, 12)),
        "spacing": draw(st.floats(0.3, 3)),
        "pixel": draw(st.floats(0.3, 2)),
        "offset": draw(st.floats(-2, 2)),
    }
    if draw(st.booleans()):
        return Radon(shape, turned, **settings)
    radius = settings["pixel"] * math.hypot(*shape[1:]) / 2
    far, curved = draw(st.floats(1.2, 9)), draw(st.booleans())
    return FanBeam(shape, turned, source=radius * far, detector=draw(st.floats(0, 9)), curved=curved, **settings)


@settings(deadline=None, max_examples=30)
@given(geometries(), st.sampled_from([(), (3,), (2, 1)]))
def test_the_adjoint_is_the_transpose(operator, batch):
    x = torch.randn(*batch, *operator.shape, dtype=DOUBLE)
    y = torch.randn(*batch, *operator.output_shape, dtype=DOUBLE)
    forward, back = operator(x).detach(), operator.adjoint(y).detach()
    assert forward.shape == y.shape
    assert back.shape == x.shape
    assert (forward * y).sum().item() == pytest.approx(
        (x * back).sum().item(), abs=1e-10 * (1 + float(forward.norm() * y.norm()))
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch's own, in forward mode
@pytest.mark.parametrize("fan", [False, True])
def test_jacobians_are_the_matrix_and_maps_agree_with_batches(fan):
    make = (lambda a: FanBeam((1, 5, 4), a, source=8.0)) if fan else (lambda a: Radon((1, 5, 4), a))
    operator, x = make(angles(3)), torch.randn(6, 1, 5, 4, dtype=DOUBLE)
    whole = operator(torch.eye(20, dtype=DOUBLE).reshape(20, 1, 5, 4)).flatten(1).T
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(jacobian(operator)(x[0]).flatten(3).flatten(0, 2), whole)
    torch.testing.assert_close(torch.func.vmap(operator)(x), operator(x))
    torch.testing.assert_close(
        torch.func.vmap(operator, in_dims=3, out_dims=1)(x.movedim(0, 3)), operator(x).movedim(0, 1)
    )
    y = torch.randn(6, *operator.output_shape, dtype=DOUBLE)
    torch.testing.assert_close(torch.func.vmap(operator.adjoint)(y), operator.adjoint(y))
    assert torch.autograd.gradcheck(operator, x[:1].requires_grad_(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: operator(x).square(), x[:1].requires_grad_())


def test_fixed_and_differentiable_geometries_are_one_operator():
    fixed, free = angles(7), angles(7).requires_grad_()
    x, y = torch.randn(2, 1, 9, 6, dtype=DOUBLE), torch.randn(2, 1, 7, 11, dtype=DOUBLE)
    for make in (Radon, lambda *a, **k: FanBeam(*a, source=20.0, **k)):
        one, other = make((1, 9, 6), fixed, detectors=11), make((1, 9, 6), free, detectors=11)
        torch.testing.assert_close(one(x), other(x))
        torch.testing.assert_close(one.adjoint(y), other.adjoint(y))


@pytest.mark.parametrize("spacing", [0.4, 1.0, 2.7])
def test_every_view_keeps_the_mass_of_the_image(spacing):
    x = torch.rand(3, 2, 13, 8, dtype=DOUBLE)
    views = Radon((2, 13, 8), angles(11, 2 * math.pi), spacing=spacing, pixel=0.7, offset=0.1, detectors=64)(x)
    torch.testing.assert_close(spacing * views.sum(-1), 0.49 * x.sum((-2, -1)).unsqueeze(-1).expand(3, 2, 11))


def test_a_square_at_half_a_right_angle_casts_a_triangle():
    view = Radon((1, 1, 1), torch.tensor([math.pi / 4], dtype=DOUBLE), spacing=0.1, detectors=20)(
        torch.ones(1, 1, 1, dtype=DOUBLE)
    )
    places = (torch.arange(20, dtype=DOUBLE) - 9.5) * 0.1
    ray = (2 * (math.sqrt(0.5) - places.abs())).clamp_min(0)
    inside = places.abs() < 0.6  # bins without a kink
    torch.testing.assert_close(view[0, 0][inside], ray[inside])


def grid(size):
    side = (torch.arange(size, dtype=DOUBLE) - (size - 1) / 2) * 2 / size
    return side.expand(size, size), -side.unsqueeze(-1).expand(size, size)


def disc(size, fine=8):
    """A disc of radius 0.5 at (0.2, -0.1) in the square from -1 to 1: the part of each pixel inside."""
    x, y = grid(size * fine)
    inside = ((x - 0.2).square() + (y + 0.1).square() < 0.25).double()
    return torch.nn.functional.avg_pool2d(inside[None], fine)


def test_a_disc_has_its_analytic_projection_in_parallel_beams():
    turned, size = angles(12, 2 * math.pi), 128
    radon = Radon((1, size, size), turned, detectors=64, spacing=2 / 64, pixel=2 / size)
    # The mean of 2 sqrt(r^2 - s^2) over a detector, by its integral.
    edges = (torch.arange(65, dtype=DOUBLE) - 32) * 2 / 64 - (0.2 * turned.cos() - 0.1 * turned.sin()).unsqueeze(-1)
    s = edges.clamp(-0.5, 0.5)
    chord = (s * (0.25 - s.square()).sqrt() + 0.25 * (2 * s).asin()).diff(dim=-1) * 64 / 2
    assert (radon(disc(size))[0] - chord).abs().max() < 0.02  # at the rim, of a pixel of 0.016
    assert (radon(disc(size))[0] - chord).square().mean().sqrt() < 0.002


@pytest.mark.parametrize("curved", [False, True])
def test_a_disc_has_its_analytic_projection_in_a_fan(curved):
    turned, size = angles(12, 2 * math.pi), 128
    fan = FanBeam(
        (1, size, size), turned, source=2.5, detector=1.0, detectors=140, spacing=0.03, pixel=2 / size, curved=curved
    )
    u = (torch.arange(140 * 50, dtype=DOUBLE) - (140 * 50 - 1) / 2) * 0.03 / 50
    beside = (0.2 * turned.cos() - 0.1 * turned.sin()).unsqueeze(-1)
    ahead = (2.5 - 0.2 * turned.sin() - 0.1 * turned.cos()).unsqueeze(-1)
    slope = (u / 3.5).tan() if curved else u / 3.5
    from_ray = (beside - ahead * slope) / (1 + slope.square()).sqrt()  # distance of the centre from the ray
    chord = 2 * (0.25 - from_ray.square()).clamp_min(0).sqrt()
    chord = chord.unflatten(-1, (140, 50)).mean(-1)
    assert (fan(disc(size))[0] - chord).abs().max() < 0.02
    assert (fan(disc(size))[0] - chord).square().mean().sqrt() < 0.002


def test_a_gaussian_has_a_gaussian_projection_and_its_back_projection():
    turned, size, width = angles(90), 96, 0.15
    x, y = grid(size)
    image = torch.exp(-0.5 * ((x - 0.2).square() + (y + 0.1).square()) / width**2)[None]
    radon = Radon((1, size, size), turned, spacing=2 / size, pixel=2 / size)
    s = (torch.arange(radon.detectors, dtype=DOUBLE) - (radon.detectors - 1) / 2) * 2 / size
    centre = (0.2 * turned.cos() - 0.1 * turned.sin()).unsqueeze(-1)
    ray = width * math.sqrt(2 * math.pi) * torch.exp(-0.5 * ((s - centre) / width).square())
    assert (radon(image)[0] - ray).abs().max() < 2e-3
    assert (radon.filtered_back_projection(radon(image)) - image).abs().max() < 0.01
    smooth = radon.filtered_back_projection(radon(image), lambda f: (math.pi * f).cos())
    assert 0.001 < (smooth - image).abs().max() < 0.05


@pytest.mark.parametrize("curved", [False, True])
def test_filtered_back_projection_of_a_fan(curved):
    x, y = grid(64)
    image = torch.exp(-0.5 * ((x - 0.6).square() + (y + 0.5).square()) / 0.15**2)[None]
    image = image + 0.3 * (x.square() + y.square() < 0.81)
    settings = {"source": 1.6, "detector": 1.0, "spacing": 0.04, "pixel": 2 / 64, "offset": 0.04, "curved": curved}
    fan = FanBeam((1, 64, 64), angles(180, 2 * math.pi), **settings)
    error = (fan.filtered_back_projection(fan(image), lambda f: (math.pi * f).cos()) - image)[0]
    inside = x.square() + y.square() < 0.6
    assert error[inside].mean().abs() < 0.001
    assert error[inside].square().mean().sqrt() < 0.004


def test_a_distant_source_gives_parallel_beams():
    x = torch.rand(1, 12, 9, dtype=DOUBLE)
    far = FanBeam((1, 12, 9), angles(8), source=1e9, detectors=16)
    torch.testing.assert_close(far(x), Radon((1, 12, 9), angles(8), detectors=16)(x), atol=1e-6, rtol=1e-6)


def test_slopes_in_angles_and_offset():
    x = torch.rand(1, 6, 5, dtype=DOUBLE)
    turned = torch.tensor([0.3, 1.1, 2.9], dtype=DOUBLE, requires_grad=True)
    offset = torch.tensor([0.2, -0.1, 0.4], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, c: Radon((1, 6, 5), a, offset=c)(x), (turned, offset))
    assert torch.autograd.gradcheck(lambda a, c: FanBeam((1, 6, 5), a, offset=c, source=9.0)(x), (turned, offset))
    many = torch.randn(4, dtype=DOUBLE) * 0.3
    mapped = torch.func.vmap(lambda c: Radon((1, 6, 5), turned.detach(), offset=c)(x))(many)
    one = torch.stack([Radon((1, 6, 5), turned.detach(), offset=float(c))(x) for c in many])
    torch.testing.assert_close(mapped, one)


def test_an_unknown_axis_of_rotation_is_found():
    """A latent offset in a Pyro program: the most probable one is the true one."""
    pyro.set_rng_seed(0)
    x, views = disc(16), angles(8, 2 * math.pi)
    y = Radon((1, 16, 16), views, offset=1.3)(x)

    def program():
        offset = pyro.sample("offset", dist.Normal(torch.zeros((), dtype=DOUBLE), 2.0))
        pyro.sample("y", dist.Normal(Radon((1, 16, 16), views, offset=offset)(x), 0.1).to_event(3), obs=y)

    guide = AutoDelta(program)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(150):
        svi.step()
    assert guide.median()["offset"].item() == pytest.approx(1.3, abs=0.02)


def test_copies_and_moves():
    operator, x = Radon((1, 8, 8), angles(5).float()), torch.rand(1, 8, 8)
    torch.testing.assert_close(pickle.loads(pickle.dumps(operator))(x), operator(x))
    double = operator.to(torch.double)
    torch.testing.assert_close(double(x.double()), operator(x.double()), atol=0, rtol=0)
    assert operator(x).dtype == torch.float32
    assert operator(x.double()).dtype == DOUBLE
    assert operator.to("meta").angles.device.type == "meta"


REFUSED = [
    (Radon, "shape", (8, 8)),
    (Radon, "angles", torch.zeros(2, 2)),
    (Radon, "angles", [0.0]),
    (Radon, "angles", torch.tensor([math.nan])),
    (Radon, "detectors", 0),
    (Radon, "spacing", 0.0),
    (Radon, "pixel", -1.0),
    (Radon, "offset", torch.zeros(3)),
    (Radon, "offset", "0"),
    (FanBeam, "source", 5.0),
    (FanBeam, "detector", -1.0),
    (FanBeam, "curved", 1),
]


@pytest.mark.parametrize(("kind", "name", "value"), REFUSED, ids=lambda part: str(part)[:20])
def test_bad_geometry_is_refused_by_name(kind, name, value):
    good = {"shape": (1, 8, 8), "angles": torch.zeros(2), **({"source": 20.0} if kind is FanBeam else {})}
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        kind(**{**good, name: value})


def test_images_and_views_of_another_shape_are_refused():
    radon = Radon((1, 8, 8), torch.zeros(2), detectors=8)
    with pytest.raises(ValueError, match="`x` must end in shape"):
        radon(torch.zeros(1, 8, 9))
    for method in (radon.adjoint, radon.filtered_back_projection):
        with pytest.raises(ValueError, match="`y` must end in shape"):
            method(torch.zeros(2, 8))
