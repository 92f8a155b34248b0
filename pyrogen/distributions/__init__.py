"""Pyro distributions without learnable parts, and the families that networks parameterize."""

from pyrogen.renamed import renamed

from . import families
from .abilities import abilities_of, draw_and_score
from .angular import CircularNoise
from .bernoulli import IndependentBernoulli
from .continuous_bernoulli import ContinuousBernoulli
from .counts import LogisticCounts
from .dequantized import DequantizedDistribution, UniformDequantized, VariationalDequantized
from .discretized import DiscretizedLogistic, DiscretizedLogisticMixture, PixelLogisticMixture, QuantizedNormal
from .distribution import PyrogenDistribution
from .families import Columns
from .incomplete import Incomplete
from .mixture import Mixture
from .normal import DiagonalNormal, UnitNormal
from .pool import LinearPool
from .push_forward import PushForward
from .sphere import UniformSphere
from .zero_inflated import ZeroInflated

__getattr__ = renamed(__name__, {"StandardNormal": "pyrogen.distributions.UnitNormal"})

__all__ = [
    "CircularNoise",
    "Columns",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Incomplete",
    "IndependentBernoulli",
    "LinearPool",
    "LogisticCounts",
    "Mixture",
    "PixelLogisticMixture",
    "PushForward",
    "PyrogenDistribution",
    "QuantizedNormal",
    "UniformDequantized",
    "VariationalDequantized",
    "UniformSphere",
    "UnitNormal",
    "ZeroInflated",
    "abilities_of",
    "draw_and_score",
    "families",
]


def __dir__() -> list[str]:
    return __all__
