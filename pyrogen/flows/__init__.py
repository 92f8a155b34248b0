"""Normalizing flows: distributions with exact densities, made of bijections. See :mod:`pyrogen.flows.model`."""

from .autoregressive import AutoregressiveLayer
from .bases import StandardNormal
from .bounded import Bounded
from .coupling import CouplingLayer
from .dequantized import Dequantized
from .linear import Mixing, Reorder, Standardize
from .model import Flow
from .recipes import affine_autoregressive, affine_coupling, spline_autoregressive, spline_coupling

__all__ = [
    "AutoregressiveLayer",
    "Bounded",
    "CouplingLayer",
    "Dequantized",
    "Flow",
    "Mixing",
    "Reorder",
    "Standardize",
    "StandardNormal",
    "affine_autoregressive",
    "affine_coupling",
    "spline_autoregressive",
    "spline_coupling",
]
