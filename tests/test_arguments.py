"""Checks of arguments: what passes, and how a mistake is named."""

import numpy as np
import pytest
import torch

from pyrogen import arguments

NAN, INFINITY = float("nan"), float("inf")


def test_what_makes_sense_comes_back():
    assert arguments.integer(3, "layers") == 3
    assert arguments.integer(0, "depth", least=0) == 0
    assert arguments.positive(0.5, "scale", most=0.5) == 0.5
    assert arguments.non_negative(0, "beta") == 0
    assert arguments.share(0.0, "dropout") == 0.0
    assert arguments.sizes([4, 5], "hidden") == (4, 5)
    assert arguments.sizes((), "hidden") == ()
    assert arguments.switch(False, "mixing") is False


@pytest.mark.parametrize("value", [2.0, "3", None, True, np.int64(3), torch.tensor(3), [3], NAN])
def test_what_is_no_integer_is_named(value):
    with pytest.raises(TypeError, match="`layers` must be an int, got"):
        arguments.integer(value, "layers")


@pytest.mark.parametrize("check", ["number", "positive", "non_negative", "share"])
@pytest.mark.parametrize("value", ["3", None, True, torch.tensor(0.5), [0.5], NAN, INFINITY, -INFINITY])
def test_what_is_no_number_is_named(check, value):
    with pytest.raises((TypeError, ValueError), match="`rate` must be"):
        getattr(arguments, check)(value, "rate")


@pytest.mark.parametrize(
    ("check", "value"),
    [("integer", 0), ("positive", 0), ("positive", -1e-9), ("non_negative", -1e-9), ("share", 1), ("share", -0.1)],
)
def test_numbers_out_of_range_are_named(check, value):
    with pytest.raises(ValueError, match=f"`rate` must .*got {value}"):
        getattr(arguments, check)(value, "rate")


@pytest.mark.parametrize("values", [3, "34", (0,), (-1, 4), (2.0,), (True,), ("4",), None, (None,)])
def test_sizes_that_are_none_are_named(values):
    with pytest.raises((TypeError, ValueError), match="`hidden` must"):
        arguments.sizes(values, "hidden")


def test_too_few_sizes_are_named():
    with pytest.raises(ValueError, match="`hidden` must name at least 1 layer, got none"):
        arguments.sizes((), "hidden", fewest=1)


def test_a_switch_is_a_bool():
    with pytest.raises(TypeError, match="`mixing` must be True or False, got 1 of type int"):
        arguments.switch(1, "mixing")
