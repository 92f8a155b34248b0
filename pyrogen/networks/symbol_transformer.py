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
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrogen.arguments import checked

from .attention import Attention, attend
from .causal_transformer import RotaryEmbedding
from .conditions import Conditions
from .context import Classes, ContextShape, Shape
from .noise_level import Modulation, modulated, zeroed
from .noisy import NoisyNetwork
from .ordered_symbols import OrderedSymbols


class SymbolTransformer(NoisyNetwork):
    """A transformer over symbols, with attention in both directions and adaptive norms.

    Called ``network(x, level, context)``. An image is cut into patches, each a token; elsewhere every element is one.
    Labels and vectors of the context modulate the norms and gate the blocks, sequences are attended to, images stand
    beside the input. Sequences get rotary positions beside the learned ones. The output starts at zero.

    Args:
        event_shape: ``(channels, height, width)`` of images; of anything else any shape.
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
        ValueError: ``heads`` does not divide ``width`` into even parts, or a context image has other sides.

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
        self.patch = patch if len(self.event_shape) == 3 else 1
        length, elements = self._tokens()
        self.table = nn.Parameter(torch.randn(elements, symbols + 1, width) * elements**-0.5)
        self.places = nn.Parameter(torch.randn(length, width) * 0.1)
        channels = self.context.image_channels
        self.beside = nn.Linear(channels * self.patch**2, width) if channels else None
        rotation = RotaryEmbedding(length, width // heads) if len(self.event_shape) == 1 else None
        cross = self.context.has_sequence
        self.blocks = nn.ModuleList(_Block(width, heads, ratio, cross, dropout, rotation) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width, 2)
        self.last = zeroed(nn.Linear(width, elements * symbols))

    def compute(self, x: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        h = self._embedded(self._cut(x, self.symbols).long()) + self.places
        if self.beside is not None:
            h = h + self.beside(self._cut(given.image.expand(len(x), -1, *x.shape[-2:]), 0.0))
        for block in self.blocks:
            h = block(h, condition, given.sequence)
        scale, shift = self.modulation(condition)
        return self._joined(self.last(modulated(self.norm(h), scale, shift)).unflatten(-1, (-1, self.symbols)))

    def ordered(self, order: Tensor | Sequence[int]) -> OrderedSymbols:
        """The sequence network for one order of the elements, or one for each row ``(N, L)``, with this one's weights.

        What comes later in the order is hidden. An :class:`~pyrogen.autoregressive.AnyOrder` takes this network.
        """
        return OrderedSymbols(self, torch.as_tensor(order, device=self.table.device))

    def _tokens(self) -> tuple[int, int]:
        """How many tokens an event has, and how many of its elements each holds."""
        if len(self.event_shape) == 3:
            channels, height, width = self.event_shape
            return ceil(height / self.patch) * ceil(width / self.patch), channels * self.patch**2
        return prod(self.event_shape), 1

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Tokens ``(N, length, elements)`` as vectors: the sum of those of their elements."""
        elements, states = self.table.shape[:2]
        rows = tokens + states * torch.arange(elements, device=tokens.device)
        return F.embedding(rows, self.table.flatten(0, 1)).sum(-2)

    def _cut(self, x: Tensor, outside: float) -> Tensor:
        """``(N, *event)`` as tokens ``(N, length, elements)``."""
        if x.dim() != 4:
            return x.reshape(len(x), prod(self.event_shape), 1)
        side = self.patch
        x = F.pad(x, (0, -x.shape[-1] % side, 0, -x.shape[-2] % side), value=outside)
        count, channels, height, width = x.shape
        x = x.reshape(count, channels, height // side, side, width // side, side).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(count, height // side * (width // side), channels * side**2)

    def _joined(self, tokens: Tensor) -> Tensor:
        """``(N, length, elements, symbols)`` as ``(N, *event, symbols)``: undoes :meth:`_cut`."""
        if len(self.event_shape) != 3:
            return tokens.reshape(len(tokens), *self.output_shape)
        side, (channels, height, width) = self.patch, self.event_shape
        high, wide = ceil(height / side), ceil(width / side)
        x = tokens.reshape(len(tokens), high, wide, channels, side, side, self.symbols).permute(0, 3, 1, 4, 2, 5, 6)
        return x.reshape(len(tokens), channels, high * side, wide * side, self.symbols)[:, :, :height, :width]


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

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rotation is not None:
            queries, keys = self.rotation(queries), self.rotation(keys)
        if torch._C._functorch.is_functorch_wrapped_tensor(queries):  # the fused kernel has no rule for vmap
            return self.out(attend(queries, keys, values))
        return self.out(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))


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

    def forward(self, h: Tensor, condition: Tensor, sequence: Tensor | None) -> Tensor:
        scale, shift, gate, own_scale, own_shift, own_gate = self.modulation(condition)
        attended = self.dropout(self.attention(modulated(self.norm(h), scale, shift)))
        h = torch.addcmul(h, 1 + gate.unsqueeze(1), attended)
        if self.cross is not None:
            h = h + self.cross(self.cross_norm(h), sequence)
        inner = self.dropout(self.perceptron(modulated(self.norm(h), own_scale, own_shift)))
        return torch.addcmul(h, 1 + own_gate.unsqueeze(1), inner)
