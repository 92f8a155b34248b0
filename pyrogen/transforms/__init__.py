"""Pyro transforms without learnable parts, and the distribution of a transformed variable."""

from .autoregressive import MaskedAutoregressive
from .block_neural import BlockNeural
from .compose import Compose
from .coupling import Coupling
from .distribution import TransformedDistribution
from .elements import Affine, Element, Spline
from .interval import Interval
from .monotone import Sigmoids, invert
from .ode import ODE
from .permutation import Cayley, Factored, Flip, Permute, Rotate, Triangular
from .planar import Planar, Radial, Sylvester
from .spline import spline_forward, spline_inverse
from .transform import Inverse, Transform, forward_and_log_det, inverse_and_log_det
from .vector import VectorTransform

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
    "forward_and_log_det",
    "inverse_and_log_det",
    "invert",
    "spline_forward",
    "spline_inverse",
]
