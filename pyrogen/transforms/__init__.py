"""Pyro transforms without learnable parts, and the distribution of a transformed variable."""

from pyrogen.renamed import renamed

from .affine import Affine
from .autoregressive import MaskedAutoregressive
from .block_neural import BlockNeural
from .coupling import Coupling
from .distribution import TransformedDistribution
from .elements import Element, Mixed
from .images import AtEachPlace, AtScale, ImageCoupling, ImageSplit
from .interval import Interval
from .linear import Flip, Permute, Triangular
from .moebius import Moebius
from .monotone import Sigmoids
from .ode import ODE
from .patches import PatchAutoregressive
from .planar import Planar, Radial, Sylvester
from .residual import ExactLogDet, Residual, Roulette
from .sphere import Cylindrical, Stereographic
from .spline import CircularSpline, SegmentSpline, Spline
from .transform import Compose, Inverse, Transform, as_transform
from .wrap import Wrap

__getattr__ = renamed(__name__, {"Autoregressive": "pyrogen.transforms.MaskedAutoregressive"})

__all__ = [
    "Affine",
    "AtEachPlace",
    "AtScale",
    "BlockNeural",
    "CircularSpline",
    "Compose",
    "Coupling",
    "Cylindrical",
    "Element",
    "Flip",
    "ImageCoupling",
    "ImageSplit",
    "Interval",
    "ExactLogDet",
    "Inverse",
    "MaskedAutoregressive",
    "Mixed",
    "Moebius",
    "ODE",
    "PatchAutoregressive",
    "Permute",
    "Planar",
    "Radial",
    "Residual",
    "Roulette",
    "SegmentSpline",
    "Sigmoids",
    "Spline",
    "Stereographic",
    "Sylvester",
    "Transform",
    "TransformedDistribution",
    "Triangular",
    "Wrap",
    "as_transform",
]


def __dir__() -> list[str]:
    return __all__
