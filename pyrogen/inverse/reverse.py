r"""Data given noisy ones: draws of :math:`x` given :math:`z = x + \rho n` with :math:`n \sim \mathcal{N}(0, I)`.

They are what a diffusion prior is for. Where the denoiser draws them exactly it does; elsewhere the chain of the prior
(:mod:`~pyrogen.inverse.chain`) goes on from the level whose noise is :math:`\rho`. Below the least noise of the
schedule :math:`\rho_0` the score is that of the least noise, so that

.. math:: x \mid z \sim \mathcal{N}\Bigl(z + \frac{\rho^2}{\rho_0^2} \bigl(D(z, \rho_0) - z\bigr), c_\rho\Bigr) .
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.diffusion.samplers.ancestral import root_polynomial

from .chain import Chain
from .target import Target


class Reverse:
    """Draws of data given noisy ones under the prior of a target.

    Args:
        target: The prior.
        chain: Its chain, calibrated.
        chunk: How many particles (of all problems together) the denoiser takes at once.
        backward: How many backward passes through the denoiser each step makes for the covariance of the datum, as in
            :class:`~pyrogen.diffusion.samplers.CovarianceAncestral`; with 0 the variances are those of the pilot run.

    Attributes:
        passes: How many times the denoiser has seen each particle, forwards and backwards.
    """

    def __init__(self, target: Target, chain: Chain, chunk: int, backward: int = 0) -> None:
        self.target, self.chain, self.chunk, self.backward = target, chain, chunk, backward
        self.passes = 0

    @property
    def most(self) -> float:
        """The largest noise, in data units: more leaves nothing of the data."""
        return self.chain.levels[0].variance ** 0.5

    @property
    def noises(self) -> list[float]:
        """The noise levels of the chain, in data units."""
        return [level.variance**0.5 for level in self.chain.levels]

    @torch.no_grad()
    def __call__(self, z: Tensor, noise: float) -> Tensor:
        """Data, ``(P, N, D)``.

        Args:
            z: Noisy data in units of the data, ``(P, N, D)``.
            noise: The standard deviation of their noise.
        """
        chain = self.chain.below(noise)
        drawn = [self._drawn(part, noise, chain) for part in z.split(max(1, self.chunk // z.shape[1]))]
        self.passes += 1 if self.target.has_posterior else len(chain.levels) * (1 + self.backward)
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
        return self._covariant(x, chain) if self.backward else chain.draw(self.target.denoise, x)

    def _covariant(self, x: Tensor, chain: Chain) -> Tensor:
        """The end of the chain, with a datum drawn with its covariance in every step."""
        for place, level in enumerate(chain.levels):
            denoised = self.target.denoised(x, level)
            datum, vector = denoised.mean, torch.randn_like(x)
            for coefficient in root_polynomial(self.backward):
                vector = level.alpha * denoised.pull(vector.unsqueeze(-2)).squeeze(-2)
                datum = datum + coefficient * level.variance**0.5 * vector
            x = chain.bridge(place, x, datum) if place + 1 < len(chain.levels) else datum
        return x
