"""Interpolated counts: probabilities, and those of the recursion written out."""

from collections import Counter
from math import log

import pytest
import torch

from pyrogen.evaluation import witten_bell


def drawn(rows, seed, symbols=4, depth=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(symbols, (rows,), generator=generator)
    return x, torch.randint(-1, 2, (rows, depth), generator=generator)


def by_hand(train, test, symbols):
    """The recursion, by dictionaries of what followed each context."""
    x, contexts = (part.tolist() for part in train)
    followers = {}
    for symbol, context in zip(x, contexts, strict=True):
        for depth in range(len(context) + 1):
            followers.setdefault(tuple(context[:depth]), Counter())[symbol] += 1

    def probability(symbol, context):
        shorter = probability(symbol, context[:-1]) if context else 1 / symbols
        counts = followers.get(context, Counter())
        if not counts:
            return shorter
        return (counts[symbol] + len(counts) * shorter) / (counts.total() + len(counts))

    x, contexts = (part.tolist() for part in test)
    depths = range(len(contexts[0]) + 1)
    return [[log(probability(s, tuple(c[:depth]))) for s, c in zip(x, contexts, strict=True)] for depth in depths]


@pytest.mark.parametrize("rows", [1, 5, 200])
def test_it_is_the_recursion(rows):
    train, test = drawn(rows, 1), drawn(100, 2)  # of 27 contexts, most are unknown after five rows
    found = witten_bell(train, test, symbols=4)
    torch.testing.assert_close(found, torch.tensor(by_hand(train, test, 4), dtype=torch.double))


def test_it_is_a_probability_given_every_context():
    train = drawn(60, 3)
    contexts = torch.cartesian_prod(*[torch.arange(-1, 3)] * 3)  # 2 is never seen
    test = torch.arange(4).repeat(64), contexts.repeat_interleave(4, 0)
    total = witten_bell(train, test, symbols=4).exp().reshape(4, 64, 4).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_without_a_context_it_counts_symbols_alone():
    x = torch.tensor([0, 0, 1])
    found = witten_bell((x, torch.zeros(3, 0)), (torch.arange(3), torch.zeros(3, 0)), symbols=3)
    expected = torch.tensor([[2 + 2 / 3, 1 + 2 / 3, 2 / 3]], dtype=torch.double) / 5
    torch.testing.assert_close(found.exp(), expected)
    assert witten_bell(drawn(9, 1), drawn(0, 1), symbols=4).shape == (4, 0)


def test_errors_of_counts():
    with pytest.raises(TypeError, match="`train` must be a pair of symbols and contexts, got Tensor"):
        witten_bell(torch.zeros(3), drawn(3, 1), symbols=4)
    with pytest.raises(ValueError, match=r"`test` must have shapes \(n,\) and \(n, depth\), got \(3,\), \(2, 3\)"):
        witten_bell(drawn(3, 1), (torch.zeros(3), torch.zeros(2, 3)), symbols=4)
    with pytest.raises(ValueError, match="`train` must hold integers from 0 to 1, got [23]"):
        witten_bell(drawn(50, 1), drawn(3, 1), symbols=2)
    with pytest.raises(ValueError, match=r"n > 0, got \(\(0, 3\), \(3, 3\)\)"):
        witten_bell(drawn(0, 1), drawn(3, 1), symbols=4)
    with pytest.raises(ValueError, match=r"n > 0, got \(\(3, 2\), \(3, 3\)\)"):
        witten_bell(drawn(3, 1, depth=2), drawn(3, 1), symbols=4)
