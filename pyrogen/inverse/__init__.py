"""Inverse problems: posteriors under a generative prior and any Pyro likelihood."""

from .diagnostics import Diagnostics
from .diffpir import DiffPIR
from .dps import DPS
from .editing import TradeOff, edit, trade_off
from .guided import Guidance, GuidedSampling
from .moment_matching import MomentMatching
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
from .pigdm import PiGDM
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
    "predictive_p_values",
    "psnr",
    "report",
    "ssim",
    "trade_off",
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
