"""A beam search over no rows, in half precision, and what is no search."""

import pytest
import torch
from sequence_truth import jiggled

from pyrogen.autoregressive import beam_search, transformer


def test_a_search_over_no_rows_finds_none():
    model = transformer((3,), (2,), symbols=3, width=16, depth=1, heads=2)
    events, scores = beam_search(model(torch.zeros(0, 2)), 2)
    assert events.shape == (2, 0, 3)
    assert scores.shape == (2, 0)


def test_scores_are_in_single_precision_under_autocast():
    model = jiggled(transformer((4,), symbols=3, width=16, depth=1, heads=2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        events, scores = beam_search(model(), 27)
        log_probs = model().log_prob(events)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, log_probs, atol=0.1)
    assert len(scores.unique()) == 27


def test_what_cannot_be_searched_is_refused_by_name():
    model = transformer((3,), symbols=3, width=16, depth=1, heads=2)
    for width in (2.0, True, None):
        with pytest.raises(TypeError, match="`width` must be an int"):
            beam_search(model(), width)
    with pytest.raises(NotImplementedError, match="`distribution` must be .*, got Independent"):
        beam_search(model().expand([2]).to_event(1), 2)
    with pytest.raises(NotImplementedError, match="`distribution` must be .*, got Autoregressive"):
        beam_search(model, 2)
