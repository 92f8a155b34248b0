"""Convolutional networks from an image of any size to a vector and back, or to a coarser grid of vectors and back."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, integer


class ImageEncoder(nn.Module):
    """From images to vectors: convolutions that halve the image, then two dense layers.

    Args:
        image_shape: ``(channels, height, width)`` of an image.
        outputs: Size of the output.
        channels: Channels after each halving.
        hidden: Size of the dense hidden layer, which sees the context as well.
        context: Size of the context vector, zero for none.

    Raises:
        ValueError: ``image_shape`` has not three dimensions, or ``channels`` is empty.

    Shape:
        Images ``(N, *image_shape)`` and, with a context, vectors ``(N, context)``, to ``(N, outputs)``.

    Example:
        >>> ImageEncoder((1, 28, 28), 4)(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 4])
    """

    @checked(hidden=integer)
    def __init__(
        self,
        image_shape: Sequence[int],
        outputs: int,
        *,
        channels: Sequence[int] = (32, 64),
        hidden: int = 128,
        context: int = 0,
    ) -> None:
        super().__init__()
        sizes = halved_sizes(image_shape, channels)
        self.convolutions = nn.Sequential(*_halving(image_shape[0], channels), nn.Flatten())
        features = channels[-1] * prod(sizes[-1])
        self.dense = nn.Sequential(
            nn.Linear(features + context, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs)
        )

    def forward(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        features = self.convolutions(image)
        return self.dense(features if context is None else torch.cat([features, context], -1))


class ImageDecoder(nn.Module):
    """From vectors to images: two dense layers, then transposed convolutions that double the image.

    Args:
        inputs: Size of the input, with that of a context beside it.
        image_shape: ``(channels, height, width)`` of the output; its channels are the outputs for each position.
        channels: Channels before each doubling.
        hidden: Size of the dense hidden layer.

    Raises:
        ValueError: ``image_shape`` has not three dimensions, or ``channels`` is empty.

    Shape:
        ``(N, inputs)`` to ``(N, *image_shape)``.

    Example:
        >>> ImageDecoder(4, (2, 28, 28))(torch.zeros(5, 4)).shape
        torch.Size([5, 2, 28, 28])
    """

    @checked(hidden=integer)
    def __init__(
        self,
        inputs: int,
        image_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 32),
        hidden: int = 128,
    ) -> None:
        super().__init__()
        sizes = halved_sizes(image_shape, channels)[::-1]
        features = channels[0] * prod(sizes[0])
        self.dense = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, features),
            nn.ReLU(inplace=True),
            nn.Unflatten(-1, (channels[0], *sizes[0])),
        )
        self.convolutions = nn.Sequential(*_doubling(image_shape, channels)[1:])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.convolutions(self.dense(x if context is None else torch.cat([x, context], -1)))


class GridEncoder(nn.Module):
    """From images to grids of vectors: convolutions that halve the image, then a residual one at each position.

    Args:
        image_shape: ``(channels, rows, columns)`` of an image.
        width: Size of the vectors.
        channels: Channels after each halving.

    Shape:
        ``(N, *image_shape)`` to ``(N, width, *grid)``.

    Example:
        >>> GridEncoder((1, 9, 8), 4)(torch.zeros(5, 1, 9, 8)).shape
        torch.Size([5, 4, 3, 2])
    """

    @checked
    def __init__(self, image_shape: Sequence[int], width: int, *, channels: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        self.grid = halved_sizes(image_shape, channels)[-1]
        self.convolutions = nn.Sequential(
            *_halving(image_shape[0], channels), ResidualConvolution(channels[-1]), nn.Conv2d(channels[-1], width, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.convolutions(image)


class GridDecoder(nn.Module):
    """From grids of vectors to images: a residual convolution, then transposed ones that double the grid.

    Args:
        width: Size of the vectors.
        image_shape: ``(channels, rows, columns)`` of the output; its channels are the outputs for each position.
        channels: Channels before each doubling.

    Shape:
        ``(N, width, *grid)`` to ``(N, *image_shape)``.
    """

    @checked
    def __init__(self, width: int, image_shape: Sequence[int], *, channels: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        first = nn.Conv2d(width, channels[0], 3, padding=1)
        self.convolutions = nn.Sequential(first, ResidualConvolution(channels[0]), *_doubling(image_shape, channels))

    def forward(self, z: Tensor) -> Tensor:
        return self.convolutions(z)


class ResidualConvolution(nn.Module):
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


class Centred(nn.Module):
    """Integers ``0 … symbols - 1`` between -1 and 1.

    Args:
        symbols: How many there are.
    """

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols = symbols

    def forward(self, image: Tensor) -> Tensor:
        return image * (2 / (self.symbols - 1)) - 1


def halved_sizes(image_shape: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int]]:
    """Heights and widths of an image halved, rounding up, once for each entry of ``channels``.

    Raises:
        ValueError: ``image_shape`` has not three dimensions, or ``channels`` is empty.
    """
    if len(image_shape) != 3:
        raise ValueError(f"images must have shape (channels, height, width), got {tuple(image_shape)}")
    if not channels:
        raise ValueError("`channels` must name at least one layer, got none")
    sizes = [tuple(image_shape[1:])]
    for _ in channels:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def _halving(inputs: int, channels: Sequence[int]) -> list[nn.Module]:
    """Convolutions that halve an image, each with its nonlinearity."""
    layers: list[nn.Module] = []
    for before, after in zip((inputs, *channels), channels, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
    return layers


def _doubling(image_shape: Sequence[int], channels: Sequence[int]) -> list[nn.Module]:
    """Transposed convolutions that double an image up to ``image_shape``, a nonlinearity before each."""
    sizes = halved_sizes(image_shape, channels)[::-1]
    layers: list[nn.Module] = []
    for before, after, small, large in zip(channels, (*channels[1:], image_shape[0]), sizes, sizes[1:], strict=False):
        odd = [big - 2 * little + 1 for big, little in zip(large, small, strict=True)]
        layers += [nn.ReLU(inplace=True), nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=odd)]
    return layers
