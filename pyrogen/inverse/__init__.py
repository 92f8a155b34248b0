"""Inverse problems: posteriors under a generative prior and any Pyro likelihood."""

from pyrogen.operators import (
    Convolution,
    Grey,
    Linear,
    Mask,
    Matrix,
    PhaseRetrieval,
    Separable,
    bicubic_downsampling,
    box_downsampling,
    gaussian_blur,
)

from .answer import Answer, Diagnostics, Results
from .averaged import Averaged
from .completion import Completion
from .guidance import DAPS, DDRM, DPS, DiffPIR, Guidance, GuidedSampling, MomentMatching, PiGDM, RePaint
from .noise import in_noise
from .noise_mcmc import NoiseMCMC
from .noise_vi import NoiseVI
from .smc import TwistedSMC
from .twist import FiniteParticle, Isotropic, MomentMatched, Twist

__all__ = [
    "Answer",
    "Averaged",
    "Completion",
    "Convolution",
    "DAPS",
    "DDRM",
    "DPS",
    "Diagnostics",
    "DiffPIR",
    "FiniteParticle",
    "Grey",
    "Guidance",
    "GuidedSampling",
    "Isotropic",
    "Linear",
    "Mask",
    "Matrix",
    "MomentMatched",
    "MomentMatching",
    "NoiseMCMC",
    "NoiseVI",
    "PhaseRetrieval",
    "PiGDM",
    "RePaint",
    "Results",
    "Separable",
    "Twist",
    "TwistedSMC",
    "bicubic_downsampling",
    "box_downsampling",
    "gaussian_blur",
    "in_noise",
]


def __dir__() -> list[str]:
    return __all__
