"""Implicit models: generators, learning by comparing samples, and density ratios."""

from .bidirectional import Bidirectional
from .critic import Critic
from .critic_recipes import convolutional_critic, mlp_critic
from .divergences import FDivergence
from .game import Game
from .image_recipes import convolutional
from .information import Information
from .losses import FGan, Hinge, LeastSquares, Loss, NonSaturating, Relativistic, Wasserstein
from .matching import EnergyDistance, MaximumMeanDiscrepancy, SlicedWasserstein
from .model import Generator
from .penalties import R1, R2, GradientPenalty, Penalty, Scored
from .quadratic import QuadraticCritic
from .ratio import RatioEstimate, TelescopingLoss
from .ratio_recipes import density_ratio
from .recipes import mlp
from .table import TableGenerator
from .table_recipes import tabular

__all__ = [
    "Bidirectional",
    "Critic",
    "EnergyDistance",
    "FDivergence",
    "FGan",
    "Game",
    "Generator",
    "GradientPenalty",
    "Hinge",
    "Information",
    "LeastSquares",
    "Loss",
    "MaximumMeanDiscrepancy",
    "NonSaturating",
    "Penalty",
    "QuadraticCritic",
    "R1",
    "R2",
    "RatioEstimate",
    "Relativistic",
    "Scored",
    "SlicedWasserstein",
    "TableGenerator",
    "TelescopingLoss",
    "Wasserstein",
    "convolutional",
    "convolutional_critic",
    "density_ratio",
    "mlp",
    "mlp_critic",
    "tabular",
]


def __dir__() -> list[str]:
    return __all__
