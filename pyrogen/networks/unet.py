"""The U-Net: a convolutional network of noisy images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .attention import Attention
from .conditions import Conditions
from .context import Classes, ContextShape, Shape
from .noise_level import AdaptiveGroupNorm, group_norm, zeroed
from .noisy import NoisyNetwork, beside


class UNet(NoisyNetwork):
    """A U-Net of images: residual blocks with adaptive group norms, down to coarser grids and back up.

    Called ``network(x, level, context)``. Labels and vectors modulate the norms, sequences are attended to, images
    stand beside the input. Where there is a sequence so do the coordinates of the pixels: "left of" has no meaning
    without them. Sides need not be powers of two. The output starts at zero.

    Args:
        event_shape: ``(channels, height, width)``.
        context_shape: As for :class:`~pyrogen.networks.conditions.ContextEncoder`; images must have the event's sides.
        outputs: How many outputs each element of the event gets; ``None`` for one, without a dimension of its own.
        channels: Of the hidden layers, one entry for each resolution from fine to coarse; each halves the sides.
        depth: Residual blocks at each resolution, on the way down and, with one more, on the way up.
        attention: How many of the resolutions, counted from the coarsest, have self-attention.
        heads: Of the attention; divides the channels.
        width: Size of the condition (noise level and context).
        classes: How many values integer contexts take.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        context_dropout: Share of the rows that lose their context in training.
        dropout: Share of the hidden units dropped in training.

    Shape:
        ``x`` ``(*batch, *event)``, ``level`` a scalar or ``batch``; the output is ``(*batch, *event)``, or
        ``(*batch, outputs, *event)``.

    Raises:
        ValueError: the event is no image, or a context image has other sides.

    References:
        Ronneberger, Fischer and Brox 2015, "U-Net: convolutional networks for biomedical image segmentation",
        https://arxiv.org/abs/1505.04597
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", https://arxiv.org/abs/2105.05233

    Example:
        >>> UNet((1, 8, 8), channels=(8, 16))(torch.zeros(5, 1, 8, 8), torch.zeros(5)).shape
        torch.Size([5, 1, 8, 8])
    """

    @checked
    def __init__(
        self,
        event_shape: Shape,
        context_shape: ContextShape = None,
        *,
        outputs: int | None = None,
        channels: Sequence[int] = (32, 64),
        depth: int = 2,
        attention: int = 1,
        heads: int = 4,
        width: int = 128,
        classes: Classes = None,
        embedding: nn.Module | None = None,
        context_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        check_image(event_shape)
        super().__init__(
            event_shape,
            context_shape,
            outputs=outputs,
            width=width,
            classes=classes,
            embedding=embedding,
            context_dropout=context_dropout,
        )
        attended = width if self.context.has_sequence else None
        attends = [place >= len(channels) - attention for place in range(len(channels))]

        def block(before: int, after: int, place: int) -> _Block:
            return _Block(before, after, width, heads if attends[place] else None, attended, dropout)

        places = _coordinates(*self.event_shape[1:])[: 0 if attended is None else 2]
        self.register_buffer("places", places, persistent=False)
        inputs = self.event_shape[0] + self.context.image_channels + len(places)
        self.first = nn.Conv2d(inputs, channels[0], 3, padding=1)
        self.down, kept, now = nn.ModuleList(), [channels[0]], channels[0]
        for place, wanted in enumerate(channels):
            for _ in range(depth):
                self.down.append(block(now, wanted, place))
                now = wanted
                kept.append(now)
            if place < len(channels) - 1:
                self.down.append(_Halve())
                kept.append(now)
        self.middle = block(now, now, len(channels) - 1)
        self.up = nn.ModuleList()
        for place, wanted in reversed(list(enumerate(channels))):
            for _ in range(depth + 1):
                self.up.append(block(now + kept.pop(), wanted, place))
                now = wanted
        self.norm = group_norm(now)
        self.last = zeroed(nn.Conv2d(now, (outputs or 1) * self.event_shape[0], 3, padding=1))

    def compute(self, x: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        places = self.places.expand(len(x), -1, -1, -1)
        h = self.first(torch.cat([beside(x, given), places], 1))
        kept = [h]
        for layer in self.down:
            h = layer(h) if isinstance(layer, _Halve) else layer(h, condition, given.sequence)
            kept.append(h)
        h = self.middle(h, condition, given.sequence)
        for layer in self.up:
            old = kept.pop()
            if h.shape[-2:] != old.shape[-2:]:
                h = _enlarged(h, old.shape[-2:])
            h = layer(torch.cat([h, old], 1), condition, given.sequence)
        return self.last(nn.functional.silu(self.norm(h)))


class _Block(nn.Module):
    """A residual block, with attention to the image and to a sequence where asked for."""

    def __init__(
        self, before: int, after: int, width: int, heads: int | None, attended: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.inner_norm = group_norm(before)
        self.inner = nn.Conv2d(before, after, 3, padding=1)
        self.norm = AdaptiveGroupNorm(after, width)
        self.dropout = nn.Dropout(dropout)
        self.outer = zeroed(nn.Conv2d(after, after, 3, padding=1))
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.own = None if heads is None else _AttentionBlock(after, None, heads)
        self.other = None if heads is None or attended is None else _AttentionBlock(after, attended, heads)

    def forward(self, h: Tensor, condition: Tensor, sequence: Tensor | None) -> Tensor:
        inner = self.inner(nn.functional.silu(self.inner_norm(h)))
        inner = self.outer(self.dropout(nn.functional.silu(self.norm(inner, condition))))
        h = self.skip(h) + inner
        if self.own is not None:
            h = self.own(h, None)
        return h if self.other is None else self.other(h, sequence)


class _AttentionBlock(nn.Module):
    """Attention of each pixel to all pixels, or to the members of a sequence, as a residual."""

    def __init__(self, channels: int, attended: int | None, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, heads, context=attended)

    def forward(self, h: Tensor, sequence: Tensor | None) -> Tensor:
        pixels = self.norm(h).flatten(2).transpose(1, 2)  # (N, height * width, channels)
        return h + self.attention(pixels, sequence).transpose(1, 2).reshape(h.shape)


class _Halve(nn.Module):
    """Half the sides, rounded up, by averages."""

    def forward(self, h: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(h, 2, ceil_mode=True, count_include_pad=False)


def _enlarged(h: Tensor, sides: torch.Size) -> Tensor:
    return h.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : sides[0], : sides[1]]


def _coordinates(height: int, width: int) -> Tensor:
    """Where each pixel is, down and to the right, from -1 to 1: ``(2, height, width)``."""
    return torch.stack(torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"))


def check_image(event_shape: Shape) -> None:
    """Raises a ValueError if events are no images."""
    if len(event_shape) != 3:
        raise ValueError(f"`event_shape` must be (channels, height, width), got {tuple(event_shape)}")
