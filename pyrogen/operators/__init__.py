r"""Operators: what an instrument does to a signal, as plain functions of tensors.

Every operator is an object called with images ``(*batch, channels, height, width)`` (or any shape it names), linear
ones with an :meth:`~Linear.adjoint`,

.. math:: \langle A x, y \rangle = \langle x, A^\top y \rangle ,

and usable in any Pyro model: ``pyro.sample("y", dist.Normal(operator(x), 0.1).to_event(3), obs=y)``. Values keep their
units: a grey value of data in [0, 1] is in [0, 1], a sum of four pixels is four times one. Lengths are in pixels.
"""

from .blur import Convolution, gaussian_blur
from .diagonalized import Diagonalized
from .fourier import Coils, Fourier, NonuniformFourier
from .frequencies import coil_maps, radial, random_lines, uniform_lines
from .linear import Composition, Linear, LinearMap
from .matrix import Mask, Matrix
from .periodic import CircularConvolution, Shift
from .phase import PhaseRetrieval
from .radon import FanBeam, Radon
from .sampling import Grey, Separable, bicubic_downsampling, box_downsampling
from .sense import Sense
from .sound import LowPass, decimation
from .spectrum import ExactSpectrum, KrylovSpectrum, Spectrum

__all__ = [
    "CircularConvolution",
    "Coils",
    "Composition",
    "Convolution",
    "Diagonalized",
    "ExactSpectrum",
    "FanBeam",
    "Fourier",
    "Grey",
    "KrylovSpectrum",
    "Linear",
    "LinearMap",
    "LowPass",
    "Mask",
    "Matrix",
    "NonuniformFourier",
    "PhaseRetrieval",
    "Radon",
    "Sense",
    "Separable",
    "Shift",
    "Spectrum",
    "bicubic_downsampling",
    "box_downsampling",
    "coil_maps",
    "decimation",
    "gaussian_blur",
    "radial",
    "random_lines",
    "uniform_lines",
]


def __dir__() -> list[str]:
    return __all__
