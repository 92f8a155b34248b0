"""Contexts of all kinds as what a network of noisy data takes: a vector, a sequence and an image."""

from __future__ import annotations

from math import gcd, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .attention import SelfAttentionBlock
from .context import Classes, Context, ContextShape, Shape
from .context_embeddings import ContextEmbedding
from .statistics import entry_key


class Conditions(NamedTuple):
    """What became of a context of N rows, by the way it enters a network."""

    vector: Tensor | None
    """``(N, width)``: modulates every layer."""

    sequence: Tensor | None
    """``(N, length, width)``: attended to."""

    image: Tensor | None
    """``(N, channels, height, width)``: stands beside the input as more channels."""


class ContextEncoder(ContextEmbedding):
    """Labels, vectors, sequences and images, one or several in a dict, as :class:`Conditions`.

    What an entry is follows from its shape: ``()`` and ``(n,)`` are numbers, ``(length, features)`` a sequence,
    ``(channels, height, width)`` an image. Entries named by ``classes`` hold integers: of shape ``()`` a label, of
    shape ``(length,)`` a sequence of symbols, such as a caption. The members of a sequence attend to each other
    before anything attends to them. Several entries of one kind add up (sequences and images are put side by side).

    Args:
        context_shape: ``None``, the shape of one context, or a dict of them.
        width: Size of vectors and of the members of sequences.
        classes: How many values integers take: a number for a single context, a dict for several.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        flat: Whether sequences and images, too, become vectors.
        dropout: Share of the rows whose context is replaced in training by one learned for "no context", which also
            answers ``None``. At zero there is none and a missing context raises.

    Raises:
        ValueError: an entry has a shape that is none of those named, ``classes`` names no entry, or ``dropout`` is not
            in [0, 1).

    References:
        Ho and Salimans 2022, "Classifier-free diffusion guidance", https://arxiv.org/abs/2207.12598
    """

    @checked
    def __init__(
        self,
        context_shape: ContextShape,
        width: int,
        *,
        classes: Classes = None,
        embedding: nn.Module | None = None,
        flat: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if context_shape is None and classes is not None:
            raise ValueError("`context_shape` must be given with `classes`: () for a label, got None")
        super().__init__(context_shape, classes=classes, embedding=embedding)
        self.dropout = dropout
        counts = self.labels if embedding is None else {}
        self.parts = nn.ModuleDict(
            {entry_key(key): _part(key, shape, counts.get(key), width, flat) for key, shape in self.shapes.items()}
        )
        nulls = {name: nn.Parameter(part.null()) for name, part in self.parts.items()} if dropout else {}
        self.nulls = nn.ParameterDict(nulls)

    @property
    def images(self) -> list[Shape]:
        """The shapes of what stands beside an image as more channels."""
        return [part.output_shape for part in self.parts.values() if part.kind == "image"]

    @property
    def image_channels(self) -> int:
        """How many channels the image has."""
        return sum(shape[0] for shape in self.images)

    @property
    def has_sequence(self) -> bool:
        """Whether there is something to attend to."""
        return any(part.kind == "sequence" for part in self.parts.values())

    def forward(self, context: Context, rows: int) -> Conditions:
        """The conditions of ``rows`` rows.

        Raises:
            ValueError: there is no context where one is needed.
        """
        if not self.parts:
            return Conditions(None, None, None)
        found = self._null(rows) if context is None else self._encoded(context, rows)
        vector, sequence, image = ([value for kind, value in found if kind == each] for each in Conditions._fields)
        return Conditions(
            sum(vector[1:], vector[0]) if vector else None,
            torch.cat(sequence, 1) if sequence else None,
            torch.cat(image, 1) if image else None,
        )

    def _encoded(self, context: Context, rows: int) -> list[tuple[str, Tensor]]:
        dropped = torch.rand(rows, device=self.zero.device) < self.dropout if self.training and self.dropout else None
        found, entries = [], self.entries(context)
        for key in self.shapes:
            part, name = self.parts[entry_key(key)], entry_key(key)
            value = part(entries[key])
            if dropped is not None:
                value = torch.where(dropped.view(-1, *(1,) * (value.dim() - 1)), self.nulls[name], value)
            found.append((part.kind, value))
        return found

    def _null(self, rows: int) -> list[tuple[str, Tensor]]:
        if not self.dropout:
            raise ValueError("`context` must be given: without `context_dropout` no answer for None was learned")
        return [(part.kind, self.nulls[name].expand(rows, *part.output_shape)) for name, part in self.parts.items()]


class _Part(nn.Module):
    """How one entry is encoded, and what stands in its place when it is dropped."""

    def __init__(self, kind: str, output_shape: Shape) -> None:
        super().__init__()
        self.kind, self.output_shape = kind, output_shape

    def null(self) -> Tensor:
        return torch.zeros((self.output_shape[0], 1, 1) if self.kind == "image" else self.output_shape[-1:])


class _Numbers(_Part):
    """Numbers of any shape as a vector."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__("vector", (width,))
        self.layer = nn.Linear(prod(shape), width)

    def forward(self, value: Tensor) -> Tensor:
        return self.layer(value.reshape(len(value), self.layer.in_features))


class _Label(_Part):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__("vector", (width,))
        self.table = nn.Embedding(classes, width)

    def forward(self, value: Tensor) -> Tensor:
        return self.table(value)


class _Sequence(_Part):
    """Vectors or symbols, each with a learned place, that have attended to each other: words have meaning together."""

    def __init__(self, embedding: nn.Module, length: int, width: int) -> None:
        super().__init__("sequence", (length, width))
        self.embedding = embedding
        self.places = nn.Parameter(torch.randn(length, width))  # as large as the words: order counts from the start
        heads = gcd(width, 4)
        self.layers = nn.Sequential(
            SelfAttentionBlock(width, heads), SelfAttentionBlock(width, heads), nn.LayerNorm(width)
        )

    def forward(self, value: Tensor) -> Tensor:
        return self.layers(self.embedding(value) + self.places)


class _Flat(_Part):
    """An entry of another kind, flattened to a vector."""

    def __init__(self, entry: _Part, width: int) -> None:
        super().__init__("vector", (width,))
        self.entry = entry
        self.layer = nn.Linear(prod(entry.output_shape), width)

    def forward(self, value: Tensor) -> Tensor:
        return self.layer(self.entry(value).flatten(1))


class _Image(_Part):
    def forward(self, value: Tensor) -> Tensor:
        return value


def _part(key: str, shape: Shape, classes: int | None, width: int, flat: bool) -> _Part:
    if classes is not None:
        if len(shape) > 1:
            raise ValueError(f"`context_shape` must be () or (length,) for integers, got {shape} {key}".rstrip())
        part = _Sequence(nn.Embedding(classes, width), shape[0], width) if shape else _Label(classes, width)
    elif len(shape) < 2 or flat:
        return _Numbers(shape, width)
    elif len(shape) > 3:
        raise ValueError(f"`context_shape` must have at most three dimensions, got {shape}")
    else:
        part = _Image("image", shape) if len(shape) == 3 else _Sequence(nn.Linear(shape[1], width), shape[0], width)
    return _Flat(part, width) if flat and part.kind != "vector" else part
