"""Double precision, integers, bits and arrays at every entry: scored where they are clear, else refused by name."""

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen import autoregressive, diffusion, flows, latent

TOKENS = {"symbols": 3, "width": 8, "depth": 1, "heads": 2}
X, INSIDE = torch.randn(12, 2), torch.rand(12, 2) * 0.8 + 0.1
BITS, LEVELS = torch.randint(0, 2, (12, 4)).float(), torch.randint(0, 3, (12, 4)).float()


class Numbers(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(size))

    def forward(self):
        return self.numbers


REAL = {
    "flow": (lambda: flows.affine_coupling((2,), layers=1, hidden=(4,)), X),
    "interval": (lambda: flows.affine_coupling((2,), layers=1, hidden=(4,), interval=(0.0, 1.0)), INSIDE),
    "continuous": (lambda: flows.continuous((2,), hidden=(4,)), X),
    "vae": (lambda: latent.vae((2,), latent_shape=(1,), hidden=(4,)), X),
    "made": (lambda: autoregressive.made((2,)), X),
    "diffusion": (lambda: diffusion.mlp((2,), width=8, depth=1), X),
    "probability flow": (lambda: diffusion.ProbabilityFlow(diffusion.mlp((2,), width=8, depth=1).denoiser), X),
    "normal": (lambda: pg.Parametric(Numbers(4), pg.families.diagonal_normal, event_shape=(2,)), X),
}
DISCRETE = {
    "binary vae": (lambda: latent.binary_vae((4,), latent_shape=(1,), hidden=(4,)), BITS),
    "made of bits": (lambda: autoregressive.made((4,), symbols=2), BITS),
    "bernoulli": (lambda: pg.Parametric(Numbers(4), pg.families.bernoulli, event_shape=(4,)), BITS),
    "one bit": (lambda: pg.Parametric(Numbers(1), pg.families.bernoulli, event_shape=()), BITS[:, 0]),
    "transformer": (lambda: autoregressive.transformer((4,), **TOKENS), LEVELS),
    "diffusion of levels": (lambda: diffusion.mlp((4,), width=8, depth=1, symbols=3), LEVELS),
    "categorical": (lambda: pg.Parametric(Numbers(12), pg.families.categorical(3), event_shape=(4,)), LEVELS),
}
ENTRIES = {
    "fit": lambda module, x: pg.fit(module, x, steps=2),
    "pg.log_prob": lambda module, x: pg.log_prob(module, x),
    "evaluation": lambda module, x: pg.evaluation.log_likelihood(module, x),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("family", REAL)
def test_real_numbers_of_another_kind_are_refused_by_name(family, entry):
    make, x = REAL[family]
    name = "data" if entry == "fit" else "x"
    with pytest.raises(
        ValueError, match=rf"`x.float\(\)` or `module.double\(\)`.*float64.*{'data' if name == 'data' else ''}"
    ):
        ENTRIES[entry](make(), x.double())
    with pytest.raises(ValueError, match=r"`x` must hold floating-point numbers.*int64"):
        ENTRIES[entry](make(), x.long())
    ENTRIES[entry](make(), x.double().numpy())
    with pytest.raises(ValueError, match=r"`x.double\(\)` or `module.float\(\)`"):
        ENTRIES[entry](make().double(), x)
    ENTRIES[entry](make().double(), x.double())


@pytest.mark.parametrize("family", ["flow", "interval", "continuous", "diffusion", "probability flow"])
def test_a_distribution_refuses_another_precision_by_name(family):
    make, x = REAL[family]
    with pytest.raises(
        ValueError, match=r"`value` must have the precision.*float32.*`value.float\(\)`.*got torch.float64"
    ):
        make()().log_prob(x.double())


@pytest.mark.parametrize("family", DISCRETE)
def test_bits_and_integers_are_scored_whatever_their_dtype(family):
    make, x = DISCRETE[family]
    module = make().eval()
    kinds = [torch.float64, torch.int64, torch.uint8, *([torch.bool] if x.max() == 1 else [])]
    torch.manual_seed(0)
    expected = module().log_prob(x)
    for dtype in kinds:
        torch.manual_seed(0)
        assert torch.allclose(module().log_prob(x.to(dtype)).float(), expected, atol=1e-5), dtype
        for run in ENTRIES.values():
            run(make(), x.to(dtype))


def test_a_context_of_another_precision_is_refused_where_the_network_is_your_own():
    module = pg.Parametric(nn.Linear(3, 4), pg.families.diagonal_normal, event_shape=(2,), context_shape=(3,))
    with pytest.raises(ValueError, match=r"`context` must have the precision.*`context.float\(\)`.*got torch.float64"):
        module(torch.zeros(5, 3).double())

    class Casting(nn.Linear):
        def forward(self, context):
            return super().forward(context.to(self.weight.dtype))

    module = pg.Parametric(Casting(3, 4), pg.families.diagonal_normal, event_shape=(2,), context_shape=(3,))
    assert module(torch.zeros(5, 3).double()).batch_shape == (5,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: flows.affine_coupling((2,), (3,), layers=1, hidden=(4,)),
        lambda: flows.continuous((2,), (3,), hidden=(4,)),
        lambda: latent.vae((2,), (3,), latent_shape=(1,), hidden=(4,)),
        lambda: autoregressive.made((2,), (3,)),
        lambda: autoregressive.wavenet((4,), (3,)),
        lambda: diffusion.mlp((2,), (3,), width=8, depth=1),
    ],
)
def test_recipes_take_contexts_of_any_precision(make):
    module, context = make().eval(), torch.randn(5, 3)
    torch.manual_seed(0)
    x = module(context).sample()
    torch.manual_seed(0)
    assert torch.allclose(module(context.double()).sample(), x, atol=1e-5)
