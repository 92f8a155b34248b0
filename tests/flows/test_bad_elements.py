"""One bad element of a value or a context, NaN, infinite or too large, is its own row's business."""

import pyro
import pytest
import torch
from every_recipe import RECIPES, UNCONDITIONAL, inputs, made

from pyrogen import autoregressive, diffusion, latent

SMALL = {"width": 16, "depth": 1, "heads": 2}
OTHERS = {
    "made": lambda: autoregressive.made((2,), (2,), components=2, hidden=(8,)),
    "several orders": lambda: autoregressive.made((2,), (2,), components=2, hidden=(8,), orders=2),
    "transformer": lambda: autoregressive.transformer((2,), (2,), components=2, **SMALL),
    "any order": lambda: autoregressive.any_order((2,), (2,), components=2, orders=2, **SMALL),
    "vae": lambda: latent.vae((2,), (2,), latent_shape=(2,), hidden=(8,), draws=4),
    "diffusion": lambda: diffusion.mlp((2,), (2,), width=8, depth=1),
    "probability flow": lambda: diffusion.ProbabilityFlow(diffusion.mlp((2,), (2,), width=8, depth=1).denoiser),
}
BAD = (torch.nan, torch.inf, -torch.inf, 1e30, -1e38)
SOLVED = ("continuous", "probability flow")  # for which a large row takes all the steps there may be
GOOD = [0, 2, 3]


def model(name):
    if name not in OTHERS:
        return made(name).float()
    torch.manual_seed(0)
    module = OTHERS[name]().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("name", [*(name for name in RECIPES if name != "continuous_deep"), *UNCONDITIONAL, *OTHERS])
def test_a_bad_element_leaves_other_rows_alone(name):
    module = model(name)
    x, context = (part if part is None else part.float() for part in inputs(module))
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def answer(x, context):
        torch.manual_seed(1)
        score = module(context).log_prob(x)
        return score, torch.autograd.grad(score[GOOD].sum(), parameters, allow_unused=True, materialize_grads=True)

    with pyro.validation_enabled(False):
        expected, gradients = answer(x, context)
        for which in ("value", "context"):
            if which == "context" and context is None:
                continue
            for bad in BAD[:2] if name in SOLVED else BAD:
                rows = (x if which == "value" else context).clone()
                rows[1, 1] = bad
                score, found = answer(rows, context) if which == "value" else answer(x, rows)
                assert torch.allclose(score[GOOD], expected[GOOD], atol=1e-4, rtol=1e-4), (which, bad)
                for one, other in zip(found, gradients, strict=True):
                    assert torch.allclose(one, other, atol=1e-3, rtol=1e-3), (which, bad)


def test_a_context_that_is_not_finite_has_no_density():
    module = model("block_neural")  # whose units saturate: an infinite context would give a finite number
    x, context = (part.float() for part in inputs(module))
    context[1, 0] = torch.inf
    with pyro.validation_enabled(False):
        assert module(context).log_prob(x).isnan().tolist() == [False, True, False, False]
