"""The diffusion transformer: attention over the patches of noisy images and videos, or the members of sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .attention import Attention
from .conditions import Conditions
from .context import Classes, ContextShape, Shape
from .noise_level import Modulation, modulated, zeroed
from .noisy import NoisyNetwork, beside
from .patches import Patches


class DiffusionTransformer(NoisyNetwork):
    """A transformer with adaptive norms (DiT) of images, videos, sequences and vectors.

    Called ``network(x, level, context)``. An image and every frame of a video is cut into patches, a sequence into its
    members, a vector into its numbers. Labels and vectors modulate the norms and gate the blocks, sequences are
    attended to, images and sequences as long as the event stand beside the input. Nothing attends to places that are
    absent. The output starts at zero.

    Args:
        event_shape: ``(channels, height, width)``, ``(frames, channels, height, width)``, ``(length, features)`` or
            ``(size,)``.
        context_shape: As for :class:`~pyrogen.networks.conditions.ContextEncoder`; images need images or videos as
            events.
        outputs: How many outputs each element of the event gets; ``None`` for one, without a dimension of its own.
        levels: As for :class:`~pyrogen.networks.noisy.NoisyNetwork`.
        patch: Side of the patches of an image or a frame; images are padded to a multiple of it.
        width: Size of the hidden vectors.
        depth: How many blocks.
        heads: Of the attention; divides ``width``.
        ratio: How much wider the perceptrons are.
        classes: How many values integer contexts take.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        context_dropout: Share of the rows that lose their context in training.
        dropout: Share of the hidden units dropped in training.

    Shape:
        ``x`` ``(*batch, *event)``, ``level`` a scalar, ``batch`` or ``(*batch, levels)``; the output is
        ``(*batch, *event)``, or ``(*batch, outputs, *event)``.

    Raises:
        ValueError: the event has no or more than four dimensions, or a context image has other sides.

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
        levels: int = 1,
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
        patches = Patches(event_shape, patch)
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
        self.patches, length, features = patches, patches.length, patches.features
        self.first = nn.Linear(features + self.context.channels * patches.places, width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        cross = self.context.has_sequence
        self.blocks = nn.ModuleList(_Block(width, heads, ratio, cross, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width, 2)
        self.last = zeroed(nn.Linear(width, features * (outputs or 1)))

    def compute(self, x: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        h = self.first(self.patches.cut(beside(self.patches.first(x), given))) + self.places
        shown = self.patches.shown(given.shown)
        for block in self.blocks:
            h = block(h, condition, given, shown)
        scale, shift = self.modulation(condition)
        return self.patches.joined(self.last(modulated(self.norm(h), scale, shift)))


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

    def forward(self, h: Tensor, condition: Tensor, given: Conditions, shown: Tensor | None) -> Tensor:
        scale, shift, gate, own_scale, own_shift, own_gate = self.modulation(condition)
        h = h + gate.unsqueeze(1) * self.dropout(self.attention(modulated(self.norm(h), scale, shift), present=shown))
        if self.cross is not None:
            h = h + self.cross(self.cross_norm(h), given.sequence, given.present)
        inner = modulated(self.norm(h), own_scale, own_shift)
        return h + own_gate.unsqueeze(1) * self.dropout(self.perceptron(inner))
