"""Diffusion models: schedules, denoisers, samplers, and the two distributions they make."""

from pyrogen.numerics.grids import FlowGrid, Grid, KarrasGrid, LogSNRGrid, UniformGrid
from pyrogen.numerics.schedule import Schedule
from pyrogen.numerics.schedules import EDM, VE, CosineVP, LearnedSchedule, LinearVP, RectifiedFlow, SubVP
from pyrogen.numerics.times import LogNormalTimes, LogSNRTimes, Times, UniformTimes
from pyrogen.renamed import renamed

from .analytic import GaussianMixtureDenoiser
from .denoiser import Data, Denoiser, NetworkDenoiser, Noise, Parameterisation, Preconditioned, Score, Velocity
from .editing import edit, trade_off
from .foreign import DiscreteVP, from_diffusers
from .guidance import Autoguidance, ClassifierFree, ClassifierGuidance
from .integers import IntegerDenoiser
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

__getattr__ = renamed(
    __name__,
    {"LevelDenoiser": "pyrogen.diffusion.IntegerDenoiser", "LevelReference": "pyrogen.diffusion.IntegerReference"},
)

__all__ = [
    "Adaptive",
    "Ancestral",
    "Autoguidance",
    "Churn",
    "ClassifierFree",
    "ClassifierGuidance",
    "CosineVP",
    "CovarianceAncestral",
    "DDIM",
    "Data",
    "DataPrediction",
    "Denoiser",
    "DenoisingScoreMatching",
    "Diffusion",
    "DiscreteVP",
    "EDM",
    "EDMWeighting",
    "Euler",
    "FlowGrid",
    "GaussianMixtureDenoiser",
    "Grid",
    "Heun",
    "IntegerDenoiser",
    "IntegerReference",
    "KarrasGrid",
    "LearnedSchedule",
    "LearnedUncertainty",
    "LikelihoodWeighting",
    "LinearVP",
    "LogNormalTimes",
    "LogSNRGrid",
    "LogSNRTimes",
    "MinSNRWeighting",
    "Multistep",
    "NetworkDenoiser",
    "Noise",
    "NoisePrediction",
    "NormalReference",
    "Parameterisation",
    "Preconditioned",
    "PredictorCorrector",
    "ProbabilityFlow",
    "RectifiedFlow",
    "Reference",
    "Sampler",
    "Schedule",
    "Score",
    "SubVP",
    "Times",
    "UniformGrid",
    "UniformTimes",
    "UniformWeighting",
    "VE",
    "VariationalBound",
    "Velocity",
    "VelocityPrediction",
    "Weighting",
    "edit",
    "from_diffusers",
    "mlp",
    "trade_off",
    "transformer",
    "unet",
]


def __dir__() -> list[str]:
    return __all__
