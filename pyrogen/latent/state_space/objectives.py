"""Objectives of state-space models beyond those of every VAE."""

from __future__ import annotations

from torch import Tensor

from pyrogen.arguments import checked, instance_of
from pyrogen.core.shapes import Context
from pyrogen.latent.model import VAEObjective

from .model import ParticleModel


class Filtering(VAEObjective):
    r"""Minus the logarithm of a particle filter's evidence, a lower bound in expectation.

    With several particles it is tighter than the importance-weighted bound: trajectories that went astray are given up
    on the way, so that its gap grows with the length of a sequence, not exponentially. Gradients go through the draws
    and weights of particles, not through their choice, which leaves out a term of large variance; nor, where
    observations feed back, through draws of missing ones that are discrete.

    Args:
        vae: The model, whose posterior proposes the particles.
        particles: How many there are, for each sequence.

    Raises:
        TypeError: ``vae`` has no particle filter, as a model that is exact has none.
        ValueError: ``particles`` is not positive.

    References:
        Maddison et al. 2017, "Filtering variational objectives", https://arxiv.org/abs/1705.09279
        Naesseth, Linderman, Ranganath and Blei 2018, "Variational sequential Monte Carlo",
        https://arxiv.org/abs/1705.11140
    """

    vae: ParticleModel

    @checked(vae=instance_of(ParticleModel))
    def __init__(self, vae: ParticleModel, *, particles: int) -> None:
        super().__init__(vae)
        self.particles = particles

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return -self.vae.run_particles(x, context, self.particles).log_evidence.mean()
