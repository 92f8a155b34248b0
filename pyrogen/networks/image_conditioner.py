"""Networks of coupling layers of images: from some channels and a context to how other channels are mapped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, count

from .context import Classes, Context, ContextShape
from .context_embeddings import VectorContext
from .convolution import ResidualConvolution
from .noise_level import zeroed


class ImageConditioner(nn.Module):
    """Residual convolutions from images to images of other channels and the same sides, starting at zero.

    Zeros stand around an image, and every place has a learned vector of its own, so that a network knows where it is.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        sides: ``(height, width)`` of both.
        width: Channels of the hidden layers.
        blocks: How many residual blocks there are.
        context: Channels of the context, zero for none.
        dropout: Share of the last hidden units that are dropped in training.

    Shape:
        ``(N, inputs, *sides)`` and, with a context, ``(N, context, *sides)`` or ``(N, context, 1, 1)``, to
        ``(N, outputs, *sides)``.

    Example:
        >>> ImageConditioner(2, 6, sides=(4, 3), width=8)(torch.zeros(5, 2, 4, 3)).shape
        torch.Size([5, 6, 4, 3])
    """

    @checked(context=count)
    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        sides: tuple[int, int],
        width: int = 64,
        blocks: int = 2,
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.places = nn.Parameter(torch.zeros(width, *sides))
        self.context = nn.Conv2d(context, width, 1, bias=False) if context else None
        residual = (ResidualConvolution(width) for _ in range(blocks))
        self.blocks = nn.Sequential(*residual, nn.ReLU(), nn.Dropout(dropout))
        self.last = zeroed(nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(x) + self.places
        if context is not None:
            h = h + self.context(context.to(h.dtype))
        return self.last(self.blocks(h))


class ImageContext(VectorContext):
    """A context as an image of features: what convolutions make of an image, or one vector for all places.

    Args:
        context_shape: As for :class:`~pyrogen.networks.context.ContextEmbedding`. A single entry ``(channels, *sides)``
            is an image; anything else becomes a vector.
        sides: ``(height, width)`` of images.
        width: Features of each place of an image.
        classes: As for :class:`~pyrogen.networks.context.VectorContext`.
        embedding: As for :class:`~pyrogen.networks.context.ContextEmbedding`.

    Attributes:
        image_shape: The shape of what it gives, ``None`` without a context.

    Shape:
        ``(N, *context_shape)`` to ``(N, width, *sides)`` or ``(N, size, 1, 1)``.
    """

    def __init__(
        self,
        context_shape: ContextShape,
        sides: tuple[int, int],
        *,
        width: int = 16,
        classes: Classes = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(context_shape, classes=classes, embedding=embedding)
        own, self.convolutions = self.single or (), None
        self.image_shape = (self.size, 1, 1) if self.size else None
        if len(own) == 3 and own[1:] == tuple(sides):
            self.image_shape = (width, *sides)
            self.convolutions = nn.Sequential(
                nn.Conv2d(own[0], width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )

    def forward(self, context: Context) -> Tensor:
        entries = self.entries(context)
        if self.convolutions is not None:
            return self.convolutions(entries[""])
        return self.vector(entries)[..., None, None]
