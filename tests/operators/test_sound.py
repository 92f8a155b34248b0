"""Filters and decimation of sound: waves below and above the new Nyquist frequency, and unknown filters."""

import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import Predictive

from pyrogen.operators import LowPass, decimation

DOUBLE = torch.double


@st.composite
def filters(draw):
    shape = (*draw(st.lists(st.integers(1, 2), max_size=2)), draw(st.integers(1, 20)))
    taps = torch.randn(draw(st.integers(1, 25)), dtype=DOUBLE)
    return LowPass(shape, taps, draw(st.integers(1, 6)))


@settings(deadline=None, max_examples=60)
@given(filters(), st.sampled_from([(), (3,), (2, 1)]))
def test_the_adjoint_is_the_transpose_and_the_filter_the_sum(operator, batch):
    x = torch.randn(*batch, *operator.shape, dtype=DOUBLE)
    y = torch.randn(*batch, *operator.output_shape, dtype=DOUBLE)
    forward, back = operator(x), operator.adjoint(y)
    assert forward.shape == y.shape
    assert back.shape == x.shape
    bound = 1e-10 * (1 + float(forward.norm() * y.norm()))
    assert (forward * y).sum().item() == pytest.approx((x * back).sum().item(), abs=bound)
    one, middle, length = x.reshape(-1, operator.shape[-1])[0], len(operator.taps) // 2, operator.shape[-1]
    for n in range(operator.output_shape[-1]):
        places = [(k, operator.factor * n + middle - k) for k in range(len(operator.taps))]
        exact = sum(operator.taps[k].item() * one[place].item() for k, place in places if 0 <= place < length)
        assert forward.reshape(-1, operator.output_shape[-1])[0, n].item() == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("factor", [2, 3])
def test_waves_below_nyquist_pass_and_those_above_do_not(factor):
    length, operator = 1200, decimation((1200,), factor).to(DOUBLE)
    place, kept = torch.arange(length, dtype=DOUBLE), slice(40, -40)
    k = torch.arange(len(operator.taps), dtype=DOUBLE) - len(operator.taps) // 2
    for share in (0.0, 0.3, 0.85, 1.0, 1.15, 1.6):  # of the new Nyquist frequency
        frequency = 0.5 * share / factor
        gain = (operator.taps * torch.cos(2 * math.pi * frequency * k)).sum()  # a symmetric filter's transfer function
        found = operator(torch.cos(2 * math.pi * frequency * place + 0.4))
        exact = gain * torch.cos(2 * math.pi * frequency * place[::factor] + 0.4)
        torch.testing.assert_close(found[kept], exact[kept])
        assert gain == pytest.approx(1.0 if share < 1 else 0.5 if share == 1 else 0.0, abs=0.003)


@pytest.mark.parametrize("factor", [1, 3])
def test_norm_and_jacobians(factor):
    operator, x = LowPass((2, 20), torch.randn(7, dtype=DOUBLE), factor), torch.randn(2, 20, dtype=DOUBLE)
    whole = operator(torch.eye(40, dtype=DOUBLE).reshape(40, 2, 20)).movedim(0, -1).unflatten(-1, (2, 20))
    torch.testing.assert_close(torch.func.jacrev(operator)(x), whole)
    assert operator.norm() == pytest.approx(
        torch.linalg.matrix_norm(whole.flatten(2).flatten(0, 1), 2).item(), rel=1e-7
    )
    torch.testing.assert_close(pickle.loads(pickle.dumps(operator))(x), operator(x))
    assert operator(x.float()).dtype == operator.to(torch.float)(x.float()).dtype == torch.float


def test_the_filter_may_be_a_latent_site():
    x, taps = torch.randn(30, dtype=DOUBLE), torch.randn(5, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: LowPass((30,), h, 2)(x), (taps,))
    assert torch.autograd.gradcheck(lambda h: LowPass((30,), h, 2).adjoint(x[:15]), (taps,))
    # A recording is linear in the filter: least squares on its slopes find it.
    y = LowPass((30,), taps.detach(), 2)(x)
    slopes = torch.func.jacrev(lambda h: LowPass((30,), h, 2)(x))(torch.zeros(5, dtype=DOUBLE))
    torch.testing.assert_close(torch.linalg.lstsq(slopes, y).solution, taps.detach())

    def program():
        h = pyro.sample("taps", dist.Normal(torch.zeros(5, dtype=DOUBLE), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(LowPass((30,), h, 2)(x), 0.1).to_event(1))

    drawn = Predictive(program, num_samples=4)()
    torch.testing.assert_close(
        drawn["y"], torch.func.vmap(lambda h: LowPass((30,), h, 2)(x))(drawn["taps"]).reshape(4, 15), atol=0.6, rtol=0
    )


REFUSED = [
    (lambda **o: LowPass(**{"shape": (9,), "taps": torch.ones(3), **o}), "shape", ((), (0,), 9)),
    (
        lambda **o: LowPass((9,), **o),
        "taps",
        (torch.ones(0), torch.ones(2, 2), torch.ones(3).int(), torch.full((3,), math.inf), [1.0]),
    ),
    (lambda **o: LowPass((9,), torch.ones(3), **o), "factor", (0, 1.5)),
    (lambda **o: decimation(**{"shape": (9,), "factor": 2, **o}), "factor", (0, 1.5)),
    (lambda **o: decimation((9,), 2, **o), "lobes", (0, 1.5)),
]


@pytest.mark.parametrize(("entry", "name", "value"), [(e, n, v) for e, n, vs in REFUSED for v in vs])
def test_bad_input_is_refused_by_name(entry, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        entry(**{name: value})


def test_sounds_of_another_length_are_refused():
    with pytest.raises(ValueError, match="`x` must end in shape"):
        LowPass((9,), torch.ones(3))(torch.zeros(8))
    with pytest.raises(ValueError, match="`y` must end in shape"):
        LowPass((9,), torch.ones(3), 2).adjoint(torch.zeros(9))
