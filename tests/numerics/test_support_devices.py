"""Supports follow the device of the values that are held against them."""

import pytest
import torch
from torch.distributions import constraints

from pyrogen.numerics.supports import OpenInterval, Packed, beside, widened

low, high = torch.tensor([-1.0, 2.0]), torch.tensor([0.0, 5.0])


@pytest.mark.parametrize(
    "constraint",
    [
        OpenInterval(low, high),
        constraints.greater_than(low),
        constraints.integer_interval(0, high),
        constraints.independent(OpenInterval(low, high), 1),
    ],
    ids=str,
)
def test_bounds_go_where_values_are(constraint):
    part = widened(constraint, 1)
    values = torch.zeros(5, 2, device="meta")  # of another device than the bounds
    assert Packed([((2,), part)]).check(values).shape == (5,)
    here = torch.tensor([[-0.5, 3.0], [-0.5, 7.0]])
    assert torch.equal(Packed([((2,), part)]).check(here), part.check(here))


def test_a_constraint_that_is_there_already_is_not_copied():
    for constraint in (constraints.simplex, constraints.positive, OpenInterval(low, high)):
        assert beside(constraint, low) is constraint
