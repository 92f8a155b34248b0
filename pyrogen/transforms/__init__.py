"""Pyro transforms without learnable parts, and the distribution of a transformed variable."""

from .autoregressive import Autoregressive
from .compose import Compose
from .coupling import Coupling
from .distribution import TransformedDistribution
from .elements import Affine, Element, Spline
from .interval import Interval
from .monotone import Sigmoids, invert
from .permutation import Flip, Permute, Triangular
from .planar import Planar, Radial, Sylvester
from .spline import spline_forward, spline_inverse
from .transform import Inverse, Transform, forward_and_log_det, inverse_and_log_det
from .vector import VectorTransform

__all__ = [
    "Affine",
    "Autoregressive",
    "Compose",
    "Coupling",
    "Element",
    "Flip",
    "Interval",
    "Inverse",
    "Permute",
    "Planar",
    "Radial",
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
