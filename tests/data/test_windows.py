"""Windows: every one is a slice, and the sequence and its contexts stay beside each other."""

import pytest
import torch

from pyrogen.data import windows


@pytest.mark.parametrize(("length", "hop", "count"), [(4, 1, 7), (4, 3, 3), (10, 2, 1)])
def test_windows_are_slices_from_every_hop_on(length, hop, count):
    x = torch.randn(10, 2, 3)
    found = windows(x, length, hop=hop)
    assert found.shape == (count, length, 2, 3)
    for number, window in enumerate(found):
        assert torch.equal(window, x[number * hop : number * hop + length])


def test_sequences_and_contexts_are_cut_alike():
    x, phone = torch.randn(9, 2), torch.arange(9)
    (cut, beside) = windows((x, {"phone": phone}), 4, hop=2)
    assert torch.equal(cut, windows(x, 4, hop=2))
    assert torch.equal(beside["phone"], torch.tensor([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]))
    assert torch.equal(windows(phone.numpy(), 4, hop=2), beside["phone"])


def test_what_has_no_windows_is_named():
    for short in (torch.zeros(3), torch.zeros(())):
        with pytest.raises(ValueError, match="`data` must have at least 4 steps"):
            windows(short, 4)
    with pytest.raises(TypeError, match="`data` must be a tensor, or a tuple or dict of tensors, got str"):
        windows("abcd", 2)
    with pytest.raises(ValueError, match="`hop` must be at least 1"):
        windows(torch.zeros(4), 2, hop=0)
