"""Draws in a context that is NaN are NaN, in its rows alone, also where they are found by iteration."""

from functools import partial

import pytest
import torch

from pyrogen import flows

RECIPES = {
    "spline": flows.spline_autoregressive,
    "circular": flows.circular,
    "smooth": partial(flows.circular, smooth=True),
    "neural": flows.neural_autoregressive,
    "block": flows.block_neural_autoregressive,
    "residual": flows.residual,
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_draws_in_a_context_that_is_nan_are_nan(recipe):
    torch.manual_seed(0)
    flow = recipe((2,), (1,), layers=2).eval()
    draws = flow(torch.tensor([[torch.nan], [0.3]])).sample((3,))
    assert draws[:, 0].isnan().all()
    assert draws[:, 1].isfinite().all()
