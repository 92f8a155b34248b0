"""The joint of a marginal: its latent's distribution, and the likelihood."""

import pytest
import torch
from linear_gaussian import linear_vae

from pyrogen.latent import Marginal, conditional_vae, mixture_vae


def test_joint_is_that_of_the_model():
    torch.manual_seed(0)
    vae = linear_vae()
    prior, likelihood = vae().expand((5,)).joint()
    z, x = torch.randn(5, 2), torch.randn(5, 3)
    assert prior.batch_shape == (5,)
    assert torch.equal(prior.log_prob(z), vae.prior().log_prob(z))
    assert torch.equal(likelihood(z).log_prob(x), vae.likelihood(z).log_prob(x))


def test_joint_keeps_the_context():
    torch.manual_seed(0)
    vae = conditional_vae((3,), (2,), latent_shape=(2,))
    context, z, x = torch.randn(4, 2), torch.randn(4, 2), torch.randn(4, 3)
    prior, likelihood = vae(context).joint()
    assert prior.batch_shape == (4,)
    assert torch.equal(prior.log_prob(z), vae.prior_at(context).log_prob(z).expand(4))
    assert torch.equal(likelihood(z).log_prob(x), vae.likelihood_at(z, context).log_prob(x))


def test_other_models_have_none():
    vae = linear_vae()
    pair = Marginal(vae.model, vae.guide, event_shape=(3,))
    mixture = mixture_vae((3,), latent_shape=(2,), classes=2, binary=True, hidden=(8,))
    for module in (pair, mixture):
        with pytest.raises(NotImplementedError, match="the joint is that of a VAE"):
            module().joint()
