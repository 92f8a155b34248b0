"""Vector-quantized autoencoders: the contract, the bound against enumeration, and a codebook that follows."""

from functools import partial
from itertools import product

import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

import pyrogen as pg
from pyrogen.latent import VQVAE, Codebook, CodeTable, vq_vae
from pyrogen.latent.quantized import CodeUsage
from pyrogen.testing import check_distribution
from pyrogen.testing.contract import DISTRIBUTION_CHECKS

SMALL = {"binary": True, "codes": 3, "width": 2, "channels": (4, 4)}


def autoregressive():
    prior = pg.autoregressive.transformer((2, 2), symbols=3, width=8, depth=1, heads=2)
    return vq_vae((1, 4, 4), prior=prior, **SMALL | {"channels": (8,)})


@pytest.mark.parametrize("make", [partial(vq_vae, (1, 4, 4), **SMALL), autoregressive])
def test_contract(make):
    # Straight-through gradients are no gradients of the bound, by design; the bound has no noise but its model draws
    # latents, which a subsampling check takes for a fixed score.
    left_out = {"parameter_gradient", "subsampling"}
    only = [check.__name__ for check in DISTRIBUTION_CHECKS if check.__name__ not in left_out]
    check_distribution(make, event_shape=(1, 4, 4), only=only).raise_if_failed()


@pytest.fixture
def module():
    torch.manual_seed(0)
    return vq_vae((1, 4, 4), binary=True, codes=3, width=2, channels=(4,)).eval()


def test_the_bound_is_the_term_of_its_codes_in_the_enumerated_sum(module):
    x = (torch.rand(5, 1, 4, 4) > 0.5).float()
    codes = torch.tensor(list(product(range(3), repeat=4))).reshape(-1, 2, 2)
    with torch.no_grad():
        z = module.codebook.embed(codes, -3)
        terms = module.likelihood(z[:, None]).log_prob(x) + module.prior.codes().log_prob(codes)[:, None]
        bound = module().log_prob(x)
        chosen = (codes[:, None] == module.codes(x)).flatten(2).all(-1)
    torch.testing.assert_close(bound, terms.T[chosen.T])
    assert (bound < terms.logsumexp(0)).all()


def test_only_codebook_vectors_have_mass(module):
    prior = module.prior()
    z = prior.sample((50,))
    codes = module.codebook.nearest(z, -3)
    torch.testing.assert_close(prior.log_prob(z), module.prior.codes().log_prob(codes))
    assert (prior.log_prob(z + 0.1) == -torch.inf).all()


def test_gradients_pass_straight_through(module):
    x = torch.rand(3, 1, 4, 4)
    posterior = module.posterior_at(x)
    weights = torch.randn(3, 2, 2, 2)
    through = torch.autograd.grad((posterior.rsample() * weights).sum(), posterior.numbers)[0]
    torch.testing.assert_close(through, weights)
    assert torch.equal(posterior.rsample(), module.codebook.embed(posterior.codes, -3))


def test_the_codebook_finds_the_centres_of_clusters():
    torch.manual_seed(0)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 1.0], [0.0, 5.0]])
    codebook = Codebook(3, 2, decay=0.9)
    for _ in range(300):
        codebook.follow((centres[torch.randint(3, (64,))] + 0.1 * torch.randn(64, 2)).T, 0)
    found = codebook.vectors[codebook.nearest(centres, -1)]
    # Averages over about 10 steps of 21 vectors each: 0.1 / sqrt(210) = 0.007.
    torch.testing.assert_close(found, centres, atol=0.04, rtol=0)


def test_dead_codes_start_anew():
    torch.manual_seed(0)
    codebook = Codebook(4, 1, decay=0.5)
    codebook.vectors.fill_(100.0)
    codebook.follow(torch.randn(64, 1).T, 0)
    assert codebook.vectors.abs().max() < 5


def test_training_reaches_the_entropy_of_two_patterns():
    torch.manual_seed(0)
    patterns = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    x = patterns[torch.randint(2, (256,))]
    module = vq_vae((1, 4, 4), binary=True, codes=4, width=2, channels=(4, 4))
    pg.fit(module, x, steps=400, optimizer=partial(torch.optim.Adam, lr=1e-2), seed=0)
    # A code for each pattern costs log 2; what is left of it is the pixels' uncertainty.
    assert module().log_prob(x).mean() > -torch.log(torch.tensor(2.0)) - 0.15
    assert module.usage(x).used == 2
    assert str(module.usage(x)).startswith("2 of 4 codes used, perplexity")


def test_pyro_svi_trains_encoder_decoder_and_prior(module):
    x = (torch.rand(16, 1, 4, 4) > 0.5).float()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    svi = SVI(module.model, module.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(3):
        svi.step(x)
    assert all(not torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_usage_counts():
    usage = CodeUsage.of(torch.tensor([0, 0, 1, 1]), 5)
    assert usage.used == 2
    assert usage.perplexity == pytest.approx(2.0)


def test_bad_parts_are_named():
    with pytest.raises(ValueError, match="`codes` must be at least 2"):
        Codebook(1, 2)
    with pytest.raises(ValueError, match="`decay`"):
        Codebook(2, 2, decay=1.0)
    with pytest.raises(ValueError, match="`prior` must have event shape"):
        vq_vae((1, 4, 4), prior=CodeTable((3, 3), 3), **SMALL)
    posterior = pg.Parametric(nn.Linear(4, 4), pg.families.diagonal_normal, event_shape=2, context_shape=4)
    with pytest.raises(ValueError, match="`posterior` must have a Codebook as its family"):
        VQVAE(CodeTable((), 3), posterior, posterior)


def test_nothing_is_followed_where_nothing_is():
    codebook = Codebook(3, 2)
    before = codebook.vectors.clone()
    codebook.follow(torch.zeros(0, 2, 4), -2)
    assert torch.equal(codebook.vectors, before)
