"""Dequantization: undone by quantization, uniform in between, and a bound that is a bound."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrogen.data import dequantize, quantize


@given(
    symbols=st.integers(1, 65536),
    shape=st.lists(st.integers(0, 5), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_quantize_undoes_dequantize(symbols, shape, seed):
    values = torch.randint(symbols, shape, generator=torch.Generator().manual_seed(seed))
    reals = dequantize(values, symbols, seed=seed)
    assert reals.shape == values.shape
    assert ((reals > 0) & (reals < 1)).all()
    assert torch.equal(quantize(reals, symbols), values)


@pytest.mark.parametrize("symbols", [2, 17, 256, 65536])
def test_every_level_survives(symbols):
    """Rounding to single precision must not lift a value into the next level, whatever the noise."""
    values = torch.arange(symbols).repeat(-(-200_000 // symbols))
    assert torch.equal(quantize(dequantize(values, symbols, seed=0), symbols), values)


def test_the_noise_is_uniform():
    """Kolmogorov-Smirnov distance of 100,000 draws against its 99.9 % point, 1.95 / sqrt(n)."""
    values = torch.full((100_000,), 3)
    noise, _ = (dequantize(values, 10, seed=0) * 10 - 3).sort()
    grid = torch.arange(1, len(noise) + 1) / len(noise)
    assert (noise - grid).abs().max() < 1.95 / math.sqrt(len(noise))


def test_the_noise_is_independent_of_its_neighbours():
    noise = dequantize(torch.zeros(100_000, 2, dtype=torch.long), 1, seed=0)
    assert noise.T.corrcoef()[0, 1].abs() < 5 / math.sqrt(len(noise))


def test_seeds():
    values = torch.randint(17, (10, 8))
    state = torch.get_rng_state()
    first = dequantize(values, 17, seed=1)
    assert torch.equal(first, dequantize(values, 17, seed=1))
    assert not torch.equal(first, dequantize(values, 17, seed=2))
    assert torch.equal(torch.get_rng_state(), state), "global noise must not move"


def test_the_bound_is_tight_for_a_density_flat_in_each_level():
    """The module's promise: mean log p((v + u) / K) - log K is log P(v) where p does not vary within a level."""
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4])
    values = torch.arange(4).repeat(1000)
    log_density = (probability * 4).log()[quantize(dequantize(values, 4, seed=0), 4)]
    torch.testing.assert_close(log_density - math.log(4), probability.log()[values])


def test_quantize_keeps_the_edges():
    assert quantize(torch.tensor([0.0, 0.5, 1.0]), 4).tolist() == [0, 2, 3]
    assert quantize(torch.tensor([0.0, 0.5, 1.0]), 4).dtype == torch.long


@pytest.mark.parametrize("values", [torch.tensor([0.0, 1.0]), torch.tensor([0, 4]), torch.tensor([-1, 2])])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="`values` must be integers from 0 to 3, got"):
        dequantize(values, 4, seed=0)


def test_nothing_is_fine():
    assert dequantize(torch.zeros(0, 3, dtype=torch.long), 4, seed=0).shape == (0, 3)


@pytest.mark.parametrize("symbols", [256, 300, 1000])
def test_bytes_are_dequantized_like_other_integers(symbols):
    values = torch.arange(256)
    assert torch.equal(dequantize(values.byte(), symbols, seed=0), dequantize(values, symbols, seed=0))
