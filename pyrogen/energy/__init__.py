"""Energies: densities that are known up to a constant, and how they are learned and drawn from."""

from .bases import DataNormal
from .boltzmann import Boltzmann
from .chains import ChainDraws, Chains, DataChains, FreshChains, PersistentChains, RecoveryChains
from .combinations import Product, tempered
from .contrastive import ContrastiveDivergence
from .elbo import EnergyElbo, TwoPhases
from .enumerable import EnumerableEnergy, EnumeratedBoltzmann
from .joint import JointDivergence, JointEnergy
from .kernels import (
    AdjustedLangevin,
    DiscreteKernel,
    EnergyTarget,
    Gibbs,
    GibbsWithGradients,
    GradientKernel,
    HamiltonianMonteCarlo,
    Langevin,
    Moved,
    NearTarget,
    TransitionKernel,
)
from .lattices import Ising, Lattice, LatticeGibbs, Potts, grid_edges
from .log_normalizer import (
    AnnealedImportanceSampling,
    LogNormalizer,
    NormalizerMethod,
    ParallelTempering,
    log_normalizer,
)
from .mixing import ChainMixing, mixing
from .model import Energy, EnergyModule
from .noise_contrastive import FlowContrastive, NoiseContrastive
from .normalized import Normalized, NormalizedDistribution
from .rbm import RBM, BlockGibbs
from .recipes import convolutional, mlp, rbm
from .score_matching import DenoisedScoreMatching, RatioMatching, ScoreMatching
from .units import BinaryUnits, CategoricalUnits, GaussianUnits, Units

__all__ = [
    "AdjustedLangevin",
    "AnnealedImportanceSampling",
    "BinaryUnits",
    "BlockGibbs",
    "Boltzmann",
    "CategoricalUnits",
    "ChainDraws",
    "ChainMixing",
    "Chains",
    "ContrastiveDivergence",
    "DataChains",
    "DataNormal",
    "DenoisedScoreMatching",
    "DiscreteKernel",
    "Energy",
    "EnergyElbo",
    "EnergyModule",
    "EnergyTarget",
    "EnumerableEnergy",
    "EnumeratedBoltzmann",
    "FlowContrastive",
    "FreshChains",
    "GaussianUnits",
    "Gibbs",
    "GibbsWithGradients",
    "GradientKernel",
    "HamiltonianMonteCarlo",
    "Ising",
    "JointDivergence",
    "JointEnergy",
    "Langevin",
    "Lattice",
    "LatticeGibbs",
    "LogNormalizer",
    "Moved",
    "NearTarget",
    "NoiseContrastive",
    "Normalized",
    "NormalizedDistribution",
    "NormalizerMethod",
    "ParallelTempering",
    "PersistentChains",
    "Potts",
    "Product",
    "RBM",
    "RatioMatching",
    "RecoveryChains",
    "ScoreMatching",
    "TransitionKernel",
    "TwoPhases",
    "Units",
    "convolutional",
    "grid_edges",
    "log_normalizer",
    "mixing",
    "mlp",
    "rbm",
    "tempered",
]


def __dir__() -> list[str]:
    return __all__
