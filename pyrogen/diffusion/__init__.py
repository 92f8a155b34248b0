"""Diffusion models: schedules, denoisers, samplers, and the two distributions they make."""

from pyrogen.numerics.grids import FlowGrid, Grid, KarrasGrid, LogSNRGrid, UniformGrid
from pyrogen.numerics.schedules import EDM, VE, CosineVP, LearnedSchedule, LinearVP, RectifiedFlow, Schedule, SubVP
from pyrogen.numerics.times import LogNormalTimes, LogSNRTimes, Times, UniformTimes

from .analytic import GaussianMixtureDenoiser
from .denoiser import Data, Denoiser, NetworkDenoiser, Noise, Parameterisation, Preconditioned, Score, Velocity
from .editing import TradeOff, edit, trade_off
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
from .samplers.ancestral import DDIM, Ancestral, PredictorCorrector
from .samplers.multistep import DataPrediction, Multistep, NoisePrediction, Prediction, VelocityPrediction
from .samplers.runge_kutta import Adaptive, Churn, Euler, Heun
from .samplers.sampler import Sampler

__all__ = [
    "DiscreteVP",
    "edit",
    "from_diffusers",
    "trade_off",
    "TradeOff",
    "Autoguidance",
    "ClassifierFree",
    "ClassifierGuidance",
    "IntegerDenoiser",
    "Diffusion",
    "DenoisingScoreMatching",
    "EDMWeighting",
    "LearnedUncertainty",
    "LikelihoodWeighting",
    "MinSNRWeighting",
    "UniformWeighting",
    "ProbabilityFlow",
    "VariationalBound",
    "Weighting",
    "mlp",
    "transformer",
    "unet",
    "IntegerReference",
    "NormalReference",
    "Reference",
    "LogNormalTimes",
    "LogSNRTimes",
    "Times",
    "UniformTimes",
    "DDIM",
    "Adaptive",
    "Ancestral",
    "Churn",
    "DataPrediction",
    "Euler",
    "Heun",
    "Multistep",
    "NoisePrediction",
    "Prediction",
    "PredictorCorrector",
    "Sampler",
    "VelocityPrediction",
    "EDM",
    "VE",
    "CosineVP",
    "Data",
    "Denoiser",
    "FlowGrid",
    "GaussianMixtureDenoiser",
    "Grid",
    "KarrasGrid",
    "LearnedSchedule",
    "LinearVP",
    "LogSNRGrid",
    "NetworkDenoiser",
    "Noise",
    "Parameterisation",
    "Preconditioned",
    "RectifiedFlow",
    "Schedule",
    "Score",
    "SubVP",
    "UniformGrid",
    "Velocity",
]
