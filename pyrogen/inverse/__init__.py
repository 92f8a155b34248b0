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

from .answer import Answer, Diagnostics, DrawDiagnostics, Results
from .averaged import Averaged
from .completion import Completion
from .guidance import DAPS, DDRM, DPS, DiffPIR, Guidance, GuidedSampling, MomentMatching, PiGDM, RePaint
from .noise import in_noise
from .noise_mcmc import ChainDiagnostics, NoiseMCMC
from .noise_vi import GuideDiagnostics, NoiseVI
from .particle_diagnostics import ParticleDiagnostics
from .smc import TwistedSMC
from .twist import FiniteParticle, Isotropic, MomentMatched, Twist

__all__ = [
    "Convolution",
    "Grey",
    "Linear",
    "Mask",
    "Matrix",
    "PhaseRetrieval",
    "Separable",
    "bicubic_downsampling",
    "box_downsampling",
    "gaussian_blur",
    "in_noise",
    "Answer",
    "Averaged",
    "ChainDiagnostics",
    "Completion",
    "DAPS",
    "DDRM",
    "DPS",
    "Diagnostics",
    "DrawDiagnostics",
    "DiffPIR",
    "FiniteParticle",
    "GuideDiagnostics",
    "Guidance",
    "GuidedSampling",
    "Isotropic",
    "MomentMatched",
    "MomentMatching",
    "NoiseMCMC",
    "NoiseVI",
    "ParticleDiagnostics",
    "PiGDM",
    "RePaint",
    "Results",
    "Twist",
    "TwistedSMC",
]
