"""Latent-variable models: variational autoencoders, marginals of model/guide pairs, and their objectives."""

from .model import VAE
from .objectives import DoublyReparameterized, Elbo, ImportanceWeighted, Renyi, StickingTheLanding
from .pair import Marginal
from .priors import StandardNormal
from .recipes import binary_vae, categorical_vae, vae

__all__ = [
    "VAE",
    "DoublyReparameterized",
    "Elbo",
    "ImportanceWeighted",
    "Marginal",
    "Renyi",
    "StandardNormal",
    "StickingTheLanding",
    "binary_vae",
    "categorical_vae",
    "vae",
]
