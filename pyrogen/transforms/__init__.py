"""Pyro transforms without learnable parts, and the distribution of a transformed variable."""

from .autoregressive import MaskedAutoregressive
from .block_neural import BlockNeural
from .coupling import Coupling
from .distribution import TransformedDistribution
from .elements import Affine, Element
from .interval import Interval
from .linear import Cayley, Factored, Flip, Permute, Rotate, Triangular
from .monotone import Sigmoids, invert
from .ode import ODE
from .planar import Planar, Radial, Sylvester
from .spline import Spline
from .transform import Compose, Inverse, Transform, VectorTransform, as_transform

__all__ = [
    "Affine",
    "MaskedAutoregressive",
    "BlockNeural",
    "Cayley",
    "Compose",
    "Coupling",
    "Element",
    "Factored",
    "Flip",
    "Interval",
    "Inverse",
    "ODE",
    "Permute",
    "Planar",
    "Radial",
    "Rotate",
    "Sigmoids",
    "Spline",
    "Sylvester",
    "Transform",
    "TransformedDistribution",
    "Triangular",
    "VectorTransform",
    "as_transform",
    "invert",
]
