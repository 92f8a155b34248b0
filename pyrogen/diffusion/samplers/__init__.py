"""Samplers: from noise to data with the help of a denoiser."""

from .ancestral import DDIM, Ancestral, PredictorCorrector
from .multistep import DataPrediction, Multistep, NoisePrediction, Prediction, VelocityPrediction
from .runge_kutta import Adaptive, Churn, Euler, Heun
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
