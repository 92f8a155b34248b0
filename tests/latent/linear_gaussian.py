"""Probabilistic principal components: the latent-variable model whose every quantity has a closed form."""

import math

import torch
from torch import nn

import pyrogen as pg
from pyrogen.core.module import DistributionModule
from pyrogen.core.normal import StandardNormal
from pyrogen.latent.model import VAE

SCALE = 0.7


class LinearNormal(nn.Module):
    """Means linear in the input, and scales of their own."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.log_scale = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        loc = self.linear(x)
        return torch.cat([loc, self.log_scale.expand_as(loc)], -1)


class ScorePosterior(DistributionModule):
    """A normal posterior whose draws carry no gradient."""

    def __init__(self, posterior):
        super().__init__(posterior.event_shape, posterior.context_shape)
        self.posterior = posterior

    def forward(self, context=None):
        normal = self.posterior(context)
        normal.has_rsample = False
        return normal


def linear_vae(features=3, latents=2, *, draws=100, learned_scale=False, **settings):
    decoder = LinearNormal(latents, features) if learned_scale else nn.Linear(latents, features)
    family = pg.families.diagonal_normal if learned_scale else pg.families.normal(SCALE)
    return VAE(
        StandardNormal((latents,)),
        pg.Parametric(decoder, family, event_shape=(features,), context_shape=(latents,)),
        pg.Parametric(
            nn.Linear(features, 2 * latents),
            pg.families.diagonal_normal,
            event_shape=(latents,),
            context_shape=(features,),
        ),
        draws=draws,
        **settings,
    )


def exact_log_prob(vae, x):
    """The true marginal: a normal with covariance W W' + s² I."""
    decoder = vae.likelihood.network
    covariance = decoder.weight @ decoder.weight.T + SCALE**2 * torch.eye(len(decoder.bias), dtype=x.dtype)
    return torch.distributions.MultivariateNormal(decoder.bias, covariance).log_prob(x)


def exact_elbo(vae, x):
    """The evidence lower bound in closed form, a row each."""
    decoder, posterior = vae.likelihood.network, vae.posterior(x)
    loc, variance = posterior.mean, posterior.variance
    squares = (x - decoder(loc)).square().sum(-1) + variance @ decoder.weight.square().sum(0)
    log_likelihood = -squares / (2 * SCALE**2) - x.shape[-1] * math.log(SCALE * math.sqrt(2 * math.pi))
    divergence = 0.5 * (variance + loc.square() - 1 - variance.log()).sum(-1)
    return log_likelihood - divergence


def flat_gradient(loss, parameters):
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(gradients, parameters, strict=True)]
    )
