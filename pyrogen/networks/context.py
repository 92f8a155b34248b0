"""Contexts of all kinds as what a network of noisy data takes: a vector, a sequence and an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import gcd, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .embedding import Members
from .heads import Mixing
from .statistics import ReadsData, Standardizer, Statistic, require_labels

Shape = tuple[int, ...]
ContextShape = Shape | dict[str, Shape] | None
Context = Tensor | Mapping[str, Tensor] | None
Classes = int | dict[str, int] | None


class Conditions(NamedTuple):
    """What became of a context of N rows, by the way it enters a network."""

    vector: Tensor | None
    """``(N, width)``: modulates every layer."""

    sequence: Tensor | None
    """``(N, length, width)``: attended to."""

    image: Tensor | None
    """``(N, channels, height, width)``: stands beside the input as more channels."""


class ContextEncoder(ReadsData, nn.Module):
    """Labels, vectors, sequences and images, one or several in a dict, as :class:`Conditions`.

    What an entry is follows from its shape: ``()`` and ``(n,)`` are numbers, ``(length, features)`` a sequence,
    ``(channels, height, width)`` an image. Entries named by ``classes`` hold integers: of shape ``()`` a label, of
    shape ``(length,)`` a sequence of symbols, a caption, say. The members of a sequence look at each other before
    anything looks at them. Several entries of one kind add up (sequences and images are put side by side). All but
    integers are standardised by moments of the data set.

    Args:
        context_shape: ``None``, the shape of one context, or a dict of them.
        width: Size of vectors and of the members of sequences.
        classes: How many values integers take: a number for a single context, a dict for several.
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
        flat: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"`context_dropout` must be in [0, 1), got {dropout}")
        shapes, counts = _by_name(context_shape, classes)
        self.context_shape = context_shape
        self.dropout = dropout
        self.entries = nn.ModuleDict(
            {f"entry_{key}": _encoder(key, shape, counts.get(key), width, flat) for key, shape in shapes.items()}
        )
        nulls = {name: nn.Parameter(entry.null()) for name, entry in self.entries.items()} if dropout else {}
        self.nulls = nn.ParameterDict(nulls)

    @property
    def image_channels(self) -> int:
        """How many channels the image has."""
        return sum(entry.channels for entry in self.entries.values() if entry.kind == "image")

    @property
    def has_sequence(self) -> bool:
        """Whether there is something to attend to."""
        return any(entry.kind == "sequence" for entry in self.entries.values())

    def forward(self, context: Context, rows: int, like: Tensor) -> Conditions:
        """The conditions of ``rows`` rows, in the dtype and on the device of ``like``.

        Raises:
            ValueError: there is no context where one is needed.
        """
        if not self.entries:
            return Conditions(None, None, None)
        found = self._null(rows) if context is None else self._encoded(context, rows, like)
        vector = [value for kind, value in found if kind == "vector"]
        sequence = [value for kind, value in found if kind == "sequence"]
        image = [value for kind, value in found if kind == "image"]
        return Conditions(
            sum(vector[1:], vector[0]) if vector else None,
            torch.cat(sequence, 1) if sequence else None,
            torch.cat(image, 1) if image else None,
        )

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        parts = context if isinstance(context, Mapping) else {"": context}
        for name, entry in self.entries.items():
            if (value := parts.get(name.removeprefix("entry_"))) is not None:
                yield from entry.read_data(value)

    def _encoded(self, context: Context, rows: int, like: Tensor) -> list[tuple[str, Tensor]]:
        parts = context if isinstance(self.context_shape, dict) else {"": context}
        dropped = torch.rand(rows, device=like.device) < self.dropout if self.training and self.dropout else None
        found = []
        for name, entry in self.entries.items():
            value = entry(parts[name.removeprefix("entry_")], like)
            if dropped is not None:
                value = torch.where(dropped.view(-1, *(1,) * (value.dim() - 1)), self.nulls[name], value)
            found.append((entry.kind, value))
        return found

    def _null(self, rows: int) -> list[tuple[str, Tensor]]:
        if not self.dropout:
            raise ValueError("`context` must be given: without `context_dropout` no answer for None was learned")
        return [
            (entry.kind, self.nulls[name].expand(rows, *entry.output_shape)) for name, entry in self.entries.items()
        ]


class Rows(NamedTuple):
    """The inputs of a network with one batch dimension, and the batch shape they came with."""

    x: Tensor
    level: Tensor
    context: Context
    batch_shape: torch.Size

    def restore(self, output: Tensor) -> Tensor:
        """``(N, *shape)`` with the batch shape of the inputs."""
        return output.reshape((*self.batch_shape, *output.shape[1:]))


def as_rows(x: Tensor, level: Tensor, context: Context, event_shape: Shape, context_shape: ContextShape) -> Rows:
    """Broadcasts and flattens the batch dimensions of data, noise levels and contexts.

    Raises:
        ValueError: ``x`` does not end in ``event_shape``.
    """
    batch_dim = x.dim() - len(event_shape)
    if batch_dim < 0 or x.shape[batch_dim:] != torch.Size(event_shape):
        raise ValueError(f"`x` must end in shape {tuple(event_shape)}, got {tuple(x.shape)}")
    level = torch.as_tensor(level, dtype=x.dtype, device=x.device)
    parts = {} if context is None else dict(context) if isinstance(context, Mapping) else {"": context}
    shapes = context_shape if isinstance(context_shape, dict) else {"": context_shape}
    fronts = [part.shape[: part.dim() - len(shapes[key])] for key, part in parts.items()]
    batch = torch.broadcast_shapes(x.shape[:batch_dim], level.shape, *fronts)
    size = prod(batch)
    flat = {key: part.expand((*batch, *shapes[key])).reshape((size, *shapes[key])) for key, part in parts.items()}
    return Rows(
        x.expand((*batch, *event_shape)).reshape((size, *event_shape)),
        level.expand(batch).reshape(size),
        None if context is None else flat if isinstance(context, Mapping) else flat[""],
        batch,
    )


class _Entry(ReadsData, nn.Module):
    """One entry of a context: how it is encoded, and what stands in its place when it is dropped."""

    def __init__(self, kind: str, output_shape: Shape) -> None:
        super().__init__()
        self.kind = kind
        self.output_shape = output_shape

    @property
    def channels(self) -> int:
        return self.output_shape[0]

    def null(self) -> Tensor:
        size = self.output_shape[-1:] if self.kind != "image" else (self.channels, 1, 1)
        return torch.zeros(size)


class _Numbers(_Entry):
    """Numbers of any shape as a vector."""

    def __init__(self, shape: Shape, width: int, name: str) -> None:
        super().__init__("vector", (width,))
        self.standardize = Standardizer(shape, name=name)
        self.layer = nn.Linear(prod(shape), width)

    def forward(self, value: Tensor, like: Tensor) -> Tensor:
        return self.layer(self.standardize(value.to(like)).reshape(len(value), self.layer.in_features))

    def read_data(self, value: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardize.read_data(value)


class _Label(_Entry):
    def __init__(self, classes: int, width: int, name: str) -> None:
        super().__init__("vector", (width,))
        self.name = name
        self.table = nn.Embedding(classes, width)

    def forward(self, value: Tensor, like: Tensor) -> Tensor:
        return self.table(checked(value, self.table.num_embeddings, self.name))

    def read_data(self, value: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        require_labels(value, self.table.num_embeddings, self.name)
        return iter(())


class _Sequence(_Entry):
    """Vectors or symbols, each with a learned place, that have looked at each other: a word alone says little."""

    def __init__(self, embedding: nn.Module, length: int, width: int) -> None:
        super().__init__("sequence", (length, width))
        self.embedding = embedding
        self.places = nn.Parameter(torch.randn(length, width))  # as large as the words: order counts from the start
        heads = gcd(width, 4)
        self.layers = nn.Sequential(Mixing(width, heads), Mixing(width, heads), nn.LayerNorm(width))

    def forward(self, value: Tensor, like: Tensor) -> Tensor:
        return self.layers(self.embedding(value, like) + self.places)

    def read_data(self, value: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.embedding.read_data(value)


class _Members(Members):
    """Vectors as vectors of another width."""

    def forward(self, value: Tensor, like: Tensor) -> Tensor:
        return super().forward(value.to(like))


class _Symbols(ReadsData, nn.Embedding):
    """Integers as vectors."""

    def __init__(self, classes: int, width: int, name: str) -> None:
        super().__init__(classes, width)
        self.name = name

    def forward(self, value: Tensor, like: Tensor) -> Tensor:
        return super().forward(checked(value, self.num_embeddings, self.name))

    def read_data(self, value: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        require_labels(value, self.num_embeddings, self.name)
        return iter(())


class _Flat(_Entry):
    """An entry of another kind, flattened to a vector."""

    def __init__(self, entry: _Entry, width: int) -> None:
        super().__init__("vector", (width,))
        self.entry = entry
        self.layer = nn.Linear(prod(entry.output_shape), width)

    def forward(self, value: Tensor, like: Tensor) -> Tensor:
        return self.layer(self.entry(value, like).flatten(1))

    def read_data(self, value: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.entry.read_data(value)


class _Image(_Entry):
    def __init__(self, shape: Shape, name: str) -> None:
        super().__init__("image", shape)
        self.standardize = Standardizer(shape, name=name)

    def forward(self, value: Tensor, like: Tensor) -> Tensor:
        return self.standardize(value.to(like))

    def read_data(self, value: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardize.read_data(value)


def checked(labels: Tensor, classes: int, name: str = "context") -> Tensor:
    """The labels as long integers; those out of range raise where torch validates distributions.

    Raises:
        ValueError: a label is out of range.
    """
    if torch.distributions.Distribution._validate_args:
        require_labels(labels, classes, name)
    return labels.long()


def _by_name(context_shape: ContextShape, classes: Classes) -> tuple[dict[str, Shape], dict[str, int]]:
    if context_shape is None:
        if classes is not None:
            raise ValueError("`context_shape` must be given with `classes`: () for a label, got None")
        return {}, {}
    single = not isinstance(context_shape, dict)
    shapes = {"": tuple(context_shape)} if single else {key: tuple(shape) for key, shape in context_shape.items()}
    if classes is None:
        return shapes, {}
    if single != isinstance(classes, int):
        raise ValueError(f"`classes` must be a number for one context and a dict for several, got {classes}")
    counts = {"": classes} if single else dict(classes)
    if not set(counts) <= set(shapes):
        raise ValueError(f"`classes` must name entries of the context among {sorted(shapes)}, got {sorted(counts)}")
    return shapes, counts


def _encoder(key: str, shape: Shape, classes: int | None, width: int, flat: bool) -> _Entry:
    name = f"context[{key!r}]" if key else "context"
    if classes is not None:
        if len(shape) > 1:
            raise ValueError(f"`context_shape` must be () or (length,) for integers, got {shape} {key}".rstrip())
        entry = _Sequence(_Symbols(classes, width, name), shape[0], width) if shape else _Label(classes, width, name)
    elif len(shape) < 2 or flat:
        return _Numbers(shape, width, name)
    elif len(shape) > 3:
        raise ValueError(f"`context_shape` must have at most three dimensions, got {shape}")
    else:
        sequence = len(shape) == 2
        entry = _Sequence(_Members(shape, width, name=name), shape[0], width) if sequence else _Image(shape, name)
    return _Flat(entry, width) if flat and entry.kind != "vector" else entry
