"""A beam search over no rows."""

import torch

from pyrogen.autoregressive import beam_search, transformer


def test_a_search_over_no_rows_finds_none():
    model = transformer((3,), (2,), symbols=3, width=16, depth=1, heads=2)
    events, scores = beam_search(model(torch.zeros(0, 2)), 2)
    assert events.shape == (2, 0, 3)
    assert scores.shape == (2, 0)
