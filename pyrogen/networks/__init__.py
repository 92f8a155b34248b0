"""Networks: plain modules that know nothing of probability."""

from .embedding import Flatten, Labels
from .masked import MaskedConditioner
from .mlp import MLP, Conditioner

__all__ = ["MLP", "Conditioner", "Flatten", "Labels", "MaskedConditioner"]
