"""The U-Net: a convolutional network of noisy sequences, images and videos."""

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
from .places import channels_back, channels_first, channels_of, check_event, places_of


class UNet(NoisyNetwork):
    """A U-Net of sequences, images and videos: residual blocks with adaptive group norms, to coarser grids and back.

    Called ``network(x, level, context)``. Labels and vectors modulate the norms, sequences are attended to, images and
    sequences as long as the event stand beside the input. Where a sequence is attended to, coordinates stand beside,
    too: "left of" has no meaning without them. Convolutions run over the length of a sequence, over the sides of an
    image, and those of a video alternate between space and time (Tran et al. 2018). Sides need not be powers of two.
    The output starts at zero.

    Args:
        event_shape: ``(length, channels)``, ``(channels, height, width)`` or ``(frames, channels, height, width)``.
        context_shape: As for :class:`~pyrogen.networks.conditions.ContextEncoder`; images must have the event's sides.
        outputs: How many outputs each element of the event gets; ``None`` for one, without a dimension of its own.
        levels: As for :class:`~pyrogen.networks.noisy.NoisyNetwork`.
        channels: Of the hidden layers, one entry for each resolution from fine to coarse; each halves the sides, and
            the length or the number of frames.
        depth: Residual blocks at each resolution, on the way down and, with one more, on the way up.
        attention: How many of the resolutions, counted from the coarsest, have self-attention.
        heads: Of the attention; divides the channels.
        width: Size of the condition (noise level and context).
        classes: How many values integer contexts take.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        context_dropout: Share of the rows that lose their context in training.
        dropout: Share of the hidden units dropped in training.

    Shape:
        ``x`` ``(*batch, *event)``, ``level`` a scalar, ``batch`` or ``(*batch, levels)``; the output is
        ``(*batch, *event)``, or ``(*batch, outputs, *event)``.

    Raises:
        ValueError: the event has another number of dimensions, or a context image has other sides.

    References:
        Ronneberger, Fischer and Brox 2015, "U-Net: convolutional networks for biomedical image segmentation",
        https://arxiv.org/abs/1505.04597
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", https://arxiv.org/abs/2105.05233
        Janner, Du, Tenenbaum and Levine 2022, "Planning with diffusion for flexible behavior synthesis",
        https://arxiv.org/abs/2205.09991
        Tran et al. 2018, "A closer look at spatiotemporal convolutions for action recognition",
        https://arxiv.org/abs/1711.11248

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
        levels: int = 1,
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
        check_event(event_shape, least=2)
        super().__init__(
            event_shape,
            context_shape,
            outputs=outputs,
            levels=levels,
            width=width,
            classes=classes,
            embedding=embedding,
            context_dropout=context_dropout,
        )
        attended = width if self.context.has_sequence else None
        attends = [place >= len(channels) - attention for place in range(len(channels))]

        sides = places_of(self.event_shape)

        def block(before: int, after: int, place: int) -> _Block:
            return _Block(before, after, len(sides), width, heads if attends[place] else None, attended, dropout)

        places = _coordinates(*sides)[: 0 if attended is None else len(sides)]
        self.register_buffer("places", places, persistent=False)
        inputs = channels_of(self.event_shape) + self.context.channels + len(places)
        self.first = _convolution(inputs, channels[0], (3,) * len(sides))
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
        self.last = zeroed(_convolution(now, (outputs or 1) * channels_of(self.event_shape), (3,) * len(sides)))

    def compute(self, x: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        event_dim = len(self.event_shape)
        places = self.places.expand(len(x), *self.places.shape)
        h = self.first(torch.cat([beside(channels_first(x, event_dim), given), places], 1))
        kept = [h]
        for layer in self.down:
            h = layer(h) if isinstance(layer, _Halve) else layer(h, condition, given)
            kept.append(h)
        h = self.middle(h, condition, given)
        for layer in self.up:
            old = kept.pop()
            if h.shape[2:] != old.shape[2:]:
                h = _enlarged(h, old.shape[2:])
            h = layer(torch.cat([h, old], 1), condition, given)
        h = self.last(nn.functional.silu(self.norm(h)))
        return channels_back(h.unflatten(1, (-1, channels_of(self.event_shape))), event_dim)


class _Block(nn.Module):
    """A residual block, with attention to the event and to a sequence where asked for.

    Of a video the first convolution is over space and the second over time.
    """

    def __init__(
        self, before: int, after: int, sides: int, width: int, heads: int | None, attended: int | None, dropout: float
    ) -> None:
        super().__init__()
        kernels = ((1, 3, 3), (3, 1, 1)) if sides == 3 else ((3,) * sides,) * 2
        self.inner_norm = group_norm(before)
        self.inner = _convolution(before, after, kernels[0])
        self.norm = AdaptiveGroupNorm(after, width)
        self.dropout = nn.Dropout(dropout)
        self.outer = zeroed(_convolution(after, after, kernels[1]))
        self.skip = _convolution(before, after, (1,) * sides) if before != after else nn.Identity()
        self.own = None if heads is None else _AttentionBlock(after, None, heads)
        self.other = None if heads is None or attended is None else _AttentionBlock(after, attended, heads)

    def forward(self, h: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        inner = self.inner(nn.functional.silu(self.inner_norm(h)))
        inner = self.outer(self.dropout(nn.functional.silu(self.norm(inner, condition))))
        h = self.skip(h) + inner
        if self.own is not None:
            h = self.own(h)
        return h if self.other is None else self.other(h, given.sequence, given.present)


class _AttentionBlock(nn.Module):
    """Attention of each place to all places, or to the members of a sequence, as a residual."""

    def __init__(self, channels: int, attended: int | None, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, heads, context=attended)

    def forward(self, h: Tensor, sequence: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        places = self.norm(h).flatten(2).transpose(1, 2)  # (N, product of the sides, channels)
        return h + self.attention(places, sequence, present).transpose(1, 2).reshape(h.shape)


class _Halve(nn.Module):
    """Half the sides, rounded up, by averages."""

    def forward(self, h: Tensor) -> Tensor:
        functional = nn.functional
        pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[h.dim() - 3]
        return pool(h, 2, ceil_mode=True, count_include_pad=False)


def _enlarged(h: Tensor, sides: torch.Size) -> Tensor:
    for place, side in enumerate(sides, start=2):
        h = h.repeat_interleave(2, place).narrow(place, 0, side)
    return h


def _convolution(before: int, after: int, kernel: tuple[int, ...]) -> nn.Module:
    """A convolution over as many sides as its kernel has, which it keeps."""
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1]
    return layer(before, after, kernel, padding=tuple(size // 2 for size in kernel))


def _coordinates(*sides: int) -> Tensor:
    """Where each place is, from -1 to 1 along every side: ``(number of sides, *sides)``."""
    return torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, side) for side in sides), indexing="ij"))
