"""Draws in a context that is NaN are NaN, in its rows alone, also where they are found by iteration."""

from functools import partial

import pyro.distributions as dist
import pytest
import torch

from pyrogen import flows
from pyrogen.distributions import LinearPool

RECIPES = {
    "spline": flows.spline_autoregressive,
    "circular": flows.circular,
    "smooth": partial(flows.circular, smooth=True),
    "neural": flows.neural_autoregressive,
    "block": flows.block_neural_autoregressive,
    "residual": flows.residual,
    "mixture": flows.mixture,
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_draws_in_a_context_that_is_nan_are_nan(recipe):
    torch.manual_seed(0)
    flow = recipe((2,), (1,), layers=2).eval()
    draws = flow(torch.tensor([[torch.nan], [0.3]])).sample((3,))
    assert draws[:, 0].isnan().all()
    assert draws[:, 1].isfinite().all()


def test_integers_cannot_be_nan():
    coins = [dist.Categorical(torch.ones(2, 3)) for _ in range(2)]
    log_weights = torch.tensor([[0.5, 0.5], [torch.nan, torch.nan]]).log().T
    with pytest.raises(ValueError, match="`log_weights` must not be NaN, got 3 of 6 that are"):
        LinearPool(coins, log_weights).sample((3,))
