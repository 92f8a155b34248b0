"""The mu-law and its inverse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrogen.data import inverse_mu_law, mu_law


@pytest.mark.parametrize("symbols", [2, 7, 256, 1024])
def test_every_level_comes_back(symbols):
    codes = torch.arange(symbols)
    assert torch.equal(mu_law(inverse_mu_law(codes, symbols), symbols), codes)


@given(st.floats(-1, 1), st.sampled_from([16, 256]))
def test_a_sample_comes_back_within_half_a_level(x, symbols):
    mu = symbols - 1
    found = float(inverse_mu_law(mu_law(torch.tensor([x]), symbols), symbols))
    # The slope of the inverse bend is at most log(1 + mu) (1 + mu |x|) / mu, and half a level is 1 / mu.
    slope = float(torch.tensor(1.0 + mu).log()) / mu * (1 + mu * max(abs(x), abs(found)))
    assert abs(found - x) <= slope / mu * 1.001 + 1e-6


def test_the_published_law_at_a_point():
    # f(0.5) = log(1 + 255 / 2) / log(256) = 0.8757, which lies in level floor((1.8757 / 2) 255 + 0.5).
    assert mu_law(torch.tensor(0.5)).item() == int(1.8757 / 2 * 255 + 0.5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="`x` must lie between -1 and 1, got 1.5"):
        mu_law(torch.tensor([0.0, 1.5]))
    with pytest.raises(ValueError, match="`x` must lie between -1 and 1, got nan"):
        mu_law(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="`codes` must be integers from 0 to 255, got 256"):
        inverse_mu_law(torch.tensor([256]))
    with pytest.raises(ValueError, match="`symbols` must be at least 2"):
        mu_law(torch.zeros(1), 1)


def test_no_level_stands_outside_of_the_samples():
    for symbols in range(2, 400):
        codes = torch.arange(symbols)
        assert mu_law(inverse_mu_law(codes, symbols), symbols).equal(codes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_codes_of_any_dtype_stand_for_the_same(dtype):
    codes = torch.arange(256)
    assert torch.equal(inverse_mu_law(codes.to(dtype)), inverse_mu_law(codes))


def test_arrays_of_samples_and_what_is_no_code():
    assert torch.equal(mu_law(np.array([0.0, 1.0])), torch.tensor([128, 255]))
    assert torch.equal(inverse_mu_law(np.array([0, 255], dtype=np.uint8)), torch.tensor([-1.0, 1.0]))
    for bad in (3.5, float("nan"), -1.0):
        with pytest.raises(ValueError, match=f"`codes` must be integers from 0 to 255, got {bad}"):
            inverse_mu_law(torch.tensor([0.0, bad]))
    for convert, name in ((mu_law, "x"), (inverse_mu_law, "codes")):
        with pytest.raises(TypeError, match=f"`{name}` must be a tensor"):
            convert([0.5])
