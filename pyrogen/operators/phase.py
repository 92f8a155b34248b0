"""Phase retrieval: magnitudes alone are measured."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from pyrogen.arguments import number
from pyrogen.numerics.fourier import transformed


class PhaseRetrieval:
    """The magnitudes of the two-dimensional Fourier transform, orthonormal: not linear, and blind to many symmetries.

    The image is padded with zeros to ``oversampling`` times its size.

    Args:
        oversampling: How much larger the transform is than the image, in each direction.
    """

    def __init__(self, oversampling: float = 2.0) -> None:
        if number(oversampling, "oversampling") < 1:
            raise ValueError(f"`oversampling` must be at least 1, got {oversampling}")
        self.oversampling = oversampling

    def __call__(self, x: Tensor) -> Tensor:
        size = [math.ceil(self.oversampling * side) for side in x.shape[-2:]]
        spectrum = transformed(partial(torch.fft.fft2, s=size, norm="ortho"), x)
        # A tiny constant keeps the slope finite where a magnitude is zero.
        return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()
