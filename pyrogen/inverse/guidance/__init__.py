"""Guidances: fast, approximate ways to move particles towards measurements, each under the name of its paper."""

from .daps import DAPS
from .ddrm import DDRM
from .guidance import Guidance, GuidedSampling
from .repaint import RePaint
from .shifts import DPS, DiffPIR, MomentMatching, PiGDM

__all__ = [
    "DAPS",
    "DDRM",
    "DPS",
    "DiffPIR",
    "Guidance",
    "GuidedSampling",
    "MomentMatching",
    "PiGDM",
    "RePaint",
]
