"""The edit distance, against all ways to edit."""

from itertools import product

import pytest
import torch

from pyrogen.evaluation import Estimate, edit_distance, error_rates


def edited_once(sequence):
    """All sequences of "ab" that one edit makes of a sequence."""
    for place in range(len(sequence) + 1):
        for letter in "ab":
            yield sequence[:place] + letter + sequence[place:]
            yield sequence[:place] + letter + sequence[place + 1 :]
        yield sequence[:place] + sequence[place + 1 :]


def test_it_is_the_smallest_number_of_edits():
    """By a search over everything that so many edits make; longer sequences than five letters never help on the way."""
    every = ["".join(letters) for length in range(5) for letters in product("ab", repeat=length)]
    for start in every:
        reached, steps = {start: 0}, 0
        while not all(each in reached for each in every):
            steps += 1
            new = {after for before in reached for after in edited_once(before) if len(after) <= 5}
            reached = {**dict.fromkeys(new, steps), **reached}
        assert all(edit_distance(start, each) == reached[each] for each in every)


def test_members_are_compared_whole():
    assert edit_distance(["please", "press", "one"], ["press", "won", "please"]) == 3
    assert edit_distance([1, 2, 3], [1, 3]) == edit_distance([1, 3], [1, 2, 3]) == 1
    assert edit_distance([], ["a"]) == 1
    assert edit_distance([], []) == 0


def test_members_of_arrays_and_tensors_are_compared_as_numbers():
    found, wanted = torch.tensor([1, 2, 3]), torch.tensor([1, 3])
    for pair in ((found, wanted), (found.numpy(), wanted.numpy()), (found, wanted.tolist())):
        assert edit_distance(*pair) == 1
        assert type(edit_distance(*pair)) is int


def test_error_rates_are_ratios_of_sums_and_their_differences_are_paired():
    wanted = [["one", "two", "three"], ["four"], ["five", "six"]]
    found = {"good": [["one", "two", "three"], ["for"], ["five", "six"]], "bad": [["one", "three"], ["for"], ["six"]]}
    rates = error_rates(found, wanted, baseline="good")
    assert rates["good"].rate.value == pytest.approx(1 / 6)
    assert rates["bad"].rate.value == pytest.approx(3 / 6)
    assert (rates["good"].difference.value, rates["good"].difference.standard_error) == (0, 0)
    more = Estimate.of_ratio(torch.tensor([1, 0, 1]), torch.tensor([3, 1, 2]), unit="error rate")
    assert rates["bad"].difference == more
    assert error_rates(found, wanted) == rates  # the first is the baseline
    assert error_rates(found, wanted, baseline="bad")["good"].difference.value == pytest.approx(-1 / 3)


def test_error_rates_of_what_does_not_fit_are_refused():
    with pytest.raises(ValueError, match="`baseline` must be one of those that `found` names, a, got 'b'"):
        error_rates({"a": ["x"]}, ["x"], baseline="b")
    with pytest.raises(ValueError, match="`found` must have the 2 data of `wanted`, got 1 of 'a'"):
        error_rates({"a": ["x"]}, ["x", "y"])
    with pytest.raises(ValueError, match="`baseline`"):
        error_rates({}, ["x"])
