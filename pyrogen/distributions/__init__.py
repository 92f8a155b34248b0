"""Pyro distributions without learnable parts, and the families that networks parameterise."""

from . import families
from .bernoulli import IndependentBernoulli
from .columns import Columns, ColumnsDistribution
from .continuous_bernoulli import ContinuousBernoulli
from .dequantized import UniformDequantized
from .discretized import DiscretizedLogistic, DiscretizedLogisticMixture, PixelLogisticMixture, QuantizedNormal
from .incomplete import Incomplete, log_prob_by_element
from .mixture import Mixture
from .normal import DiagonalNormal, UnitNormal
from .zero_inflated import ZeroInflated

__all__ = [
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
