"""Corrupted images, which an outlier detector should find."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import checked, non_negative


@checked(scale=non_negative)
def add_noise(images: Tensor, scale: float, *, seed: int) -> Tensor:
    """Gaussian noise, kept within (0, 1).

    Args:
        images: Of any shape, with values in (0, 1).
        scale: Standard deviation of the noise.
        seed: Of the noise.

    Raises:
        ValueError: the images are integers: dequantize them first.
    """
    _require_real(images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return _clip(images + scale * noise.to(images))


@checked
def occlude(images: Tensor, size: int, *, seed: int, value: float = 0.5) -> Tensor:
    """A square of one grey value at a random place of each image.

    Args:
        images: Of shape ``(N, channels, height, width)``, with values in (0, 1).
        size: Side of the square, in pixels.
        seed: Of the places.
        value: Of the square.

    Raises:
        ValueError: the images have another shape or are integers, or the square is larger than they are.
    """
    if images.dim() != 4:
        raise ValueError(f"`images` must have shape (N, channels, height, width), got {tuple(images.shape)}")
    _require_real(images)
    height, width = images.shape[-2:]
    if not 0 < size <= min(height, width):
        raise ValueError(f"`size` must be between 1 and {min(height, width)} pixels, got {size}")
    generator = torch.Generator().manual_seed(seed)
    top = torch.randint(height - size + 1, (len(images), 1), generator=generator)
    left = torch.randint(width - size + 1, (len(images), 1), generator=generator)
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top) & (rows < top + size)
    in_columns = (columns >= left) & (columns < left + size)
    square = (in_rows.unsqueeze(-1) & in_columns.unsqueeze(-2)).unsqueeze(1)
    return _clip(torch.where(square.to(images.device), value, images))


def rotate(images: Tensor) -> Tensor:
    """A quarter turn of images of shape ``(..., height, width)``."""
    return images.rot90(1, (-2, -1))


@checked
def shuffle_pixels(images: Tensor, *, seed: int) -> Tensor:
    """The same pixels in another order, one order for all images and channels, of shape ``(..., height, width)``."""
    order = torch.randperm(images.shape[-2:].numel(), generator=torch.Generator().manual_seed(seed))
    return images.flatten(-2)[..., order.to(images.device)].reshape(images.shape)


def _require_real(images: Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(f"`images` must be real numbers in (0, 1), got {images.dtype}; `dequantize` them first")


def _clip(images: Tensor) -> Tensor:
    edge = torch.finfo(images.dtype).eps
    return images.clamp(edge, 1 - edge)
