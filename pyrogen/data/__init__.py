"""Data: toy densities, images that packages ship, sounds, and what is done to them before and after a model."""

from . import (
    audio,
    bouncing,
    chorales,
    circling,
    maze,
    phantoms,
    proteins,
    scenes,
    signs,
    solids,
    spectrograms,
    speech,
    text,
    uci,
    vowels,
)
from .audio import inverse_mu_law, mu_law
from .corruption import add_noise, occlude, rotate, shuffle_pixels
from .images import Images, digits, faces, mnist
from .photographs import photographs
from .preprocessing import dequantize, quantize
from .split import split
from .terrain import Terrain, slopes
from .tokens import Alphabet, BytePairs, as_source
from .toy import checkerboard, funnel, ring_of_gaussians, two_moons
from .windows import windows

__all__ = [
    "Alphabet",
    "BytePairs",
    "Images",
    "Terrain",
    "add_noise",
    "as_source",
    "audio",
    "bouncing",
    "checkerboard",
    "chorales",
    "circling",
    "dequantize",
    "digits",
    "faces",
    "funnel",
    "inverse_mu_law",
    "maze",
    "mnist",
    "mu_law",
    "occlude",
    "phantoms",
    "photographs",
    "proteins",
    "quantize",
    "ring_of_gaussians",
    "rotate",
    "scenes",
    "shuffle_pixels",
    "signs",
    "slopes",
    "solids",
    "spectrograms",
    "speech",
    "split",
    "text",
    "two_moons",
    "uci",
    "vowels",
    "windows",
]


def __dir__() -> list[str]:
    return __all__
