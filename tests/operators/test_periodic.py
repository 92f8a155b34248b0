"""Circular convolutions and shifts: rolls, waves, registration, and closed spectra."""

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

from pyrogen.operators import CircularConvolution, Shift

DOUBLE = torch.double


@st.composite
def periodic(draw):
    """An operator along one to three dimensions, fixed or one for each signal of a batch."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    dims = draw(st.integers(1, len(shape)))
    batch = draw(st.sampled_from([(), (3,), (2, 1)]))
    if draw(st.booleans()):
        size = [draw(st.integers(1, n)) for n in shape[-dims:]]
        return CircularConvolution(shape, torch.randn(size, dtype=DOUBLE)), batch
    return Shift(shape, torch.randn(*(batch if draw(st.booleans()) else ()), dims, dtype=DOUBLE)), batch


@settings(deadline=None, max_examples=60)
@given(periodic())
def test_the_adjoint_is_the_transpose(case):
    operator, batch = case
    x, y = torch.randn(2, *batch, *operator.shape, dtype=DOUBLE)
    forward, back = operator(x), operator.adjoint(y)
    assert forward.shape == back.shape == x.shape
    bound = 1e-10 * (1 + float(forward.norm() * y.norm()))
    assert (forward * y).sum().item() == pytest.approx((x * back).sum().item(), abs=bound)


@settings(deadline=None, max_examples=25)
@given(periodic())
def test_the_spectrum_is_that_of_the_matrix(case):
    operator, _ = case
    if isinstance(operator, Shift):
        operator = Shift(operator.shape, operator.shift.flatten()[: operator.shift.shape[-1]])
    size = math.prod(operator.shape)
    dense = operator(torch.eye(size, dtype=DOUBLE).reshape(size, *operator.shape)).flatten(1).T
    assert operator.norm() == pytest.approx(torch.linalg.matrix_norm(dense, 2).item())
    spectrum, y = operator.spectrum(), torch.randn(2, *operator.shape, dtype=DOUBLE)
    covariance = 0.3 * torch.eye(size, dtype=DOUBLE) + 1.7 * dense @ dense.T
    torch.testing.assert_close(spectrum.solve(y, 0.3, 1.7).flatten(1), y.flatten(1) @ covariance.inverse())
    torch.testing.assert_close(spectrum.log_det(0.3, 1.7), covariance.logdet())


def test_whole_shifts_move_and_parts_add_up():
    x = torch.randn(2, 3, 6, 7, dtype=DOUBLE)
    shape = (3, 6, 7)
    torch.testing.assert_close(Shift(shape, torch.tensor([2.0, -3.0], dtype=DOUBLE))(x), x.roll((2, -3), (-2, -1)))
    odd = x[..., :5, :]
    half = Shift((3, 5, 7), torch.tensor([0.5, -0.25], dtype=DOUBLE))
    twice = Shift((3, 5, 7), torch.tensor([1.0, -0.5], dtype=DOUBLE))
    torch.testing.assert_close(half(half(odd)), twice(odd))
    torch.testing.assert_close(half.adjoint(half(odd)), odd)  # odd sizes: no wave without a direction


@pytest.mark.parametrize("size", [8, 9])
def test_a_wave_moves_by_parts_of_a_pixel(size):
    place = torch.arange(size, dtype=DOUBLE)
    for frequency in range((size - 1) // 2 + 1):
        wave = lambda r, k=frequency: torch.cos(2 * math.pi * k * r / size + 0.3)  # noqa: E731
        torch.testing.assert_close(Shift((size,), torch.tensor([0.37], dtype=DOUBLE))(wave(place)), wave(place - 0.37))


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5), (6, 5)])
def test_a_shift_along_two_dimensions_is_one_along_each(height, width):
    down, right, shift = torch.randn(height, dtype=DOUBLE), torch.randn(width, dtype=DOUBLE), torch.tensor([0.3, -1.2])
    found = Shift((height, width), shift)(down.outer(right))
    torch.testing.assert_close(found, Shift((height,), shift[:1])(down).outer(Shift((width,), shift[1:])(right)))


def test_a_convolution_is_the_sum():
    x, kernel = torch.randn(7, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    exact = [sum(kernel[k] * x[(n + 2 - k) % 7] for k in range(4)) for n in range(7)]
    torch.testing.assert_close(CircularConvolution((7,), kernel)(x), torch.stack(exact))


def test_slopes_maps_and_copies():
    x = torch.randn(2, 5, 4, dtype=DOUBLE)
    shift = torch.tensor([0.3, -1.2], dtype=DOUBLE, requires_grad=True)
    kernel = torch.randn(3, 2, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, x: Shift((2, 5, 4), s)(x), (shift, x.requires_grad_()))
    assert torch.autograd.gradcheck(lambda k, x: CircularConvolution((2, 5, 4), k)(x), (kernel, x))
    shifts, x = torch.randn(6, 2, dtype=DOUBLE), x.detach()
    mapped = torch.func.vmap(lambda s: Shift((2, 5, 4), s)(x))(shifts)
    torch.testing.assert_close(mapped, Shift((2, 5, 4), shifts)(x.expand(6, 2, 5, 4)))
    operator = Shift((2, 5, 4), shift.detach())
    whole = operator(torch.eye(40, dtype=DOUBLE).reshape(40, 2, 5, 4)).movedim(0, -1).unflatten(-1, (2, 5, 4))
    torch.testing.assert_close(torch.func.jacrev(operator)(x), whole)
    torch.testing.assert_close(pickle.loads(pickle.dumps(operator))(x), operator(x))
    assert operator.to(torch.float).shift.dtype == torch.float
    assert operator(x.float()).dtype == torch.float


def test_two_pictures_are_registered():
    """A latent shift in a Pyro program is found to a hundredth of a pixel."""
    pyro.set_rng_seed(0)
    side = torch.arange(16, dtype=DOUBLE) - 8
    x = torch.exp(-0.5 * (side.square() + (side[:, None] - 1).square()) / 4)[None]
    y = Shift((1, 16, 16), torch.tensor([1.3, -0.6], dtype=DOUBLE))(x)

    def program():
        shift = pyro.sample("shift", dist.Normal(torch.zeros(2, dtype=DOUBLE), 3.0).to_event(1))
        pyro.sample("y", dist.Normal(Shift((1, 16, 16), shift)(x), 0.05).to_event(3), obs=y)

    guide = AutoDelta(program)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(200):
        svi.step()
    torch.testing.assert_close(guide.median()["shift"], torch.tensor([1.3, -0.6], dtype=DOUBLE), atol=0.01, rtol=0)


REFUSED = [
    (lambda **o: Shift(**{"shape": (4, 4), "shift": torch.zeros(2), **o}), "shape", ((0, 4), 4)),
    (lambda **o: Shift((4, 4), **o), "shift", (torch.zeros(3), torch.tensor(1.0), torch.zeros(2).int(), [1.0, 2.0])),
    (lambda **o: CircularConvolution((4, 4), **o), "kernel",
     (torch.ones(5), torch.ones(2, 2, 2), torch.tensor(1.0), torch.ones(2).int(), torch.full((2,), math.nan), [1.0])),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "name", "value"), [(e, n, v) for e, n, vs in REFUSED for v in vs])
def test_bad_input_is_refused_by_name(entry, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        entry(**{name: value})


def test_what_several_shifts_do_not_have():
    several = Shift((4, 4), torch.zeros(3, 2))
    with pytest.raises(NotImplementedError, match="one operator has a spectrum"):
        several.spectrum()
    with pytest.raises(ValueError, match="`x` must end in shape"):
        several(torch.zeros(3, 4, 5))
