"""Pyro distributions without learnable parts, and the families that networks parameterise."""

from . import families
from .abilities import abilities_of, draw_and_score, log_prob_by_element
from .bernoulli import IndependentBernoulli
from .columns import ColumnsDistribution
from .continuous_bernoulli import ContinuousBernoulli
from .dequantized import UniformDequantized
from .discretized import DiscretizedLogistic, DiscretizedLogisticMixture, PixelLogisticMixture, QuantizedNormal
from .distribution import PyrogenDistribution
from .families import Columns
from .incomplete import Incomplete
from .mixture import Mixture
from .normal import DiagonalNormal, UnitNormal
from .zero_inflated import ZeroInflated

__all__ = [
    "PyrogenDistribution",
    "abilities_of",
    "draw_and_score",
    "Columns",
    "ColumnsDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "IndependentBernoulli",
    "Mixture",
    "Incomplete",
    "PixelLogisticMixture",
    "QuantizedNormal",
    "UnitNormal",
    "UniformDequantized",
    "ZeroInflated",
    "families",
    "log_prob_by_element",
]
