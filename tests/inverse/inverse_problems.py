"""Priors and answers that are known: Gaussian mixtures, quadrature and closed forms."""

import pyro.distributions as dist
import torch

from pyrogen.diffusion import Denoiser, Diffusion, GaussianMixtureDenoiser, LinearVP


def gaussian(mean, covariance):
    return Diffusion(GaussianMixtureDenoiser(dist.MultivariateNormal(mean, covariance), LinearVP()))


def mixture(weights, means, scale):
    """A mixture of isotropic Gaussians, as a density and as a diffusion."""
    components = dist.Normal(torch.as_tensor(means), scale).to_event(1)
    density = dist.MixtureSameFamily(dist.Categorical(torch.as_tensor(weights)), components)
    return density, Diffusion(GaussianMixtureDenoiser(density, LinearVP()))


def quadrature(log_joint, dimensions, limit=8.0, points=801):
    """Evidence, mean and covariance of an unnormalized density on a grid; ``log_joint`` takes ``(n, dimensions)``."""
    points = points if dimensions == 1 else min(points, 401)
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * dimensions).reshape(-1, dimensions)
    values = log_joint(grid)
    log_evidence = values.logsumexp(0) + dimensions * torch.log(axis[1] - axis[0])
    weights = values.softmax(0)
    mean = weights @ grid
    covariance = (weights.unsqueeze(-1) * (grid - mean)).T @ (grid - mean)
    return log_evidence, mean, covariance


def close(posterior, site, log_evidence, mean, covariance, *, errors=5.0, bias=0.03):
    """Draws and evidence agree with the truth within Monte Carlo errors and a small bias of the steps."""
    diagnostics = posterior.diagnostics()
    effective = diagnostics.effective_sample_size[-1].item()
    draws = posterior.get_samples()[site].flatten(1).double()
    scale = covariance.diagonal().sqrt()
    tolerance = errors / effective**0.5 + bias
    assert ((draws.mean(0) - mean).abs() / scale < tolerance).all(), (draws.mean(0), mean)
    error = (draws.T.cov().reshape(covariance.shape) - covariance) / scale.outer(scale)
    kurtosis = ((draws - draws.mean(0)) / scale).pow(4).mean(0).max().item()
    assert (error.abs() < errors * (kurtosis / effective) ** 0.5 + 2 * bias).all(), error
    least = diagnostics.effective_sample_size.min().item()  # what is lost before a resampling stays lost
    spread = errors * ((1 / least - 1 / diagnostics.particles) ** 0.5)
    assert abs(posterior.log_evidence.item() - log_evidence.item()) < spread + bias, (
        posterior.log_evidence,
        log_evidence,
    )


class Centred(Denoiser):
    """The exact denoiser of a Gaussian of standard deviation one half, whose mean is a row of a table."""

    def __init__(self, table):
        super().__init__((table.shape[-1],), LinearVP(), context_shape=())
        self.table = table

    def forward(self, x, t, context=None):
        alpha, sigma = self.path(x, t)
        mean = self.table[context.long()]
        return mean + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - alpha * mean)
