"""Latent-variable models: variational autoencoders, marginals of model/guide pairs, and their objectives."""

from .model import VAE
from .objectives import DoublyReparameterized, Elbo, ImportanceWeighted, Renyi, StickingTheLanding
from .priors import StandardNormal

__all__ = [
    "VAE",
    "DoublyReparameterized",
    "Elbo",
    "ImportanceWeighted",
    "Renyi",
    "StandardNormal",
    "StickingTheLanding",
]
