"""Guidances: fast, approximate ways to lead particles by measurements, each under the name of its paper."""

from .daps import DAPS
from .ddrm import DDRM
from .diffpir import DiffPIR
from .dps import DPS
from .guidance import Guidance, GuidedSampling
from .moment_matching import MomentMatching
from .pigdm import PiGDM
from .repaint import RePaint

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
