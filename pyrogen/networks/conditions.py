"""Contexts of all kinds as what networks of noisy data take: a vector, a sequence, and what stands beside the data."""

from __future__ import annotations

from math import gcd, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrogen import arguments
from pyrogen.arguments import checked

from .attention import SelfAttentionBlock
from .context import Classes, Context, ContextShape, Shape
from .context_embeddings import ContextEmbedding
from .members import embedded_members, present_members
from .places import places_of
from .statistics import entry_key


class Conditions(NamedTuple):
    """What became of a context of N rows, by the way it enters a network."""

    vector: Tensor | None
    """``(N, width)``: modulates every layer."""

    sequence: Tensor | None = None
    """``(N, length, width)``: attended to."""

    present: Tensor | None = None
    """``(N, length)``: which members of the sequence are there."""

    beside: Tensor | None = None
    """``(N, channels, *places)``: stands beside the input as more channels."""

    shown: Tensor | None = None
    """``(N, *places)``: which places of the input are there; ``None``: all."""


class ContextEncoder(ContextEmbedding):
    """Labels, vectors, sequences and images, one or several in a dict, as :class:`Conditions`.

    What an entry is follows from its shape: ``()`` and ``(n,)`` are numbers, ``(length, features)`` a sequence,
    ``(channels, height, width)`` an image. Entries named by ``classes`` hold integers: of shape ``()`` a label, of
    shape ``(length,)`` a sequence of symbols, such as a caption. The members of a sequence attend to each other
    before anything attends to them. Several entries of one kind add up (sequences and images are put side by side).

    A sequence that is as long as the events is aligned with them: it stands beside them, member by member, and nothing
    attends to it; so does one beside the frames of a video, and an image beside every frame. Members of a sequence may
    be absent, as those that pad shorter sequences are: numbers that are all NaN, symbols of -1. Where a member of an
    aligned sequence is absent, so is what the event has there.

    Args:
        context_shape: ``None``, the shape of one context, or a dict of them.
        width: Size of vectors and of the members of sequences.
        classes: How many values integers take: a number for a single context, a dict for several.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        flat: Whether sequences and images, too, become vectors.
        event_shape: Of the events that the network takes. If not given, images stand beside events whatever these are,
            and sequences never do.
        dropout: Share of the rows whose context is replaced in training by one learned for "no context", which also
            answers ``None``. At zero there is none and a missing context raises.

    Raises:
        ValueError: an entry has a shape that is none of those named, an image does not fit the events, ``classes``
            names no entry, or ``dropout`` is not in [0, 1).

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
        event_shape: Shape | None = None,
        dropout: float = 0.0,
    ) -> None:
        if context_shape is None and classes is not None:
            raise ValueError("`context_shape` must be given with `classes`: () for a label, got None")
        super().__init__(context_shape, classes=classes, embedding=embedding, absent=not flat)
        self.dropout = dropout
        counts = self.labels if embedding is None else {}
        places = None if event_shape is None else places_of(arguments.shape(event_shape, "event_shape"))
        self.parts = nn.ModuleDict(
            {
                entry_key(key): _part(key, shape, counts.get(key), width, flat, places)
                for key, shape in self.shapes.items()
            }
        )
        nulls = {name: nn.Parameter(part.null()) for name, part in self.parts.items()} if dropout else {}
        self.nulls = nn.ParameterDict(nulls)

    @property
    def channels(self) -> int:
        """How many channels stand beside the events."""
        return sum(part.output_shape[0] for part in self.parts.values() if part.kind == "beside")

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
            return Conditions(None)
        found = self._null(rows) if context is None else self._encoded(context, rows)
        kinds = {kind: [entry for entry in found if entry.kind == kind] for kind in ("vector", "sequence", "beside")}
        vector, sequence, beside = ([entry.value for entry in entries] for entries in kinds.values())
        shown = [entry.present for entry in kinds["beside"] if entry.present is not None]
        return Conditions(
            sum(vector[1:], vector[0]) if vector else None,
            torch.cat(sequence, 1) if sequence else None,
            torch.cat([entry.present for entry in kinds["sequence"]], 1) if sequence else None,
            torch.cat(_widened(beside), 1) if beside else None,
            torch.stack(_widened(shown)).all(0) if shown else None,
        )

    def _encoded(self, context: Context, rows: int) -> list[_Encoded]:
        dropped = torch.rand(rows, device=self.zero.device) < self.dropout if self.training and self.dropout else None
        found, entries = [], self.entries(context)
        for key in self.shapes:
            part, name = self.parts[entry_key(key)], entry_key(key)
            value, present = part(entries[key]), part.present(entries[key])
            if dropped is not None:
                value = torch.where(_over(dropped, value), self.nulls[name], value)
                present = None if present is None else present | _over(dropped, present)
            found.append(_Encoded(part.kind, value, present))
        return found

    def _null(self, rows: int) -> list[_Encoded]:
        if not self.dropout:
            raise ValueError("`context` must be given: without `context_dropout` no answer for None was learned")
        found = []
        for name, part in self.parts.items():
            value = self.nulls[name].expand(rows, *part.output_shape)
            there = value.new_ones(value.shape[:2], dtype=torch.bool) if part.kind == "sequence" else None
            found.append(_Encoded(part.kind, value, there))
        return found


class _Encoded(NamedTuple):
    """What became of one entry, and which of its members are there where it may lack some."""

    kind: str
    value: Tensor
    present: Tensor | None


def _over(rows: Tensor, value: Tensor) -> Tensor:
    """One number for each row, with the dimensions of a value."""
    return rows.view(-1, *(1,) * (value.dim() - 1))


def _widened(values: list[Tensor]) -> list[Tensor]:
    """Values ``(N, channels, *places)`` or ``(N, *places)`` whose places have become the same."""
    first = 2 if values and values[0].is_floating_point() else 1
    places = torch.broadcast_shapes(*(value.shape[first:] for value in values))
    return [value.expand(*value.shape[:first], *places) for value in values]


class _Part(nn.Module):
    """How one entry is encoded, and what stands in its place when it is dropped."""

    def __init__(self, kind: str, output_shape: Shape) -> None:
        super().__init__()
        self.kind, self.output_shape = kind, output_shape

    def present(self, value: Tensor) -> Tensor | None:
        """Which members are there, where some may be absent."""
        return None

    def null(self) -> Tensor:
        if self.kind == "beside":
            return torch.zeros(self.output_shape[0], *(1,) * (len(self.output_shape) - 1))
        return torch.zeros(self.output_shape[-1:])


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


class _Members(_Part):
    """Vectors or symbols of which some may be absent.

    Args:
        kind: How the entry enters a network.
        output_shape: Shape of what becomes of one entry.
        embedding: A table of symbols, or a map of vectors.
    """

    def __init__(self, kind: str, output_shape: Shape, embedding: nn.Module) -> None:
        super().__init__(kind, output_shape)
        self.embedding = embedding

    def present(self, value: Tensor) -> Tensor:
        return present_members(value, symbols=isinstance(self.embedding, nn.Embedding))

    def embedded(self, value: Tensor, present: Tensor) -> Tensor:
        """Vectors ``(N, length, features)``; those of absent members are zero."""
        return embedded_members(self.embedding, value, present)


class _Sequence(_Members):
    """Vectors or symbols, each with a learned place, that have attended to each other: words have meaning together."""

    def __init__(self, embedding: nn.Module, length: int, width: int) -> None:
        super().__init__("sequence", (length, width), embedding)
        self.places = nn.Parameter(torch.randn(length, width))  # as large as the words: order counts from the start
        heads = gcd(width, 4)
        self.layers = nn.Sequential(
            SelfAttentionBlock(width, heads), SelfAttentionBlock(width, heads), nn.LayerNorm(width)
        )

    def forward(self, value: Tensor) -> Tensor:
        present = self.present(value)
        h = self.embedded(value, present) + self.places
        for block in self.layers[:-1]:
            h = block(h, present)
        return self.layers[-1](h).masked_fill(~present.unsqueeze(-1), 0.0)


class _Aligned(_Members):
    """A sequence beside a sequence of its length, or beside the frames of a video."""

    def __init__(self, embedding: nn.Module, features: int, places: Shape) -> None:
        super().__init__("beside", (features, places[0], *(1,) * (len(places) - 1)), embedding)

    def forward(self, value: Tensor) -> Tensor:
        vectors = self.embedded(value, self.present_members(value))
        return vectors.transpose(1, 2).reshape(len(value), *self.output_shape)

    def present(self, value: Tensor) -> Tensor:
        return self.present_members(value).reshape(len(value), *self.output_shape[1:])

    def present_members(self, value: Tensor) -> Tensor:
        """Which members are there, ``(N, length)``."""
        return super().present(value)


class _Flat(_Part):
    """An entry of another kind, flattened to a vector."""

    def __init__(self, entry: _Part, width: int) -> None:
        super().__init__("vector", (width,))
        self.entry = entry
        self.layer = nn.Linear(prod(entry.output_shape), width)

    def forward(self, value: Tensor) -> Tensor:
        return self.layer(self.entry(value).flatten(1))


class _Image(_Part):
    """An image beside an image, or beside every frame of a video."""

    def __init__(self, shape: Shape, places: Shape | None) -> None:
        channels, *sides = shape
        frames = () if places is None else (1,) * (len(places) - 2)
        super().__init__("beside", (channels, *frames, *sides))

    def forward(self, value: Tensor) -> Tensor:
        return value.reshape(len(value), *self.output_shape)


def _part(key: str, shape: Shape, classes: int | None, width: int, flat: bool, places: Shape | None) -> _Part:
    if classes is not None and len(shape) > 1:
        raise ValueError(f"`context_shape` must be () or (length,) for integers, got {shape} {key}".rstrip())
    if classes is not None and not shape:
        return _Label(classes, width)
    if classes is None and (len(shape) < 2 or flat):
        return _Numbers(shape, width)
    if len(shape) > 3:
        raise ValueError(f"`context_shape` must have at most three dimensions, got {shape}")
    if len(shape) == 3:
        _require_sides(shape, places)
        return _Image(shape, places)
    if places and len(places) != 2 and shape[0] == places[0]:
        return (
            _Aligned(nn.Identity(), shape[1], places)
            if classes is None
            else _Aligned(nn.Embedding(classes, width), width, places)
        )
    embedding = nn.Linear(shape[1], width) if classes is None else nn.Embedding(classes, width)
    part = _Sequence(embedding, shape[0], width)
    return _Flat(part, width) if flat else part


def _require_sides(shape: Shape, places: Shape | None) -> None:
    if places is None:
        return
    if len(places) < 2:
        raise ValueError(f"`context_shape` may hold images only where events are images or videos, got {shape}")
    if shape[1:] != places[-2:]:
        raise ValueError(f"`context_shape` of images must have sides {places[-2:]}, got {shape}")
