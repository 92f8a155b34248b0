"""The edit distance, against all ways to edit."""

from itertools import product

import torch

from pyrogen.evaluation import edit_distance


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
