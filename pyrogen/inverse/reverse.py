r"""Data given noisy ones: draws of :math:`x` given :math:`z = x + \rho n` with :math:`n \sim \mathcal{N}(0, I)`.

They are what a diffusion prior is for. Where the denoiser draws them exactly it does; elsewhere the chain of the prior
(:mod:`~pyrogen.inverse.chain`) goes on from the level whose noise is :math:`\rho`. Below the least noise of the
schedule :math:`\rho_0` the score is that of the least noise, so that

.. math:: x \mid z \sim \mathcal{N}\Bigl(z + \frac{\rho^2}{\rho_0^2} \bigl(D(z, \rho_0) - z\bigr), c_\rho\Bigr) .
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chain import Chain
from .problem import Target


class Reverse:
    """Draws of data given noisy ones under the prior of a target.

    Args:
        target: The prior.
        chain: Its chain, calibrated.
        chunk: How many particles (of all problems together) the denoiser takes at once.

    Attributes:
        passes: How many times the denoiser has seen each particle.
    """

    def __init__(self, target: Target, chain: Chain, chunk: int) -> None:
        self.target, self.chain, self.chunk = target, chain, chunk
        self.passes = 0

    @property
    def most(self) -> float:
        """The largest noise, in data units: more leaves nothing of the data."""
        return self.chain.levels[0].variance ** 0.5

    @torch.no_grad()
    def __call__(self, z: Tensor, noise: float) -> Tensor:
        """Data, ``(P, N, D)``.

        Args:
            z: Noisy data in units of the data, ``(P, N, D)``.
            noise: The standard deviation of their noise.
        """
        chain = self.chain.below(noise)
        drawn = [self._drawn(part, noise, chain) for part in z.split(max(1, self.chunk // z.shape[1]))]
        self.passes += 1 if self.target.has_posterior else len(chain.levels)
        return torch.cat(drawn)

    def prior(self, particles: int, like: Tensor) -> Tensor:
        """Draws of the prior, ``(particles, N, D)``, of the dtype and device of another tensor."""
        noise = self.chain.start((particles, *self.target.shape), like)
        return self(noise / self.chain.levels[0].alpha, self.most)

    def _drawn(self, z: Tensor, noise: float, chain: Chain) -> Tensor:
        first = chain.levels[0]
        x, share = first.alpha * z, noise**2 / first.variance
        if share < 1 - 1e-4:  # less noise than the schedule has
            mean = z + share * (self.target.denoise(x, first) - z)
            return mean + chain.errors[0].sqrt() * torch.randn_like(z)
        if self.target.has_posterior:
            return self.target.posterior_sample(x, first)
        return chain.draw(self.target.denoise, x)
