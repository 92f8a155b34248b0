"""Convolutions between an image and a coarser grid of vectors, and back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyrogen.arguments import checked

from .convolution import halved_sizes


class GridEncoder(nn.Module):
    """From images to grids of vectors: convolutions that halve the image, then a residual one at each position.

    Args:
        image_shape: ``(channels, rows, columns)`` of an image.
        width: Size of the vectors.
        channels: Channels after each halving.

    Shape:
        ``(N, *image_shape)`` to ``(N, width, *grid)``.

    Example:
        >>> import torch
        >>> GridEncoder((1, 9, 8), 4)(torch.zeros(5, 1, 9, 8)).shape
        torch.Size([5, 4, 3, 2])
    """

    @checked
    def __init__(self, image_shape: Sequence[int], width: int, *, channels: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        self.grid = halved_sizes(image_shape, channels)[-1]
        layers: list[nn.Module] = []
        for before, after in zip((image_shape[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers, Residual(channels[-1]), nn.Conv2d(channels[-1], width, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.convolutions(image)


class GridDecoder(nn.Module):
    """From grids of vectors to images: a residual convolution, then transposed ones that double the grid.

    Args:
        width: Size of the vectors.
        image_shape: ``(channels, rows, columns)`` of the output; its channels are the numbers for each position.
        channels: Channels before each doubling.

    Shape:
        ``(N, width, *grid)`` to ``(N, *image_shape)``.
    """

    @checked
    def __init__(self, width: int, image_shape: Sequence[int], *, channels: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        sizes = halved_sizes(image_shape, channels)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(width, channels[0], 3, padding=1), Residual(channels[0])]
        outputs = (*channels[1:], image_shape[0])
        for before, after, small, large in zip(channels, outputs, sizes, sizes[1:], strict=False):
            odd = [big - 2 * little + 1 for big, little in zip(large, small, strict=True)]
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=odd)]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.convolutions(z)


class Residual(nn.Module):
    """Two convolutions beside the identity.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolutions(x)
