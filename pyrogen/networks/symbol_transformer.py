r"""A transformer that sees all symbols at once, some of them hidden or wrong, and gives logits for every place.

Its output at a place depends on all that is seen, whatever the order. So one network holds the conditionals of every
place given every part of an event: those of diffusion over symbols, and those along any order
(:mod:`pyrogen.networks.ordered_symbols`).

References:
    Peebles and Xie 2023, "Scalable diffusion models with transformers", https://arxiv.org/abs/2212.09748
    Austin, Johnson, Ho, Tarlow and van den Berg 2021, "Structured denoising diffusion models in discrete state-spaces",
    https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrogen.arguments import checked

from .attention import Attention, attend, attend_at_once
from .causal_transformer import RotaryEmbedding
from .conditions import Conditions
from .context import Classes, ContextShape, Shape
from .noise_level import Modulation, modulated, zeroed
from .noisy import NoisyNetwork
from .ordered_symbols import OrderedSymbols
from .patches import Patches


class SymbolTransformer(NoisyNetwork):
    """A transformer over symbols, with attention in both directions and adaptive norms.

    Called ``network(x, level, context)``. An image and every frame of a video is cut into patches, a sequence into its
    members, each a token. Contexts enter as in a
    :class:`~pyrogen.networks.diffusion_transformer.DiffusionTransformer`. Sequences get rotary positions beside the
    learned ones. The output starts at zero.

    Args:
        event_shape: ``(length,)``, ``(length, features)``, ``(channels, height, width)`` or ``(frames, channels,
            height, width)``.
        context_shape: As for :class:`~pyrogen.networks.conditions.ContextEncoder`; images need images as events.
        symbols: How many symbols there are; the network also takes the number ``symbols``, which stands for a hidden
            one.
        patch: Side of the patches of an image, which is padded to a multiple of it.
        width: Size of the hidden vectors.
        depth: How many blocks.
        heads: Of the attention; divides ``width``.
        ratio: How much wider the perceptrons are.
        classes: How many values integer contexts take.
        embedding: As for :class:`~pyrogen.networks.context.ContextEmbedding`.
        context_dropout: Share of the rows that lose their context in training.
        dropout: Share of the outputs of each part of a block dropped in training.

    Shape:
        ``x`` whole numbers ``(*batch, *event)`` of any dtype, ``level`` a scalar or ``batch``; the output is
        ``(*batch, *event, symbols)``.

    Raises:
        ValueError: ``heads`` does not divide ``width`` into even parts, events have no or more than four dimensions, or
            a context image has other sides.

    Example:
        >>> SymbolTransformer((8,), symbols=5, width=32)(torch.zeros(3, 8), torch.zeros(3)).shape
        torch.Size([3, 8, 5])
    """

    @checked
    def __init__(
        self,
        event_shape: Shape,
        context_shape: ContextShape = None,
        *,
        symbols: int,
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
        super().__init__(
            event_shape,
            context_shape,
            outputs=None,
            width=width,
            classes=classes,
            embedding=embedding,
            context_dropout=context_dropout,
        )
        if width % (2 * heads):
            raise ValueError(f"`width` must be a multiple of twice `heads` ({heads}), got {width}")
        self.symbols, self.output_shape = symbols, (*self.event_shape, symbols)
        self.patches = patches = Patches(self.event_shape, patch)
        self.table = nn.Parameter(torch.randn(patches.features, symbols + 1, width) * patches.features**-0.5)
        channels = self.context.channels
        self.beside = nn.Linear(channels * patches.places, width) if channels else None
        rotation = RotaryEmbedding(patches.length, width // heads) if len(patches.grid) == 1 else None
        # As large as the symbols where no rotation tells places apart: small ones are learned late.
        self.places = nn.Parameter(torch.randn(patches.length, width) * (1.0 if rotation is None else 0.1))
        cross = self.context.has_sequence
        self.blocks = nn.ModuleList(_Block(width, heads, ratio, cross, dropout, rotation) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width, 2)
        self.last = zeroed(nn.Linear(width, symbols * patches.features))

    def compute(self, x: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        x = self.patches.first(x)
        if given.shown is not None:
            x = torch.where(given.shown.unsqueeze(1), x, self.symbols)
        h = self._embedded(self.patches.cut(x, self.symbols)) + self.places
        if self.beside is not None:
            h = h + self.beside(self.patches.cut(given.beside.expand(len(x), -1, *x.shape[2:])))
        shown = self.patches.shown(given.shown)
        for block in self.blocks:
            h = block(h, condition, given, shown)
        scale, shift = self.modulation(condition)
        return self.patches.joined(self.last(modulated(self.norm(h), scale, shift))).movedim(1, -1)

    def ordered(self, order: Tensor | Sequence[int]) -> OrderedSymbols:
        """The sequence network for one order of the elements, or one for each row ``(N, L)``, with this one's weights.

        What comes later in the order is hidden. An :class:`~pyrogen.autoregressive.AnyOrder` takes this network.
        """
        return OrderedSymbols(self, torch.as_tensor(order, device=self.table.device))

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Tokens ``(N, length, elements)`` as vectors: the sum of those of their elements."""
        elements, states = self.table.shape[:2]
        rows = tokens.long() + states * torch.arange(elements, device=tokens.device)
        return F.embedding(rows, self.table.flatten(0, 1)).sum(-2)


class SymbolAttention(nn.Module):
    """Attention of every symbol to every other, with rotated queries and keys where there is a rotation.

    Args:
        width: Size of the vectors.
        heads: How many heads, a divisor of ``width``.
        rotation: Rotates by place.
    """

    def __init__(self, width: int, heads: int, rotation: RotaryEmbedding | None) -> None:
        super().__init__()
        self.heads, self.rotation = heads, rotation
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """``(N, length, width)`` to the same, with attention to those that are present, ``(N, length)``."""
        queries, keys, values = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rotation is not None:
            queries, keys = self.rotation(queries), self.rotation(keys)
        if present is not None:
            return self.out(attend(queries, keys, values, present=present))
        return self.out(attend_at_once(queries, keys, values))


class _Block(nn.Module):
    """Attention and a perceptron, each between a modulated norm and a gate that starts at one."""

    def __init__(
        self, width: int, heads: int, ratio: int, cross: bool, dropout: float, rotation: RotaryEmbedding | None
    ) -> None:
        super().__init__()
        self.modulation = Modulation(width, width, 6)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = SymbolAttention(width, heads, rotation)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross = Attention(width, heads, context=width) if cross else None
        self.perceptron = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, condition: Tensor, given: Conditions, shown: Tensor | None) -> Tensor:
        scale, shift, gate, own_scale, own_shift, own_gate = self.modulation(condition)
        attended = self.dropout(self.attention(modulated(self.norm(h), scale, shift), shown))
        h = torch.addcmul(h, 1 + gate.unsqueeze(1), attended)
        if self.cross is not None:
            h = h + self.cross(self.cross_norm(h), given.sequence, given.present)
        inner = self.dropout(self.perceptron(modulated(self.norm(h), own_scale, own_shift)))
        return torch.addcmul(h, 1 + own_gate.unsqueeze(1), inner)
