"""Networks of hierarchies of latents: one pass from the data up, and levels from the top down.

A *state* runs down through the levels of a hierarchy. Each level reads from it where its latent lies, and writes the
latent into it; a pass of the data upwards, shared by all levels, tells each what it needs to know of the data. Dense
and convolutional hierarchies are of the same classes, made of other layers (:class:`DenseLayers`,
:class:`ImageLayers`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyrogen.abstract import Abstract

from .context import Context
from .context_embeddings import VectorContext
from .noise_level import zeroed
from .residual_image import ResidualImageBlock
from .statistics import ReadsData, Statistic

Shape = tuple[int, ...]
_SLOPE = 0.2


class TopDownLevel(Abstract, nn.Module):
    """One level of a hierarchy: where its latent lies, and what becomes of the state.

    Args:
        latent_shape: Shape of the level's latent, ``(size, ...)``.
    """

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = latent_shape

    @abstractmethod
    def prior(self, state: Tensor) -> Tensor:
        """Means and log-scales of the latent given those above, side by side: ``(N, 2 * size, ...)``."""

    @abstractmethod
    def residual(self, state: Tensor, features: Tensor) -> Tensor:
        """How the posterior differs, alike: its mean in scales of the prior, and the logarithm of the scales' ratio."""

    @abstractmethod
    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        """The state below, from the state and the latent, each with rows in front."""


class ResidualLevel(TopDownLevel):
    """A level of residual blocks: two that read the state, and some that write the latent into it.

    What gives means and scales starts at zero: the prior is standard normal, and the posterior is the prior.

    Args:
        latent_shape: Shape of the latent: as that of the state, but for its first size.
        width: First size of states and features.
        layers: What dense layers and blocks are.
        blocks: How many blocks come after the latent.
        after: What the state goes through last, if given: to the size of the level below.
    """

    def __init__(
        self,
        latent_shape: Shape,
        width: int,
        layers: DenseLayers | ImageLayers,
        *,
        blocks: int = 1,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__(latent_shape)
        size = latent_shape[0]
        self.of_state = nn.Sequential(layers.block(width), layers.zeroed(width, 2 * size))
        self.beside = layers.dense(width, width)
        self.of_both = nn.Sequential(layers.block(width), layers.zeroed(width, 2 * size))
        self.inward = layers.dense(size, width)
        self.onward = nn.Sequential(*(layers.block(width) for _ in range(blocks)), *([] if after is None else [after]))

    def prior(self, state: Tensor) -> Tensor:
        return self.of_state(state)

    def residual(self, state: Tensor, features: Tensor) -> Tensor:
        return self.of_both(state + self.beside(features))

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        return self.onward(state + self.inward(z))


class BottomUp(nn.Module):
    """One pass of the data, from which each level of a hierarchy gets its features.

    Args:
        stem: From data to the first features.
        stages: From the features of one level to those of the level above, in the order of the pass: the lowest first.

    Shape:
        ``(N, ...)`` to a list of tensors ``(N, ...)``, one for each level from the top down.
    """

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        features, found = self.stem(x), []
        for stage in self.stages:
            features = stage(features)
            found.append(features)
        return found[::-1]


class FirstState(ReadsData, nn.Module):
    """The state at the top of a hierarchy: learned, moved by the context where there is one.

    Args:
        shape: Its shape.
        context: The context as a vector.

    Shape:
        Contexts ``(N, *context_shape)`` to ``(N, *shape)``; without a context it is called with nothing, for one row.
    """

    def __init__(self, shape: Shape, context: VectorContext) -> None:
        super().__init__()
        self.learned = nn.Parameter(0.1 * torch.randn(shape))
        self.context = context
        self.linear = nn.Linear(context.size, prod(shape)) if context.size else None

    def forward(self, context: Context = None) -> Tensor:
        if self.linear is None:
            return self.learned.unsqueeze(0)
        return self.learned + self.linear(self.context(context)).unflatten(-1, self.learned.shape)

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.context.read_data(context)


class DenseLayers:
    """Layers of states that are vectors.

    Args:
        total: How many blocks a network has, by which their last weights are scaled.
    """

    def __init__(self, total: int) -> None:
        self.scale = total**-0.5

    def dense(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer."""
        return nn.Linear(inputs, outputs)

    def zeroed(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer that starts at zero."""
        return zeroed(self.dense(inputs, outputs))

    def block(self, width: int) -> nn.Module:
        """A residual block."""
        return ResidualBlock(width, last=self.scale)


class ImageLayers:
    """Layers of states that are images of features.

    Args:
        total: How many blocks a network has, by which their weights are scaled.
        group: Channels of a group of the convolutions.
    """

    def __init__(self, total: int, *, group: int = 16) -> None:
        self.total = total
        self.group = group

    def dense(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer at each place."""
        return nn.Conv2d(inputs, outputs, 1)

    def zeroed(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer at each place that starts at zero."""
        return zeroed(self.dense(inputs, outputs))

    def block(self, width: int) -> nn.Module:
        """A residual block with a convolution."""
        return ResidualImageBlock(width, total=self.total, group=self.group, last=self.total**-0.5)


class ResidualBlock(nn.Module):
    """Two dense layers beside the identity.

    Args:
        width: Size of input, hidden layer and output.
        last: Scale of the last weights at the start.

    Shape:
        ``(*batch, width)`` to the same.
    """

    def __init__(self, width: int, *, last: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)
        for layer, scale in ((self.first, sqrt(2 / (1 + _SLOPE**2))), (self.last, last)):
            nn.init.normal_(layer.weight, std=scale / sqrt(width))
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(functional.leaky_relu(self.first(x), _SLOPE))


def image_stem(image_shape: Shape, width: int, places: Shape) -> nn.Module:
    """From images to features at fewer places: a convolution with a stride, and averages where sizes do not divide."""
    channels, *sides = image_shape
    stride = tuple(max(1, side // place) for side, place in zip(sides, places, strict=True))
    kernel, padding = tuple(2 * step + 1 for step in stride), stride
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride=stride, padding=padding), nn.AdaptiveAvgPool2d(places)
    )


def image_head(width: int, image_shape: Shape) -> nn.Module:
    """From features at any places to as many numbers as an image of this shape has."""
    channels, *sides = image_shape
    return nn.Sequential(
        nn.Conv2d(width, width, 1),
        nn.LeakyReLU(_SLOPE),
        nn.Upsample(size=tuple(sides), mode="bilinear"),
        nn.Conv2d(width, channels, 3, padding=1),
    )
