"""Samplers: from noise to data with the help of a denoiser."""

from .adaptive import Adaptive
from .ancestral import DDIM, Ancestral
from .langevin import PredictorCorrector
from .multistep import DataPrediction, Multistep, NoisePrediction, Prediction, VelocityPrediction
from .runge_kutta import Churn, Euler, Heun
from .sampler import Sampler

__all__ = [
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
]
