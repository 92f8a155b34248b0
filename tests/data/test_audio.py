"""The mu-law and its inverse."""

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
    with pytest.raises(ValueError, match="`codes` must lie between 0 and 255"):
        inverse_mu_law(torch.tensor([256]))
    with pytest.raises(ValueError, match="`symbols` must be at least 2"):
        mu_law(torch.zeros(1), 1)


def test_no_level_stands_outside_of_the_samples():
    for symbols in range(2, 400):
        codes = torch.arange(symbols)
        assert mu_law(inverse_mu_law(codes, symbols), symbols).equal(codes)
