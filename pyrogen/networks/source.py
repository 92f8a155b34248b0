r"""Source sequences: what a transformer translates, transcribes or answers, read in both directions before it begins.

A source of members :math:`s_1, \dots, s_m`, symbols or vectors, becomes as many vectors,

.. math:: h_j = \operatorname{encoder}(e(s_1) + q_1, \dots, e(s_m) + q_m)_j ,

with a learned vector :math:`q_j` for each place, and every block of the transformer attends to them. Shorter sources
are padded by members that are absent: symbols of -1, vectors of NaN. They are left out altogether. Nothing attends to
them, and places count those members that are there, so it does not matter either where the absent ones stand.

References:
    Vaswani et al. 2017, "Attention is all you need", https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrogen.arguments import checked

from .attention import SelfAttentionBlock
from .context import Classes, Context, ContextShape, Shape
from .context_embeddings import ContextEmbedding
from .members import embedded_members, present_members
from .statistics import entry_key

Encoded = tuple[Tensor, Tensor]
"""Vectors ``(N, m, width)``, and which of them are there, ``(N, m)``."""


class SourceEncoder(ContextEmbedding):
    """A context as a sequence that is read in both directions, of which members may be absent.

    Entries named by ``classes`` are sequences of symbols ``(length,)``, or single labels ``()``; others are sequences
    of vectors ``(length, features)``, or single vectors. What is single is a member of the sequence as well, and always
    there. Several entries in a dict stand one after the other.

    Args:
        context_shape: The shape of one context, or a dict of them.
        width: Size of the vectors.
        depth: How many blocks of attention there are.
        heads: How many heads they have.
        ratio: How much wider the perceptrons are.
        classes: How many symbols, or labels, there are: a number for a single context, a dict for several.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`: features ``(N, length, size)``
            are a sequence, of which no member is absent.

    Shape:
        ``(N, *context_shape)`` to ``(N, m, width)``, and which members are there, ``(N, m)``.

    Raises:
        ValueError: there is no context, an entry has a shape that is none of those named, or ``heads`` does not divide
            ``width``.

    Example:
        >>> encoder = SourceEncoder((4,), 8, classes=5, depth=1)
        >>> vectors, present = encoder(torch.tensor([[3, 0, 4, -1]]))
        >>> vectors.shape, present.tolist()
        (torch.Size([1, 4, 8]), [[True, True, True, False]])
    """

    @checked
    def __init__(
        self,
        context_shape: ContextShape,
        width: int,
        *,
        depth: int,
        heads: int = 4,
        ratio: int = 4,
        classes: Classes = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(context_shape, classes=classes, embedding=embedding, absent=True)
        if not self.shapes:
            raise ValueError("`source` needs a context, got neither `context_shape` nor `classes`")
        labels: Mapping[str, int] = self.labels if embedding is None else {}
        entries = {entry_key(key): _Entry(shape, labels.get(key), width) for key, shape in self.shapes.items()}
        self.parts = nn.ModuleDict(entries)
        self.blocks = nn.ModuleList(SelfAttentionBlock(width, heads, ratio=ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    @property
    def length(self) -> int:
        """How many members there are, absent ones included."""
        return sum(part.length for part in self.parts.values())

    def forward(self, context: Context) -> Encoded:
        entries = self.entries(context)
        vectors, there = zip(*(self.parts[entry_key(key)](entries[key]) for key in self.shapes), strict=True)
        h, present = torch.cat(vectors, 1), torch.cat(there, 1)
        for block in self.blocks:
            h = block(h, present)
        return self.norm(h), present


class _Entry(nn.Module):
    """The members of one entry as vectors, each with its place among those that are there."""

    def __init__(self, shape: Shape, classes: int | None, width: int) -> None:
        super().__init__()
        most = 1 if classes is not None else 2
        if len(shape) > most:
            shown = "() or (length,) for symbols" if most == 1 else "(size,) or (length, features) for a source"
            raise ValueError(f"`context_shape` must be {shown}, got {shape}")
        self.symbols, self.single = classes is not None, len(shape) < most
        self.length = 1 if self.single else shape[0]
        self.size = () if self.symbols else (shape[-1] if shape else 1,)
        self.embedding = nn.Embedding(classes, width) if self.symbols else nn.Linear(*self.size, width)
        self.places = nn.Parameter(torch.randn(self.length, width))  # as large as words: order counts from the start

    def forward(self, value: Tensor) -> Encoded:
        members = value.reshape(len(value), self.length, *self.size)
        if self.single:
            present = members.new_ones(members.shape[:2], dtype=torch.bool)
        else:
            present = present_members(members, symbols=self.symbols)
        place = (present.cumsum(1) - 1).clamp(min=0)
        return embedded_members(self.embedding, members, present) + F.embedding(place, self.places), present
