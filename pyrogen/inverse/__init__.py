"""Inverse problems: posteriors under a generative prior and any Pyro likelihood."""

from .averaged import Averaged
from .completion import Completion
from .diagnostics import Diagnostics
from .editing import TradeOff, edit, trade_off
from .guidance import DAPS, DDRM, DPS, DiffPIR, Guidance, GuidedSampling, MomentMatching, PiGDM, RePaint
from .noise import in_noise
from .noise_mcmc import ChainDiagnostics, NoiseMCMC
from .noise_vi import GuideDiagnostics, NoiseVI
from .operators import (
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
from .report import Report, predictive_p_values, psnr, report, ssim
from .smc import TwistedSMC
from .twist import FiniteParticle, Isotropic, MomentMatched, Twist

__all__ = [
    "Convolution",
    "Grey",
    "Linear",
    "Mask",
    "Matrix",
    "PhaseRetrieval",
    "Report",
    "Separable",
    "TradeOff",
    "bicubic_downsampling",
    "box_downsampling",
    "edit",
    "gaussian_blur",
    "in_noise",
    "predictive_p_values",
    "psnr",
    "report",
    "ssim",
    "trade_off",
    "Averaged",
    "ChainDiagnostics",
    "Completion",
    "DAPS",
    "DDRM",
    "DPS",
    "Diagnostics",
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
    "PiGDM",
    "RePaint",
    "Twist",
    "TwistedSMC",
]
