"""Everything trains under autocast, with densities of full precision and gradients close to exact ones."""

import pytest
import torch
from every_recipe import RECIPES, UNCONDITIONAL, inputs, made

from pyrogen import autoregressive, diffusion, latent

SMALL = {"width": 16, "depth": 1, "heads": 2}
OTHERS = {
    "made": lambda: autoregressive.made((2,), (2,), components=2, hidden=(8,)),
    "any order": lambda: autoregressive.any_order((2,), (2,), components=2, **SMALL),
    "transformer": lambda: autoregressive.transformer((2,), (2,), components=2, **SMALL),
    "vae": lambda: latent.vae((2,), (2,), latent_shape=(2,), hidden=(8,), draws=4),
    "diffusion": lambda: diffusion.mlp((2,), (2,), width=8, depth=1),
    "probability flow": lambda: diffusion.ProbabilityFlow(diffusion.mlp((2,), (2,), width=8, depth=1).denoiser),
}


def model(name):
    if name not in OTHERS:
        return made(name).float()
    torch.manual_seed(0)
    module = OTHERS[name]().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*RECIPES, *UNCONDITIONAL, *OTHERS])
def test_gradients_under_autocast(name, dtype):
    module = model(name)
    x, context = (part if part is None else part.float() for part in inputs(module, rows=32))
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def score():
        torch.manual_seed(1)
        return module(context).log_prob(x)

    def gradient(score):
        found = torch.autograd.grad(score.sum(), parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    exact = score()
    with torch.autocast("cpu", dtype=dtype):
        rounded, again = score(), score()
        inside = gradient(again)
        draws = module(context).sample()
    assert rounded.dtype == draws.dtype == torch.float32
    assert draws.isfinite().all()
    assert torch.allclose(rounded, exact, atol=1e-4 if name not in OTHERS else 0.3, rtol=1e-4)
    expected = gradient(exact)
    for found in (gradient(rounded), inside):
        assert torch.cosine_similarity(found, expected, 0) > 0.95
