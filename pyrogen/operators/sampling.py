"""Fewer numbers than pixels: grey images and downsampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.arguments import image_shape, integer, number
from pyrogen.arrays import takes_arrays

from .linear import Linear, floating
from .spectrum import ExactSpectrum

REC601 = (0.299, 0.587, 0.114)


class Grey(Linear):
    """The luminance of a colour image, a weighted mean of its channels: colorization.

    Args:
        shape: ``(3, height, width)``.
        weights: Of red, green and blue; those of ITU-R BT.601 if not given.
    """

    def __init__(self, shape: tuple[int, ...], weights: tuple[float, float, float] = REC601) -> None:
        image_shape(shape, channels=3)
        if len(weights) != 3:
            raise ValueError(f"`weights` must be three numbers, got {len(weights)}")
        super().__init__(shape)
        self.weights = torch.tensor([number(weight, "weights") for weight in weights]).reshape(3, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return (self.weights.to(x) * x).sum(-3, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.weights.to(y) * y


class Separable(Linear):
    """A linear map of rows and one of columns, alike for all channels.

    Args:
        shape: ``(channels, height, width)``.
        vertical: Of shape ``(new height, height)``.
        horizontal: Of shape ``(new width, width)``.
    """

    @takes_arrays
    def __init__(self, shape: tuple[int, ...], vertical: Tensor, horizontal: Tensor) -> None:
        image_shape(shape)
        for name, factor, size in (("vertical", vertical, shape[-2]), ("horizontal", horizontal, shape[-1])):
            if floating(factor, name).dim() != 2 or factor.shape[-1] != size:
                raise ValueError(f"`{name}` must have shape (new size, {size}), got {tuple(factor.shape)}")
        super().__init__(shape)
        self.vertical, self.horizontal = vertical, horizontal

    def __call__(self, x: Tensor) -> Tensor:
        return self.vertical.to(x) @ x @ self.horizontal.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return self.vertical.to(y).T @ y @ self.horizontal.to(y)

    def norm(self) -> float:
        factors = self.vertical, self.horizontal
        return math.prod(torch.linalg.matrix_norm(factor.double(), 2).item() for factor in factors)

    def spectrum(self, dense: int = 4096) -> ExactSpectrum:
        (down, left), (across, right) = (
            torch.linalg.eigh(f @ f.T) for f in (self.vertical.double(), self.horizontal.double())
        )
        values = (down.unsqueeze(-1) * across).expand(self.shape[0], -1, -1)
        rotation = Separable(self.output_shape, left.T, right.T)
        return ExactSpectrum(self, values, rotation, rotation.adjoint)


def box_downsampling(shape: tuple[int, ...], factor: int) -> Separable:
    """The mean of each block of pixels.

    Args:
        shape: ``(channels, height, width)``.
        factor: The side of a block, in pixels; divides height and width.
    """
    _check_factor(shape, factor)
    rows = [torch.kron(torch.eye(size // factor), torch.full((1, factor), 1 / factor)) for size in shape[-2:]]
    return Separable(shape, *rows)


def bicubic_downsampling(shape: tuple[int, ...], factor: int) -> Separable:
    """Antialiased bicubic downsampling.

    The cubic kernel of Keys (a = -0.5), widened by the factor and normalized at the edges.

    Args:
        shape: ``(channels, height, width)``.
        factor: How many pixels become one; divides height and width.

    References:
        Keys 1981, "Cubic convolution interpolation for digital image processing",
        https://doi.org/10.1109/TASSP.1981.1163711
    """
    _check_factor(shape, factor)
    return Separable(shape, *(_cubic_rows(size, factor) for size in shape[-2:]))


def _check_factor(shape: tuple[int, ...], factor: int) -> None:
    image_shape(shape)
    if integer(factor, "factor") < 1 or any(size % factor for size in shape[-2:]):
        raise ValueError(f"`factor` must divide height and width {tuple(shape[-2:])}, got {factor}")


def _cubic_rows(size: int, factor: int) -> Tensor:
    centres = (torch.arange(size // factor, dtype=torch.double) + 0.5) * factor - 0.5
    distance = (torch.arange(size, dtype=torch.double) - centres.unsqueeze(-1)).abs() / factor
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    zero = torch.zeros_like(distance)
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, zero))
    return (weights / weights.sum(-1, keepdim=True)).float()
