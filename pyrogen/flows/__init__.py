"""Normalizing flows: distributions with exact densities, made of bijections. See :mod:`pyrogen.flows.model`."""

from pyrogen.core.normal import StandardNormal

from .bases import GaussianMixture, StudentT
from .bounded import Bounded
from .continuous import ContinuousFlow
from .dequantized import Dequantized
from .foreign import Foreign, from_transforms, from_zuko
from .guide import AutoFlow
from .layers import AutoregressiveLayer, BlockNeuralLayer, CouplingLayer, PlanarLayer, RadialLayer, SylvesterLayer
from .linear import Mixing, Reorder, Rescale, Rotation, Standardize
from .model import Flow
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

__all__ = [
    "AutoFlow",
    "AutoregressiveLayer",
    "BlockNeuralLayer",
    "Bounded",
    "ContinuousFlow",
    "CouplingLayer",
    "Dequantized",
    "Flow",
    "Foreign",
    "Mixing",
    "PlanarLayer",
    "RadialLayer",
    "Reorder",
    "Rescale",
    "Rotation",
    "GaussianMixture",
    "StandardNormal",
    "Standardize",
    "StudentT",
    "SylvesterLayer",
    "affine_autoregressive",
    "affine_coupling",
    "continuous",
    "block_neural_autoregressive",
    "from_transforms",
    "from_zuko",
    "neural_autoregressive",
    "planar",
    "radial",
    "spline_autoregressive",
    "spline_coupling",
    "sylvester",
]
