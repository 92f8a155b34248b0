"""The diffusion transformer: attention over the patches of a noisy image, or the members of a noisy sequence."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .attention import Attention
from .conditions import Conditions
from .context import Classes, ContextShape, Shape
from .noise_level import Modulation, modulated, zeroed
from .noisy import NoisyNetwork, beside


class DiffusionTransformer(NoisyNetwork):
    """A transformer with adaptive norms (DiT) of images, sequences and vectors.

    Called ``network(x, level, context)``. An image is cut into patches, a sequence into its members, a vector into its
    numbers. Labels and vectors modulate the norms and gate the blocks, sequences are attended to, images stand beside
    the input. The output starts at zero.

    Args:
        event_shape: ``(channels, height, width)``, ``(length, features)`` or ``(size,)``.
        context_shape: As for :class:`~pyrogen.networks.conditions.ContextEncoder`; images need images as events.
        outputs: How many outputs each element of the event gets; ``None`` for one, without a dimension of its own.
        patch: Side of the patches of an image; images are padded to a multiple of it.
        width: Size of the hidden vectors.
        depth: How many blocks.
        heads: Of the attention; divides ``width``.
        ratio: How much wider the perceptrons are.
        classes: How many values integer contexts take.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        context_dropout: Share of the rows that lose their context in training.
        dropout: Share of the hidden units dropped in training.

    Shape:
        ``x`` ``(*batch, *event)``, ``level`` a scalar or ``batch``; the output is ``(*batch, *event)``, or
        ``(*batch, outputs, *event)``.

    Raises:
        ValueError: the event has no or more than three dimensions, or a context image has other sides.

    References:
        Peebles and Xie 2023, "Scalable diffusion models with transformers", https://arxiv.org/abs/2212.09748

    Example:
        >>> DiffusionTransformer((1, 8, 8), width=32)(torch.zeros(5, 1, 8, 8), torch.zeros(5)).shape
        torch.Size([5, 1, 8, 8])
    """

    @checked
    def __init__(
        self,
        event_shape: Shape,
        context_shape: ContextShape = None,
        *,
        outputs: int | None = None,
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        ratio: int = 4,
        classes: Classes = None,
        embedding: nn.Module | None = None,
        context_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        if not 1 <= len(event_shape) <= 3:
            raise ValueError(f"`event_shape` must have one to three dimensions, got {tuple(event_shape)}")
        super().__init__(
            event_shape,
            context_shape,
            outputs=outputs,
            width=width,
            classes=classes,
            embedding=embedding,
            context_dropout=context_dropout,
        )
        self.patch = patch
        length, features = self._tokens()
        self.first = nn.Linear(features + self.context.image_channels * patch**2, width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        cross = self.context.has_sequence
        self.blocks = nn.ModuleList(_Block(width, heads, ratio, cross, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width, 2)
        self.last = zeroed(nn.Linear(width, features * (outputs or 1)))

    def compute(self, x: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        h = self.first(self._cut(beside(x, given))) + self.places
        for block in self.blocks:
            h = block(h, condition, given.sequence)
        scale, shift = self.modulation(condition)
        return self._joined(self.last(modulated(self.norm(h), scale, shift)))

    def _tokens(self) -> tuple[int, int]:
        """How many tokens an event has, and how many of its numbers each holds."""
        if len(self.event_shape) == 3:
            channels, height, width = self.event_shape
            return ceil(height / self.patch) * ceil(width / self.patch), channels * self.patch**2
        return self.event_shape[0], self.event_shape[1] if len(self.event_shape) == 2 else 1

    def _cut(self, x: Tensor) -> Tensor:
        """``(N, *event)`` as tokens ``(N, length, features)``."""
        if len(self.event_shape) < 3:
            return x.reshape(len(x), self.event_shape[0], -1 if len(x) else self._tokens()[1])
        side = self.patch
        x = nn.functional.pad(x, (0, -x.shape[-1] % side, 0, -x.shape[-2] % side))
        count, channels, height, width = x.shape
        x = x.reshape(count, channels, height // side, side, width // side, side).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(count, height // side * (width // side), channels * side**2)

    def _joined(self, tokens: Tensor) -> Tensor:
        """Tokens as ``(N, *output)``: undoes :meth:`_cut`, with several numbers for each element."""
        count = len(tokens)
        numbers = tokens.shape[-1] // self._tokens()[1]
        if len(self.event_shape) < 3:
            elements = tokens.reshape(count, self.event_shape[0], numbers, self._tokens()[1]).transpose(1, 2)
            return elements.reshape(count, *self.output_shape)
        side, (channels, height, width) = self.patch, self.event_shape
        high, wide = ceil(height / side), ceil(width / side)
        x = tokens.reshape(count, high, wide, numbers * channels, side, side).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(count, numbers * channels, high * side, wide * side)[..., :height, :width]
        return x.reshape(count, *self.output_shape)


class _Block(nn.Module):
    """Attention and a perceptron, each between a modulated norm and a gate that starts at zero (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, ratio: int, cross: bool, dropout: float) -> None:
        super().__init__()
        self.modulation = Modulation(width, width, 6)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross = Attention(width, heads, context=width) if cross else None
        self.perceptron = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(approximate="tanh"), nn.Linear(ratio * width, width)
        )
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.attention.out.weight)  # the gate starts at zero; both at zero would never move

    def forward(self, h: Tensor, condition: Tensor, sequence: Tensor | None) -> Tensor:
        scale, shift, gate, own_scale, own_shift, own_gate = self.modulation(condition)
        h = h + gate.unsqueeze(1) * self.dropout(self.attention(modulated(self.norm(h), scale, shift)))
        if self.cross is not None:
            h = h + self.cross(self.cross_norm(h), sequence)
        inner = modulated(self.norm(h), own_scale, own_shift)
        return h + own_gate.unsqueeze(1) * self.dropout(self.perceptron(inner))
