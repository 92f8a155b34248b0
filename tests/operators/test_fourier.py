"""Magnetic resonance: shifts, sums of squares, slices, and direct sums of Fourier transforms."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrogen.operators import (
    Coils,
    ExactSpectrum,
    Fourier,
    NonuniformFourier,
    Radon,
    coil_maps,
    radial,
    random_lines,
    uniform_lines,
)

DOUBLE = torch.double


def maps(count, height, width):
    return torch.randn(count, height, width, dtype=torch.cdouble)


@st.composite
def instruments(draw):
    """Any of the operators, of real and complex images, with coils or without."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    channels, extra = draw(st.integers(1, 2)), draw(st.integers(0, 3))
    shape = (2 if extra else channels, *((extra,) if extra else ()), height, width)
    if draw(st.booleans()):
        mask = torch.rand(height, width) < 0.6
        mask[height // 2, width // 2] = True
        transform = Fourier(shape, mask)
    else:
        sampling = draw(st.sampled_from([(1,), (5,), (2, 3)]))
        transform = NonuniformFourier(shape, torch.rand(*sampling, 2, dtype=DOUBLE) - 0.5)
    return transform @ Coils((channels, height, width), maps(extra, height, width)) if extra else transform


@settings(deadline=None, max_examples=40)
@given(instruments(), st.sampled_from([(), (3,), (2, 1)]))
def test_the_adjoint_is_the_adjoint(operator, batch):
    x = torch.randn(*batch, *operator.shape, dtype=DOUBLE)
    y = torch.randn(*batch, *operator.output_shape, dtype=DOUBLE)
    forward, back = operator(x), operator.adjoint(y)
    assert forward.shape == y.shape
    assert back.shape == x.shape
    bound = 1e-10 * (1 + float(forward.norm() * y.norm()))
    assert (forward * y).sum().item() == pytest.approx((x * back).sum().item(), abs=bound)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 2))
def test_direct_sums(height, width, channels):
    x = torch.randn(2, channels, height, width, dtype=DOUBLE)
    frequencies = 3 * torch.rand(7, 2, dtype=DOUBLE) - 1.5
    image = torch.complex(x[:, 0], x[:, 1] if channels == 2 else torch.zeros_like(x[:, 0]))
    row = torch.arange(height)[:, None, None] - height // 2
    column = torch.arange(width)[:, None] - width // 2
    turn = torch.exp(-2j * math.pi * (row * frequencies[:, 0] + column * frequencies[:, 1]))  # (H, W, n)
    exact = torch.einsum("bhw,hwn->bn", image, turn) / math.sqrt(height * width)
    exact = torch.stack([exact.real, exact.imag], 1)
    found = NonuniformFourier((channels, height, width), frequencies)(x)
    assert (found - exact).norm() < 1e-6 * x.norm()


def test_frequencies_may_be_latent():
    """Summed over directly where they are differentiated: the same operator, with slopes in the frequencies."""
    fixed, x = torch.rand(2, 4, 2, dtype=DOUBLE) - 0.5, torch.randn(5, 1, 6, 7, dtype=DOUBLE)
    free = fixed.clone().requires_grad_()
    one, other = NonuniformFourier((1, 6, 7), fixed), NonuniformFourier((1, 6, 7), free)
    y = torch.randn(5, 2, 2, 4, dtype=DOUBLE)
    torch.testing.assert_close(one(x), other(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(one.adjoint(y), other.adjoint(y), atol=1e-6, rtol=1e-6)
    assert (other(x) * y).sum().item() == pytest.approx((x * other.adjoint(y)).sum().item(), abs=1e-12)
    assert torch.autograd.gradcheck(lambda f: NonuniformFourier((1, 6, 7), f)(x), (free,))
    mapped = torch.func.vmap(lambda f: NonuniformFourier((1, 6, 7), f)(x[0]))(fixed)
    torch.testing.assert_close(mapped, one(x[0]).movedim(1, 0), atol=1e-6, rtol=1e-6)


def test_on_the_grid_both_transforms_agree():
    for height, width in ((8, 6), (7, 9)):
        row, column = torch.arange(height) - height // 2, torch.arange(width) - width // 2
        grid = torch.stack(torch.meshgrid(row / height, column / width, indexing="ij"), -1).double()
        x = torch.randn(2, 3, height, width, dtype=DOUBLE)
        found = NonuniformFourier((2, 3, height, width), grid)(x).flatten(-2)
        torch.testing.assert_close(found, Fourier((2, 3, height, width))(x), atol=1e-6, rtol=1e-6)


def test_a_shift_turns_the_phase():
    x = torch.randn(2, 8, 10, dtype=DOUBLE)
    operator = Fourier((2, 8, 10))
    whole, moved = (torch.complex(*operator(part).unflatten(-1, (8, 10))) for part in (x, x.roll((3, -2), (-2, -1))))
    row, column = (torch.arange(8, dtype=DOUBLE) - 4)[:, None] / 8, (torch.arange(10, dtype=DOUBLE) - 5) / 10
    torch.testing.assert_close(moved, whole * torch.exp(-2j * math.pi * (3 * row - 2 * column)))
    point = torch.zeros(2, 8, 10, dtype=DOUBLE)
    point[0, 4, 5] = 1.0  # the origin: the same real part everywhere
    torch.testing.assert_close(operator(point)[0], torch.full((80,), 80**-0.5, dtype=DOUBLE))
    assert operator(point)[1].abs().max() < 1e-15


def test_rows_are_orthonormal_and_conditioning_is_exact():
    operator = Fourier((2, 3, 8, 10), torch.rand(8, 10) < 0.4)
    y = torch.randn(4, *operator.output_shape, dtype=DOUBLE)
    torch.testing.assert_close(operator(operator.adjoint(y)), y)
    assert operator.norm() == pytest.approx(1.0)
    spectrum = operator.spectrum()
    assert isinstance(spectrum, ExactSpectrum)
    torch.testing.assert_close(spectrum.values, torch.ones_like(spectrum.values))
    torch.testing.assert_close(spectrum.solve(y, 0.5, 2.0), y / 2.5)


def test_coils():
    for channels in (1, 2):
        coils = Coils((channels, 6, 5), maps(4, 6, 5))
        x = torch.randn(3, channels, 6, 5, dtype=DOUBLE)
        squares = coils.maps.abs().square().sum(0)
        torch.testing.assert_close(coils.gram(x), squares * x)
        dense = coils(torch.eye(channels * 30, dtype=DOUBLE).reshape(-1, channels, 6, 5)).flatten(1)
        assert coils.norm() == pytest.approx(torch.linalg.matrix_norm(dense, 2).item())
    smooth = coil_maps((12, 9), 5)
    torch.testing.assert_close(smooth.abs().square().sum(0), torch.ones(12, 9))
    assert (smooth.diff(dim=-1).abs() < 0.3).all()
    loudest = smooth.abs().flatten(1).argmax(1)
    assert len(set(loudest.tolist())) == 5
    full = Fourier((2, 5, 12, 9)) @ Coils((2, 12, 9), smooth.to(torch.cdouble))
    assert full.norm() == pytest.approx(1.0)


def test_spokes_are_transforms_of_views():
    """The projection-slice theorem, by a Gaussian that both sample well."""
    size, angles = 64, torch.tensor([0.0, 0.4, 1.3, 2.2], dtype=DOUBLE)
    side = torch.arange(size, dtype=DOUBLE) - (size - 1) / 2
    image = torch.exp(-0.5 * ((side - 5) ** 2 / 9 + (-side[:, None] - 3) ** 2 / 16))
    views = Radon((1, size, size), angles, detectors=4 * size, spacing=0.25)(image[None])[0] / 4
    place = (torch.arange(4 * size, dtype=DOUBLE) - (4 * size - 1) / 2) / 4
    spokes = radial((size, size), angles, samples=32)
    measured = NonuniformFourier((1, size, size), spokes)(image[None])
    # The origin of transforms is the pixel size // 2, half a pixel right of and below the axis of rotation.
    along = (torch.arange(32, dtype=DOUBLE) - 16) / 32
    origin = 0.5 * (angles.cos() - angles.sin())
    turn = torch.exp(-2j * math.pi * along[:, None, None] * (place - origin[:, None]))  # (samples, V, D)
    # A view is the image blurred by its pixels and detectors; their transforms are divided out.
    blur = torch.sinc(along / 4) * torch.sinc(along * angles.cos()[:, None]) * torch.sinc(along * angles.sin()[:, None])
    slices = torch.einsum("vd,svd->vs", views.to(turn), turn) / blur / size
    torch.testing.assert_close(torch.complex(*measured), slices, atol=2e-3 * slices.abs().max().item(), rtol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch's own, in forward mode
def test_jacobians_maps_copies_and_moves():
    coils = Coils((2, 4, 5), maps(2, 4, 5))
    for transform in (Fourier((2, 2, 4, 5)), NonuniformFourier((2, 2, 4, 5), torch.rand(6, 2, dtype=DOUBLE) - 0.5)):
        operator, x = transform @ coils, torch.randn(3, 2, 4, 5, dtype=DOUBLE)
        whole = operator(torch.eye(40, dtype=DOUBLE).reshape(40, 2, 4, 5)).movedim(0, -1).unflatten(-1, (2, 4, 5))
        torch.testing.assert_close(torch.func.jacrev(operator)(x[0]), whole)
        torch.testing.assert_close(torch.func.jacfwd(operator)(x[0]), whole)
        torch.testing.assert_close(torch.func.vmap(operator)(x), operator(x))
        torch.testing.assert_close(pickle.loads(pickle.dumps(operator))(x), operator(x))
        single = operator.to(torch.float)
        assert single.operators[1].maps.dtype == torch.cfloat
        assert single(x.float()).dtype == torch.float
        torch.testing.assert_close(single(x.float()).double(), operator(x), atol=1e-4, rtol=1e-4)
        assert operator.to("meta").operators[1].maps.is_meta
    y = torch.randn(2, 2, 20, dtype=DOUBLE)
    by_differentiation = torch.func.vjp(Fourier((2, 2, 4, 5)), torch.zeros(2, 2, 4, 5, dtype=DOUBLE))[1](y)[0]
    torch.testing.assert_close(Fourier((2, 2, 4, 5)).adjoint(y), by_differentiation)


def test_sensitivities_are_differentiable():
    x = torch.randn(2, 3, 3, dtype=DOUBLE)
    parts = torch.randn(2, 2, 3, 3, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda p: (Fourier((2, 2, 3, 3)) @ Coils((2, 3, 3), torch.complex(*p)))(x), (parts,)
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(2, 40), st.integers(1, 6), st.integers(0, 3))
def test_masks(height, width, factor, centre):
    uniform = uniform_lines((height, width), factor, centre=centre)
    assert uniform.shape == (height, width)
    assert (uniform == uniform[:1]).all()
    assert uniform[0, width // 2]
    assert uniform[0, width // 2 :: factor].all()
    assert width / factor - 1 < uniform[0].sum() <= width / factor + 1 + centre
    lines = round(width / factor)
    if lines >= centre and lines:
        drawn = random_lines((height, width), factor, centre=centre, generator=torch.Generator().manual_seed(0))
        assert drawn[0].sum() == lines
        middle = width // 2 - centre // 2
        assert drawn[:, middle : middle + centre].all()


REFUSED = [
    (lambda **o: Fourier(**{"shape": (2, 4, 4), **o}), "shape", ((4, 4), (3, 4, 4), (2, 0, 4), 3)),
    (lambda **o: Fourier((2, 4, 4), **o), "mask",
     (torch.ones(4, 4), torch.zeros(4, 4).bool(), torch.ones(4).bool(), [1])),
    (lambda **o: NonuniformFourier((2, 4, 4), **o), "frequencies",
     (torch.zeros(2), torch.zeros(0, 2), torch.zeros(3, 3), torch.full((2, 2), math.nan), [[0.0, 0.0]])),
    (lambda **o: Coils((2, 4, 4), **o), "maps",
     (torch.ones(2, 4, 4), torch.ones(4, 4) + 0j, torch.ones(2, 4, 5) + 0j, 1)),
    (lambda **o: uniform_lines(**{"shape": (4, 4), "factor": 2, **o}), "shape", ((4,), (4, 4, 4), (4, 0), 4)),
    (lambda **o: uniform_lines(**{"shape": (4, 4), "factor": 2, **o}), "factor", (0, 1.5)),
    (lambda **o: uniform_lines((4, 4), 2, **o), "centre", (-1, 0.5)),
    (lambda **o: random_lines((4, 8), 4, **o), "centre", (-1, 3)),
    (lambda **o: random_lines((4, 8), 4, **o), "generator", (3,)),
    (lambda **o: radial((4, 4), **{"angles": torch.zeros(2), **o}), "angles", (torch.zeros(2, 2), [0.0])),
    (lambda **o: radial((4, 4), torch.zeros(2), **o), "samples", (0,)),
    (lambda **o: coil_maps((4, 4), **{"coils": 2, **o}), "coils", (0, 1.0)),
    (lambda **o: coil_maps((4, 4), 2, **o), "distance", (1.0, "2")),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "name", "value"), [(e, n, v) for e, n, vs in REFUSED for v in vs])
def test_bad_input_is_refused_by_name(entry, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        entry(**{name: value})


def test_signals_of_another_shape_are_refused():
    operator = Fourier((2, 4, 4))
    with pytest.raises(ValueError, match="`x` must end in shape"):
        operator(torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match="`y` must end in shape"):
        operator.adjoint(torch.zeros(16))
