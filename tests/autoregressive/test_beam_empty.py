"""A beam search over no rows, and what is no search."""

import pytest
import torch

from pyrogen.autoregressive import beam_search, transformer


def test_a_search_over_no_rows_finds_none():
    model = transformer((3,), (2,), symbols=3, width=16, depth=1, heads=2)
    events, scores = beam_search(model(torch.zeros(0, 2)), 2)
    assert events.shape == (2, 0, 3)
    assert scores.shape == (2, 0)


def test_what_cannot_be_searched_is_refused_by_name():
    model = transformer((3,), symbols=3, width=16, depth=1, heads=2)
    for width in (2.0, True, None):
        with pytest.raises(TypeError, match="`width` must be an int"):
            beam_search(model(), width)
    with pytest.raises(NotImplementedError, match="`distribution` must be .*, got Independent"):
        beam_search(model().expand([2]).to_event(1), 2)
    with pytest.raises(NotImplementedError, match="`distribution` must be .*, got Autoregressive"):
        beam_search(model, 2)
