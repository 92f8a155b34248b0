r"""Residual networks of images without normalization: from images to features, and from vectors to images.

Both are made of the same blocks, :math:`x + W_3\,a(W_2 * a(W_1 x))`, narrow dense layers at each place around a
convolution in groups; the last weights of a block start at zero, so that a deep network starts as a shallow one and
needs no statistics of the minibatch to be trained. Images change their size by averages and by linear interpolation.

References:
    Huang, Gokaslan, Kuleshov and Tompkin 2024, "The GAN is dead; long live the GAN! A modern baseline GAN",
    https://arxiv.org/abs/2501.05441
    Zhang, Dauphin and Ma 2019, "Fixup initialization", https://arxiv.org/abs/1901.09321
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyrogen.arguments import checked, non_negative

from .convolution import halved_sizes

Shape = tuple[int, ...]
_SLOPE = 0.2
_GAIN = sqrt(2 / (1 + _SLOPE**2))


class ResidualImageFeatures(nn.Module):
    """From images to vectors of features, for critics: blocks, then half the size and more channels, and so on.

    Args:
        image_shape: ``(channels, height, width)`` of an image, of any size.
        channels: Channels at each size, from the full one on; each size is half of that before, rounded up.
        blocks: How many residual blocks there are at each size.
        group: Channels of a group of the convolutions in blocks; it divides all ``channels``.
        last: Scale of the last weights of a block at the start.

    Attributes:
        width: How many features there are: the last of ``channels``.

    Raises:
        ValueError: ``image_shape`` has not three dimensions, or ``group`` does not divide ``channels``.

    Shape:
        ``(N, *image_shape)`` to ``(N, width)``.

    Example:
        >>> ResidualImageFeatures((1, 8, 8), channels=(16, 32))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 32])
    """

    @checked(last=non_negative)
    def __init__(
        self,
        image_shape: Shape,
        *,
        channels: Sequence[int] = (64, 128),
        blocks: int = 1,
        group: int = 16,
        last: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = halved_sizes(image_shape, channels)[:-1]
        total = blocks * len(channels)
        layers: list[nn.Module] = [_convolution(image_shape[0], channels[0])]
        for place, width in enumerate(channels):
            if place:
                layers += [nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)]
                layers += [_convolution(channels[place - 1], width)] * (width != channels[place - 1])
            layers += [ResidualImageBlock(width, total=total, group=group, last=last) for _ in range(blocks)]
        self.width = channels[-1]
        self.layers = nn.Sequential(*layers, _convolution(self.width, self.width, sizes[-1], groups=self.width))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image).flatten(1)


class ResidualImageSynthesis(nn.Module):
    """From vectors to images, for generators: a small image of learned patterns, then blocks and twice the size.

    Args:
        inputs: Size of the input, with that of a context beside it.
        image_shape: ``(channels, height, width)`` of the output, of any size.
        channels: Channels at each size, from the smallest one on.
        blocks: How many residual blocks there are at each size.
        group: Channels of a group of the convolutions in blocks; it divides all ``channels``.
        interval: ``(low, high)`` between which a logistic function brings pixels, if given.

    Raises:
        ValueError: ``image_shape`` has not three dimensions, or ``group`` does not divide ``channels``.

    Shape:
        ``(N, inputs)`` to ``(N, *image_shape)``.

    Example:
        >>> ResidualImageSynthesis(4, (1, 8, 8), channels=(32, 16))(torch.zeros(5, 4)).shape
        torch.Size([5, 1, 8, 8])
    """

    @checked
    def __init__(
        self,
        inputs: int,
        image_shape: Shape,
        *,
        channels: Sequence[int] = (128, 64),
        blocks: int = 1,
        group: int = 16,
        interval: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        sizes = halved_sizes(image_shape, channels)[-2::-1]
        total = blocks * len(channels)
        self.patterns = nn.Parameter(torch.randn(channels[0], *sizes[0]))
        self.dense = nn.Linear(inputs, channels[0])
        layers: list[nn.Module] = []
        for place, width in enumerate(channels):
            if place:
                layers += [_convolution(channels[place - 1], width)] * (width != channels[place - 1])
                layers += [nn.Upsample(size=sizes[place], mode="bilinear")]
            layers += [ResidualImageBlock(width, total=total, group=group) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, _convolution(channels[-1], image_shape[0]))
        self.interval = interval

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        scales = self.dense(z if context is None else torch.cat([z, context], -1))
        image = self.layers(scales[..., None, None] * self.patterns)
        if self.interval is None:
            return image
        low, high = self.interval
        return low + (high - low) * image.sigmoid()


class ResidualImageBlock(nn.Module):
    """A dense layer at each place, a convolution in groups, and a dense layer, beside the identity.

    Args:
        channels: Of input and output.
        total: How many blocks a network has, by which the weights of the first two layers are scaled.
        group: Channels of a group of the convolution.
        last: Scale of the last weights at the start.
    """

    def __init__(self, channels: int, *, total: int = 1, group: int = 16, last: float = 0.0) -> None:
        super().__init__()
        if channels % group:
            raise ValueError(f"`channels` must hold multiples of `group` = {group}, got {channels}")
        scale = total**-0.25  # Fixup, for three layers: L^(-1 / (2 * 3 - 2))
        self.first = _convolution(channels, channels, bias=True, gain=_GAIN * scale)
        self.middle = _convolution(channels, channels, 3, groups=channels // group, bias=True, gain=_GAIN * scale)
        self.last = _convolution(channels, channels, gain=last)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.leaky_relu(self.first(x), _SLOPE)
        return x + self.last(functional.leaky_relu(self.middle(inner), _SLOPE))


def _convolution(
    inputs: int,
    outputs: int,
    size: int | tuple[int, int] = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    gain: float = 1.0,
) -> nn.Conv2d:
    """A convolution whose outputs start with variance ``gain ** 2`` for inputs of variance one."""
    padding = size // 2 if isinstance(size, int) else 0
    layer = nn.Conv2d(inputs, outputs, size, padding=padding, groups=groups, bias=bias)
    nn.init.normal_(layer.weight, std=gain / sqrt(layer.weight[0].numel()))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
