r"""Embeddings of simulated data: from what was observed, in its own units, to a vector for the networks of a posterior.

An :class:`Embedding` standardises contexts itself, by statistics of the data set, because only it knows what their
dimensions mean: the elements of a vector each have moments of their own, the rows of a set share theirs. It is passed
to any recipe as ``embedding=``.

- :class:`VectorEmbedding`: numbers that have their places.
- :class:`SequenceEmbedding` (:mod:`pyrogen.networks.series`): long series, by convolutions.
- :class:`ImageEmbedding`: images, by convolutions.
- :class:`SetEmbedding` (:mod:`pyrogen.networks.sets`): rows whose order means nothing, any number of them.
- :class:`EachRow`, :class:`SideBySide`: embeddings of parts, put beside each other.

:func:`~pyrogen.networks.embedding_defaults.default_embedding` chooses among them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen import arguments
from pyrogen.abstract import Abstract
from pyrogen.arguments import checked

from .convolution import ImageEncoder
from .statistics import ReadsData, RefusedDataError, Standardizer, Statistic, entry_key

Shape = tuple[int, ...]


class Embedding(Abstract, ReadsData, nn.Module):
    """From contexts in the units of the data to vectors; it learns their moments from the data set.

    Args:
        context_shape: Shape of one context, or a dict of shapes.

    Attributes:
        context_shape: Shape of one context, or a dict of shapes.

    Shape:
        ``(N, *context_shape)`` to ``(N, size)``.
    """

    takes_absent: bool = False
    """Whether rows of NaN are rows that are not there."""

    def __init__(self, context_shape: Shape | Mapping[str, Shape]) -> None:
        super().__init__()
        self.context_shape = arguments.context_shape(context_shape, "context_shape")

    @property
    @abstractmethod
    def size(self) -> int:
        """How long the vectors are."""

    @abstractmethod
    def forward(self, context: Any) -> Tensor:
        """The vectors ``(N, size)`` of N contexts."""


class VectorEmbedding(Embedding):
    """Numbers of any shape as they are: each element standardised by moments of its own, all in one vector.

    Example:
        >>> VectorEmbedding((2, 3))(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(self, context_shape: Shape) -> None:
        super().__init__(context_shape)
        self.standardizer = Standardizer((prod(self.context_shape),))

    @property
    def size(self) -> int:
        return prod(self.context_shape)

    def forward(self, context: Tensor) -> Tensor:
        return self.standardizer(flat(context, self.context_shape))

    def read_data(self, context: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardizer.read_data(flat(context, self.context_shape))


class ImageEmbedding(Embedding):
    """Images by convolutions that halve them until their sides are at most eight; standardised by channel.

    Args:
        context_shape: ``(channels, rows, columns)``.
        outputs: Size of the vectors.
        width: Channels of the last convolutions.

    Example:
        >>> ImageEmbedding((1, 28, 28))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 32])
    """

    @checked
    def __init__(self, context_shape: Shape, *, outputs: int = 32, width: int = 64) -> None:
        super().__init__(context_shape)
        self.standardizer = Standardizer(self.context_shape)
        halvings = max(1, (max(self.context_shape[1:]) - 1).bit_length() - 3)
        channels = [max(8, width >> (halvings - 1 - place)) for place in range(halvings)]
        self.network = ImageEncoder(self.context_shape, outputs, channels=channels)
        self._outputs = outputs

    @property
    def size(self) -> int:
        return self._outputs

    def forward(self, context: Tensor) -> Tensor:
        return self.network(self.standardizer(shaped(context, self.context_shape)))

    def read_data(self, context: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardizer.read_data(context)


class EachRow(Embedding):
    """Rows that keep their places, each embedded alike; their vectors stand one after the other.

    Args:
        row: Embeds one row.
        rows: How many there are.

    Example:
        >>> EachRow(VectorEmbedding((3,)), rows=2)(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 6])
    """

    @checked
    def __init__(self, row: Embedding, *, rows: int) -> None:
        super().__init__((rows, *row.context_shape))
        self.row, self.rows = row, rows

    @property
    def size(self) -> int:
        return self.rows * self.row.size

    @property
    def takes_absent(self) -> bool:
        return self.row.takes_absent

    def forward(self, context: Tensor) -> Tensor:
        context = shaped(context, self.context_shape)
        return self.row(context.flatten(0, 1)).reshape(len(context), self.size)

    def read_data(self, context: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        owners = torch.arange(len(context), device=context.device).repeat_interleave(self.rows)
        return read_rows(self.row, context.flatten(0, 1), owners)


class SideBySide(Embedding):
    """Several contexts by name, each with an embedding of its own; their vectors stand beside each other.

    Args:
        parts: The embeddings by name.

    Example:
        >>> both = SideBySide({"x": VectorEmbedding((2,)), "y": VectorEmbedding(())})
        >>> both({"x": torch.zeros(5, 2), "y": torch.zeros(5)}).shape
        torch.Size([5, 3])
    """

    def __init__(self, parts: Mapping[str, Embedding]) -> None:
        super().__init__({name: part.context_shape for name, part in parts.items()})
        self.parts = nn.ModuleDict({entry_key(name): part for name, part in parts.items()})

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts.values())

    @property
    def takes_absent(self) -> bool:
        return any(part.takes_absent for part in self.parts.values())

    def forward(self, context: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([self.parts[entry_key(name)](context[name]) for name in self.context_shape], -1)

    def read_data(self, context: Mapping[str, Tensor]) -> Iterator[tuple[Statistic, Tensor]]:
        for name in self.context_shape:
            if context.get(name) is not None:
                yield from self.parts[entry_key(name)].read_data(context[name])


def takes_absent(module: nn.Module) -> bool:
    """Whether a part of a module is an embedding to which rows of NaN are rows that are not there."""
    return any(isinstance(part, Embedding) and part.takes_absent for part in module.modules())


def read_rows(row: Embedding, rows: Tensor, owners: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
    """What the embedding of a row reads, its errors naming the data that rows belong to.

    Args:
        row: The embedding.
        rows: The rows of all data, ``(M, *row)``.
        owners: To which datum each belongs, ``(M,)``.

    Raises:
        RefusedDataError: a row holds what the embedding cannot take.
    """
    try:
        return iter(list(row.read_data(rows)))
    except RefusedDataError as error:
        raise RefusedDataError(error.demand, error.got, sorted({int(owners[place]) for place in error.rows})) from error


def shaped(context: Tensor, shape: Shape) -> Tensor:
    """A context that must have one batch dimension before its shape.

    Raises:
        ValueError: it has another shape.
    """
    if context.shape[1:] != torch.Size(shape):
        raise ValueError(f"`context` must have shape (N, {', '.join(map(str, shape))}), got {tuple(context.shape)}")
    return context


def flat(context: Tensor, shape: Shape) -> Tensor:
    """A context as vectors ``(N, size)``."""
    return shaped(context, shape).reshape(len(context), prod(shape))
