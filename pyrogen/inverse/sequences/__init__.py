"""Posteriors of autoregressive priors: particles that grow symbol by symbol, and what is known of prefixes."""

from .contrast import TwistContrast
from .regression import PrefixRegression
from .smc import SequenceSMC
from .twist import Admissible, LearnedTwist, Lookahead, PrefixTwist

__all__ = [
    "Admissible",
    "LearnedTwist",
    "Lookahead",
    "PrefixRegression",
    "PrefixTwist",
    "SequenceSMC",
    "TwistContrast",
]


def __dir__() -> list[str]:
    return __all__
