"""Pyro distributions without learnable parts, and the families that networks parameterise."""

from . import families
from .dequantized import UniformDequantized
from .normal import DiagonalNormal, StandardNormal

__all__ = ["DiagonalNormal", "StandardNormal", "UniformDequantized", "families"]
