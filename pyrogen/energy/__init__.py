"""Energies: densities that are known up to a constant, and how they are learned and drawn from."""

from .bases import DataNormal
from .chains import Chains, DataChains, Draws, FreshChains, PersistentChains
from .contrastive import ContrastiveDivergence
from .kernels import (
    AdjustedLangevin,
    Gibbs,
    GibbsWithGradients,
    HamiltonianMonteCarlo,
    Kernel,
    Langevin,
    Moved,
    Target,
)
from .model import Boltzmann, Energy, EnergyModule
from .recipes import convolutional, mlp

__all__ = [
    "AdjustedLangevin",
    "Boltzmann",
    "Chains",
    "ContrastiveDivergence",
    "DataChains",
    "DataNormal",
    "Draws",
    "Energy",
    "EnergyModule",
    "FreshChains",
    "Gibbs",
    "GibbsWithGradients",
    "HamiltonianMonteCarlo",
    "Kernel",
    "Langevin",
    "Moved",
    "PersistentChains",
    "Target",
    "convolutional",
    "mlp",
]


def __dir__() -> list[str]:
    return __all__
