"""Energies: densities that are known up to a constant, and how they are learned and drawn from."""

from .bases import DataNormal
from .chains import Chains, DataChains, Draws, FreshChains, PersistentChains, RecoveryChains
from .combinations import Product
from .contrastive import ContrastiveDivergence
from .kernels import (
    AdjustedLangevin,
    Gibbs,
    GibbsWithGradients,
    HamiltonianMonteCarlo,
    Kernel,
    Langevin,
    Moved,
    NearTarget,
    Target,
)
from .model import Boltzmann, Energy, EnergyModule
from .noise_contrastive import FlowContrastive, NoiseContrastive
from .recipes import convolutional, mlp
from .score_matching import DenoisedScoreMatching, RatioMatching, ScoreMatching

__all__ = [
    "AdjustedLangevin",
    "Boltzmann",
    "Chains",
    "ContrastiveDivergence",
    "DataChains",
    "DataNormal",
    "DenoisedScoreMatching",
    "Draws",
    "Energy",
    "EnergyModule",
    "FlowContrastive",
    "FreshChains",
    "Gibbs",
    "GibbsWithGradients",
    "HamiltonianMonteCarlo",
    "Kernel",
    "Langevin",
    "Moved",
    "NearTarget",
    "NoiseContrastive",
    "PersistentChains",
    "Product",
    "RatioMatching",
    "RecoveryChains",
    "ScoreMatching",
    "Target",
    "convolutional",
    "mlp",
]


def __dir__() -> list[str]:
    return __all__
