"""Implicit models: generators, and learning by comparing samples."""

from .game import Game
from .losses import FGan, Hinge, LeastSquares, Loss, NonSaturating, Relativistic, Wasserstein
from .model import Generator
from .penalties import R1, R2, GradientPenalty, Penalty, Scored
from .recipes import mlp

__all__ = [
    "FGan",
    "Game",
    "Generator",
    "GradientPenalty",
    "Hinge",
    "LeastSquares",
    "Loss",
    "NonSaturating",
    "Penalty",
    "R1",
    "R2",
    "Relativistic",
    "Scored",
    "Wasserstein",
    "mlp",
]


def __dir__() -> list[str]:
    return __all__
