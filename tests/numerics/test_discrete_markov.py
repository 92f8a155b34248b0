"""Kernels of discrete states leave their law as it is, and find it."""

import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import one_hot

from pyrogen.numerics.markov.discrete import block_gibbs, gibbs, gibbs_with_gradients

BITS, SYMBOLS = 10, 3


def network(inputs, scale, seed=0):
    """A smooth log-density far from multilinear."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(inputs, 16, generator=generator).double() * scale
    second = torch.randn(16, generator=generator).double()
    return lambda x: (x.flatten(1).double() @ first).sin() @ second


def bits():
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * BITS)


def symbols(count=6):
    return one_hot(torch.cartesian_prod(*[torch.arange(SYMBOLS)] * count), SYMBOLS).float()


def number(x):
    if x.dim() == 2:
        return (x * 2 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1).long()
    return (x.argmax(-1) * SYMBOLS ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)


def p_value(draws, law):
    """Of a chi-square test, with rare states put together."""
    counts, expected = torch.bincount(number(draws), minlength=len(law)).double(), law * len(draws)
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum(0, keepdim=True)])
    expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True)])
    return chisquare(counts[expected > 0], expected[expected > 0]).pvalue


def led(log_density, x):
    return gibbs_with_gradients(log_density, x, steps=4)[0]


def scanned(log_density, x):
    return gibbs(log_density, x)


def at_random(log_density, x):
    return gibbs(log_density, x, random_scan=True)


@pytest.mark.parametrize("kernel", [led, scanned, at_random])
@pytest.mark.parametrize("states", [bits, symbols])
def test_leaves_a_law_of_a_thousand_states_as_it_is(kernel, states):
    torch.manual_seed(1)
    every = states()
    assert torch.equal(number(every), torch.arange(len(every)))
    log_density = network(every[0].numel(), 0.7)
    law = log_density(every).softmax(0)
    draws = every[law.multinomial(30_000, replacement=True)]
    assert p_value(draws, law) > 1e-3
    after = kernel(log_density, draws)
    assert (number(after) != number(draws)).double().mean() > 0.2
    assert p_value(after, law) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [led, scanned, at_random])
@pytest.mark.parametrize("states", [bits, symbols])
def test_finds_the_law_from_one_state(kernel, states):
    torch.manual_seed(2)
    every = states()
    log_density = network(every[0].numel(), 0.4)
    law = log_density(every).softmax(0)
    x = every[:1].expand(5_000, *every.shape[1:])
    for _ in range(25):
        x = kernel(log_density, x)
    assert p_value(x, law) > 1e-3


def coupled(size, values, seed=3):
    """Multilinear in bits or one-hot symbols, with couplings within pairs (0, 1), (1, 2), ...: a chain."""
    couplings = torch.randn(size - 1, values, values, generator=torch.Generator().manual_seed(seed))
    if values == 1:
        return lambda x: (x[:, :-1] * x[:, 1:] * couplings.flatten()).sum(1)
    return lambda x: torch.einsum("nik,ikl,nil->n", x[:, :-1], couplings, x[:, 1:])


@pytest.mark.parametrize(("states", "values"), [(bits, 1), (symbols, SYMBOLS)])
def test_blocks_of_every_second_element_of_a_chain(states, values):
    torch.manual_seed(4)
    every = states()
    log_density = coupled(every.shape[1], values)
    law = log_density(every).double().softmax(0)
    even = torch.arange(every.shape[1]) % 2 == 0
    logits = torch.func.grad(lambda x: log_density(x).sum())
    draws = every[law.multinomial(30_000, replacement=True)]
    assert p_value(block_gibbs(logits, draws, [even, ~even]), law) > 1e-3
    x = every[:1].expand(5_000, *every.shape[1:])
    assert p_value(block_gibbs(logits, x, [even, ~even], sweeps=20), law) > 1e-3


def test_a_single_bit_without_preference_alternates():
    x, accepted = gibbs_with_gradients(lambda x: 0 * x.sum(1), torch.zeros(7, 1), steps=3)
    assert torch.equal(x, torch.ones(7, 1))
    assert torch.equal(accepted, torch.ones(7))


def test_states_are_as_many_and_of_the_dtype_as_before():
    x = torch.zeros(3, 4, dtype=torch.double)
    assert gibbs(lambda x: x.sum(1), x).dtype == gibbs_with_gradients(lambda x: x.sum(1), x)[0].dtype == torch.double
    empty = torch.zeros(0, 4)
    assert gibbs(lambda x: x.sum(1), empty).shape == gibbs_with_gradients(lambda x: x.sum(1), empty)[0].shape == (0, 4)
