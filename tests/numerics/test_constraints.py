"""Supports made of others: what errors show of them, and values of short integer types."""

import torch
from torch.distributions import constraints

from pyrogen.numerics.supports import EachColumn, OrMissing, contains


def test_supports_are_shown_with_what_they_are_made_of():
    counts = constraints.integer_interval(0, 3)
    assert str(EachColumn([constraints.real, counts])) == f"EachColumn([{constraints.real}, {counts}])"
    assert str(OrMissing(counts)) == f"OrMissing({counts})"


def test_bounds_beyond_a_short_type_do_not_wrap_around():
    value = torch.tensor([0, 100], dtype=torch.int8)
    assert contains(constraints.integer_interval(0, 299), value).all()
