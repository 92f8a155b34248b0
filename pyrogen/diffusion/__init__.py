"""Diffusion models of numbers and of symbols: schedules, denoisers, samplers, flow maps, and distributions of them."""

from pyrogen.numerics.grids import FlowGrid, Grid, KarrasGrid, LogSNRGrid, UniformGrid
from pyrogen.numerics.schedule import Schedule
from pyrogen.numerics.schedules import EDM, VE, CosineVP, LearnedSchedule, LinearVP, RectifiedFlow, SubVP
from pyrogen.numerics.times import LogNormalTimes, LogSNRTimes, Times, UniformTimes
from pyrogen.renamed import renamed

from .analytic import GaussianMixtureDenoiser
from .average import AverageDenoiser, NetworkAverageDenoiser
from .conjunction import Conjunction
from .denoiser import Data, Denoiser, NetworkDenoiser, Noise, Parameterisation, Preconditioned, Score, Velocity
from .discrete.analytic import EnumeratedDenoiser
from .discrete.denoiser import ClassifierFreeSymbols, NetworkSymbolDenoiser, SymbolDenoiser
from .discrete.masked import MaskedDiffusion
from .discrete.model import DiscreteDiffusion, SymbolBound
from .discrete.noise import MaskNoise, SymbolNoise, UniformNoise
from .discrete.samplers import ConfidenceOrdered, RandomOrder, Remasking, SymbolAncestral, SymbolSampler
from .discrete.schedules import CosineSymbols, GeometricSymbols, PolynomialSymbols, SymbolSchedule
from .discrete.uniform import UniformDiffusion
from .distribution_matching import DistributionMatching
from .editing import edit, trade_off
from .few_step_objectives import (
    ConsistencyDistillation,
    FlowMapObjective,
    LagrangianDistillation,
    MeanFlow,
    ShortcutDistillation,
)
from .few_step_recipes import flow_map, transformer_flow_map, unet_flow_map
from .few_steps import FlowMap
from .foreign import DiscreteVP, from_diffusers
from .guidance import Autoguidance, ClassifierFree, ClassifierGuidance
from .integers import IntegerDenoiser
from .inversion import difference_map, edit_by_inversion
from .model import Diffusion, VariationalBound
from .objectives import (
    DenoisingScoreMatching,
    EDMWeighting,
    LearnedUncertainty,
    LikelihoodWeighting,
    MinSNRWeighting,
    UniformWeighting,
    Weighting,
)
from .probability_flow import ProbabilityFlow
from .recipes import mlp, transformer, unet
from .reference import IntegerReference, NormalReference, Reference
from .samplers.ancestral import DDIM, Ancestral, CovarianceAncestral, PredictorCorrector
from .samplers.multistep import DataPrediction, Multistep, NoisePrediction, VelocityPrediction
from .samplers.runge_kutta import Adaptive, Churn, Euler, Heun
from .samplers.sampler import Sampler
from .symbol_recipes import masked, uniform

__getattr__ = renamed(
    __name__,
    {"LevelDenoiser": "pyrogen.diffusion.IntegerDenoiser", "LevelReference": "pyrogen.diffusion.IntegerReference"},
)

__all__ = [
    "Adaptive",
    "Ancestral",
    "Autoguidance",
    "AverageDenoiser",
    "Churn",
    "ClassifierFree",
    "ClassifierFreeSymbols",
    "ClassifierGuidance",
    "ConfidenceOrdered",
    "Conjunction",
    "ConsistencyDistillation",
    "CosineSymbols",
    "CosineVP",
    "CovarianceAncestral",
    "DDIM",
    "Data",
    "DataPrediction",
    "Denoiser",
    "DenoisingScoreMatching",
    "Diffusion",
    "DiscreteDiffusion",
    "DiscreteVP",
    "DistributionMatching",
    "EDM",
    "EDMWeighting",
    "EnumeratedDenoiser",
    "Euler",
    "FlowGrid",
    "FlowMap",
    "FlowMapObjective",
    "GaussianMixtureDenoiser",
    "GeometricSymbols",
    "Grid",
    "Heun",
    "IntegerDenoiser",
    "IntegerReference",
    "KarrasGrid",
    "LagrangianDistillation",
    "LearnedSchedule",
    "LearnedUncertainty",
    "LikelihoodWeighting",
    "LinearVP",
    "LogNormalTimes",
    "LogSNRGrid",
    "LogSNRTimes",
    "MaskNoise",
    "MaskedDiffusion",
    "MeanFlow",
    "MinSNRWeighting",
    "Multistep",
    "NetworkAverageDenoiser",
    "NetworkDenoiser",
    "NetworkSymbolDenoiser",
    "Noise",
    "NoisePrediction",
    "NormalReference",
    "Parameterisation",
    "PolynomialSymbols",
    "Preconditioned",
    "PredictorCorrector",
    "ProbabilityFlow",
    "RandomOrder",
    "RectifiedFlow",
    "Reference",
    "Remasking",
    "Sampler",
    "Schedule",
    "Score",
    "ShortcutDistillation",
    "SubVP",
    "SymbolAncestral",
    "SymbolBound",
    "SymbolDenoiser",
    "SymbolNoise",
    "SymbolSampler",
    "SymbolSchedule",
    "Times",
    "UniformDiffusion",
    "UniformGrid",
    "UniformNoise",
    "UniformTimes",
    "UniformWeighting",
    "VE",
    "VariationalBound",
    "Velocity",
    "VelocityPrediction",
    "Weighting",
    "difference_map",
    "edit",
    "edit_by_inversion",
    "flow_map",
    "from_diffusers",
    "masked",
    "mlp",
    "trade_off",
    "transformer",
    "transformer_flow_map",
    "unet",
    "unet_flow_map",
    "uniform",
]


def __dir__() -> list[str]:
    return __all__
