"""Every prior with every posterior and every likelihood: it trains, and keeps the contract."""

from itertools import product

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen import flows, latent
from pyrogen.distributions import families
from pyrogen.testing import check_distribution
from pyrogen.testing.contract import DISTRIBUTION_CHECKS

SIZE, LATENT = 3, 2
FLOW = {"layers": 2, "hidden": (8,)}
PRIORS = {
    "standard": lambda posterior: latent.StandardNormal((LATENT,)),
    "mixture": lambda posterior: latent.MixturePrior((LATENT,), components=3),
    "vamp": lambda posterior: latent.VampPrior(posterior, torch.rand(4, SIZE)),
    "flow": lambda posterior: flows.affine_coupling((LATENT,), **FLOW),
}
POSTERIORS = {
    "normal": lambda: pg.Parametric(
        Real(SIZE, 2 * LATENT), families.diagonal_normal, event_shape=(LATENT,), context_shape=(SIZE,)
    ),
    "flow": lambda: flows.affine_autoregressive((LATENT,), (SIZE,), fast_sampling=True, **FLOW),
}
LIKELIHOODS = {
    "normal": families.diagonal_normal,
    "laplace": families.laplace,
    "bernoulli": families.bernoulli,
    "categorical": families.categorical(3),
    "continuous Bernoulli": families.continuous_bernoulli,
    "discretized logistic mixture": families.discretized_logistic_mixture(4, components=2),
    "zero-inflated negative binomial": families.zero_inflated_negative_binomial,
}
DECISIVE = ["sample_shapes", "support", "empty_batch", "gradients_reach_parameters", "state_dict", "svi_likelihood"]
MATRIX = list(product(PRIORS, POSTERIORS, LIKELIHOODS))


class Real(nn.Module):
    """A small network that takes integers, too."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))

    def forward(self, x):
        return self.layers(x.to(self.layers[0].weight.dtype))


def left_out(likelihood):
    """A batch of zeros, likely where zeros are inflated, has no gradient in the weights it meets."""
    return {"copies_train", "svi_likelihood"} if likelihood.startswith("zero-inflated") else set()


def composed(prior, posterior, likelihood):
    posterior, family = POSTERIORS[posterior](), LIKELIHOODS[likelihood]
    decoder = Real(LATENT, family.size * SIZE)
    decoding = pg.Parametric(decoder, family, event_shape=(SIZE,), context_shape=(LATENT,))
    return latent.VAE(PRIORS[prior](posterior), decoding, posterior, draws=6)


@pytest.mark.parametrize(("prior", "posterior", "likelihood"), MATRIX)
def test_trains_and_keeps_the_decisive_contract(prior, posterior, likelihood):
    module = composed(prior, posterior, likelihood)
    x = module().sample((32,)).float()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    assert pg.fit(module, x, steps=3, batch_size=16, seed=0).reason == "steps"
    assert not any(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    assert module().log_prob(x).isfinite().all()
    make = lambda: composed(prior, posterior, likelihood)  # noqa: E731
    check_distribution(make, event_shape=(SIZE,), only=set(DECISIVE) - left_out(likelihood)).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize(("prior", "posterior", "likelihood"), MATRIX)
def test_keeps_the_whole_contract(prior, posterior, likelihood):
    make = lambda: composed(prior, posterior, likelihood)  # noqa: E731
    only = [check.__name__ for check in DISTRIBUTION_CHECKS if check.__name__ not in left_out(likelihood)]
    check_distribution(make, event_shape=(SIZE,), only=only).raise_if_failed()
