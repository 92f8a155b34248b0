"""Noise levels as inputs of a network: features of a level, and norms that they modulate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    r"""Features of numbers: sines and cosines of frequencies in geometric progression, then two dense layers.

    .. math:: f_k(c) = (\sin \omega_k c, \cos \omega_k c), \qquad \omega_k \in [\omega_{\min}, \omega_{\max}]

    Args:
        width: Size of the result.
        features: How many sines and cosines there are.
        lowest: The lowest frequency, in radians per unit of the number.
        highest: The highest.
        numbers: How many numbers there are.

    Shape:
        ``(*batch,)``, or ``(*batch, numbers)`` of more than one, to ``(*batch, width)``.

    References:
        Vaswani et al. 2017, "Attention is all you need", https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self, width: int, *, features: int = 32, lowest: float = 0.25, highest: float = 16.0, numbers: int = 1
    ) -> None:
        super().__init__()
        self.numbers = numbers
        frequencies = torch.logspace(math.log10(lowest), math.log10(highest), features // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(features // 2 * 2 * numbers, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Tensor) -> Tensor:
        angles = level.unsqueeze(-1) * self.frequencies
        features = torch.cat([angles.sin(), angles.cos()], -1)
        return self.layers(features if self.numbers == 1 else features.flatten(-2))


class Modulation(nn.Module):
    """Scales, shifts and gates for the features of a layer, all zero at first.

    Args:
        width: Size of the condition.
        channels: How many features there are.
        parts: How many values each feature gets.

    Shape:
        ``(N, width)`` to ``parts`` tensors ``(N, channels)``.

    References:
        Perez et al. 2018, "FiLM: visual reasoning with a general conditioning layer", https://arxiv.org/abs/1709.07871
        Peebles and Xie 2023, "Scalable diffusion models with transformers", https://arxiv.org/abs/2212.09748
    """

    def __init__(self, width: int, channels: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.layer = zeroed(nn.Linear(width, parts * channels))

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.layer(nn.functional.silu(condition)).chunk(self.parts, -1)


class AdaptiveGroupNorm(nn.Module):
    r"""Group normalization, scaled and shifted by a condition: :math:`(1 + a(c)) \, \bar h + b(c)`.

    Args:
        channels: How many there are.
        width: Size of the condition.

    Shape:
        ``(N, channels, *places)`` and ``(N, width)`` to the first.

    References:
        Wu and He 2018, "Group normalization", https://arxiv.org/abs/1803.08494
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", https://arxiv.org/abs/2105.05233
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.modulation = Modulation(width, channels, 2)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)
        over = (..., *(None,) * (h.dim() - 2))
        return self.norm(h) * (1 + scale[over]) + shift[over]


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Group normalization with groups of at least four channels, at most 32 of them."""
    groups = max(g for g in range(1, min(32, max(channels // 4, 1)) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, affine=affine)


def modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Tokens ``(N, length, channels)`` scaled and shifted by ``(N, channels)``."""
    return h * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer, its parameters set to zero: what it adds starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
