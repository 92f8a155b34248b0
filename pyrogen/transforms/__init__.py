"""Pyro transforms without learnable parts, and the distribution of a transformed variable."""

from pyrogen.renamed import renamed

from .affine import Affine
from .autoregressive import MaskedAutoregressive
from .block_neural import BlockNeural
from .coupling import Coupling
from .distribution import TransformedDistribution
from .elements import Element
from .interval import Interval
from .linear import Flip, Permute, Triangular
from .monotone import Sigmoids
from .ode import ODE
from .planar import Planar, Radial, Sylvester
from .spline import Spline
from .transform import Compose, Inverse, Transform, as_transform

__getattr__ = renamed(__name__, {"Autoregressive": "pyrogen.transforms.MaskedAutoregressive"})

__all__ = [
    "Affine",
    "BlockNeural",
    "Compose",
    "Coupling",
    "Element",
    "Flip",
    "Interval",
    "Inverse",
    "MaskedAutoregressive",
    "ODE",
    "Permute",
    "Planar",
    "Radial",
    "Sigmoids",
    "Spline",
    "Sylvester",
    "Transform",
    "TransformedDistribution",
    "Triangular",
    "as_transform",
]


def __dir__() -> list[str]:
    return __all__
