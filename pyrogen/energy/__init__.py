"""Energies: densities that are known up to a constant, and how they are learned and drawn from."""

from .chains import Chains, Draws, FreshChains
from .kernels import Kernel, Moved, Target
from .model import Boltzmann, Energy, EnergyModule

__all__ = [
    "Boltzmann",
    "Chains",
    "Draws",
    "Energy",
    "EnergyModule",
    "FreshChains",
    "Kernel",
    "Moved",
    "Target",
]


def __dir__() -> list[str]:
    return __all__
