"""Splitting: parts that do not overlap, the same rows of every tensor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrogen.data import split


@given(
    total=st.integers(0, 50),
    cuts=st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_parts_are_disjoint(total, cuts, seed):
    sizes = [int(cut * total / len(cuts)) for cut in cuts]
    rows = torch.arange(total)
    parts = split(rows, -rows, sizes=sizes, seed=seed)
    assert [len(part) for part, _ in parts] == sizes
    assert all(torch.equal(one, -other) for one, other in parts)
    drawn = torch.cat([part for part, _ in parts]).tolist()
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(total))


def test_fractions_cover_everything():
    rows = torch.arange(101)
    parts = split(rows, sizes=(0.5, 0.25, 0.25), seed=0)
    assert sum(len(part) for (part,) in parts) in (100, 101)
    assert [len(part) for (part,) in split(rows, sizes=(80, 0.2), seed=0)] == [80, 20]


def test_every_row_is_as_likely_to_be_held_out():
    """Each of 20 rows is held out in a quarter of 2,000 splits, within 5 standard errors."""
    counts = torch.zeros(20)
    for seed in range(2000):
        ((held_out,),) = split(torch.arange(20), sizes=(5,), seed=seed)
        counts[held_out] += 1
    assert (counts / 2000 - 0.25).abs().max() < 5 * (0.25 * 0.75 / 2000) ** 0.5


def test_seeds():
    rows, state = torch.arange(100), torch.get_rng_state()
    first = split(rows, sizes=(50,), seed=1)[0][0]
    assert torch.equal(first, split(rows, sizes=(50,), seed=1)[0][0])
    assert not torch.equal(first, split(rows, sizes=(50,), seed=2)[0][0])
    assert torch.equal(torch.get_rng_state(), state), "global noise must not move"


def test_tensors_of_other_shapes_and_types_keep_them():
    x, y = torch.randn(10, 3, 2), torch.arange(10)
    ((x_part, y_part),) = split(x, y, sizes=(4,), seed=0)
    assert torch.equal(x_part, x[y_part])
    assert y_part.dtype == torch.long


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"`tensors` must have equal lengths, got \[9, 10\]"):
        split(torch.zeros(10), torch.zeros(9), sizes=(1,), seed=0)


@pytest.mark.parametrize("sizes", [(8, 3), (0.9, 0.2), (-1, 5)])
def test_too_many_rows_are_refused(sizes):
    with pytest.raises(ValueError, match="`sizes` must add up to at most 10 rows"):
        split(torch.zeros(10), sizes=sizes, seed=0)
