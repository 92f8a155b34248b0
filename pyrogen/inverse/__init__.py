"""Inverse problems: posteriors under a generative prior and any Pyro likelihood."""

from .diagnostics import Diagnostics
from .diffpir import DiffPIR
from .dps import DPS
from .guided import Guidance, GuidedSampling
from .moment_matching import MomentMatching
from .pigdm import PiGDM
from .smc import TwistedSMC
from .twist import FiniteParticle, Isotropic, MomentMatched, Twist

__all__ = [
    "DPS",
    "Diagnostics",
    "DiffPIR",
    "FiniteParticle",
    "Guidance",
    "GuidedSampling",
    "Isotropic",
    "MomentMatched",
    "MomentMatching",
    "PiGDM",
    "Twist",
    "TwistedSMC",
]
