"""Inverse problems: posteriors under a generative prior and any Pyro likelihood."""

from .diagnostics import Diagnostics
from .smc import TwistedSMC
from .twist import FiniteParticle, Isotropic, MomentMatched, Twist

__all__ = ["Diagnostics", "FiniteParticle", "Isotropic", "MomentMatched", "Twist", "TwistedSMC"]
