"""Normalizing flows: distributions with exact densities, made of bijections. See :mod:`pyrogen.flows.model`."""

from pyrogen.core.normal import StandardNormal
from pyrogen.renamed import renamed

from .bases import GaussianMixture, StudentT
from .bounded import Bounded
from .circular import UniformAngles, Wrapped
from .circular_recipes import circular, sphere
from .continuous import ContinuousFlow
from .dequantized import Dequantized
from .foreign import from_transforms, from_zuko
from .guide import AutoFlow
from .image_recipes import multiscale, patch_autoregressive
from .images import ActNorm, ImageCouplingLayer, InvertibleConvolution, ScaleLayer
from .layers import AutoregressiveLayer, CouplingLayer
from .linear import Mixing, Reorder, Rescale, Rotation, Standardize
from .mixture import FlowMixture
from .mixture_recipes import mixture
from .model import Flow
from .patches import PatchLayer
from .recipes import (
    affine_autoregressive,
    affine_coupling,
    block_neural_autoregressive,
    continuous,
    neural_autoregressive,
    planar,
    radial,
    spline_autoregressive,
    spline_coupling,
    sylvester,
)
from .residual import ResidualLayer
from .residual_recipes import residual
from .sphere import SphereLayer, UniformDirections

__getattr__ = renamed(__name__, {"Mixture": "pyrogen.flows.GaussianMixture"})

__all__ = [
    "ActNorm",
    "AutoFlow",
    "AutoregressiveLayer",
    "Bounded",
    "ContinuousFlow",
    "CouplingLayer",
    "Dequantized",
    "Flow",
    "FlowMixture",
    "GaussianMixture",
    "ImageCouplingLayer",
    "InvertibleConvolution",
    "Mixing",
    "PatchLayer",
    "Reorder",
    "Rescale",
    "ResidualLayer",
    "Rotation",
    "StandardNormal",
    "ScaleLayer",
    "SphereLayer",
    "Standardize",
    "StudentT",
    "UniformAngles",
    "UniformDirections",
    "Wrapped",
    "affine_autoregressive",
    "affine_coupling",
    "block_neural_autoregressive",
    "circular",
    "continuous",
    "from_transforms",
    "from_zuko",
    "mixture",
    "multiscale",
    "neural_autoregressive",
    "patch_autoregressive",
    "planar",
    "radial",
    "residual",
    "sphere",
    "spline_autoregressive",
    "spline_coupling",
    "sylvester",
]


def __dir__() -> list[str]:
    return __all__
