r"""Embeddings of simulated data: from what was observed, in its own units, to a vector for the networks of a posterior.

An :class:`Embedding` standardizes contexts itself, by statistics of the data set, because only it knows what their
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
from .forms import Form, Plain
from .statistics import ReadsData, RefusedDataError, Standardizer, Statistic, entry_key

Shape = tuple[int, ...]

_FAR = 5.0
"""From so many standard deviations on numbers grow by their logarithm."""
_PARTS = 4
"""Into so many parts rows and columns of an image are divided for averages."""


class Embedding(Abstract, ReadsData, nn.Module):
    """From contexts in the units of the data to vectors; it learns their moments from the data set.

    Args:
        context_shape: Shape of one context, or a dict of shapes.

    Attributes:
        context_shape: Shape of one context, or a dict of shapes.

    Shape:
        ``(N, *context_shape)`` to ``(N, size)``.
    """

    fixed: int = 0
    """How many of the first elements of a vector depend on no parameter: on them a flow may regress."""
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
    """Numbers of any shape as they are: each element standardized by moments of its own, all in one vector.

    Beyond five standard deviations numbers grow by their logarithm: an outlier does not throw a network off.

    Args:
        context_shape: Shape of one context.
        form: What is taken of each number; if ``None`` the number itself.

    Example:
        >>> VectorEmbedding((2, 3))(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(self, context_shape: Shape, *, form: Form | None = None) -> None:
        super().__init__(context_shape)
        self.form = Plain() if form is None else form
        self.standardizer = Standardizer((prod(self.context_shape) * self.form.width,))

    @property
    def size(self) -> int:
        return prod(self.context_shape) * self.form.width

    @property
    def fixed(self) -> int:
        return self.size

    def forward(self, context: Tensor) -> Tensor:
        return tamed(self.standardizer(self._forms(context)))

    def read_data(self, context: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardizer.read_data(self._forms(context))

    def _forms(self, context: Tensor) -> Tensor:
        return self.form(shaped(context, self.context_shape)).reshape(len(context), self.size)


class ImageEmbedding(Embedding):
    """Images by convolutions that halve them until their sides are at most eight, beside averages over their parts.

    They are standardized by channel.

    Args:
        context_shape: ``(channels, rows, columns)``.
        outputs: How many features the convolutions give.
        width: Channels of the last convolutions.
        form: What is taken of each number; if ``None`` the number itself.

    Example:
        >>> ImageEmbedding((1, 28, 28))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 48])
    """

    @checked
    def __init__(self, context_shape: Shape, *, outputs: int = 32, width: int = 64, form: Form | None = None) -> None:
        super().__init__(context_shape)
        self.form = Plain() if form is None else form
        channels, *sides = self.context_shape
        self.standardizer = Standardizer((channels * self.form.width, *sides))
        halvings = max(1, (max(sides) - 1).bit_length() - 3)
        widths = [max(8, width >> (halvings - 1 - place)) for place in range(halvings)]
        self.network = ImageEncoder(self.standardizer.shape, outputs, channels=widths)
        self.averages = nn.Sequential(nn.AdaptiveAvgPool2d(_PARTS), nn.Flatten())
        self._outputs = outputs

    @property
    def size(self) -> int:
        return self.fixed + self._outputs

    @property
    def fixed(self) -> int:
        return self.standardizer.shape[0] * _PARTS**2

    def forward(self, context: Tensor) -> Tensor:
        image = self.standardizer(self._forms(context))
        return torch.cat([tamed(self.averages(image)), self.network(image)], -1)

    def read_data(self, context: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardizer.read_data(self._forms(context))

    def _forms(self, context: Tensor) -> Tensor:
        forms = self.form(shaped(context, self.context_shape))  # (N, channels, rows, columns, width)
        return forms.movedim(-1, 2).flatten(1, 2)


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
    def fixed(self) -> int:
        return self.rows * self.row.fixed

    @property
    def takes_absent(self) -> bool:
        return self.row.takes_absent

    def forward(self, context: Tensor) -> Tensor:
        context = shaped(context, self.context_shape)
        vectors = self.row(context.flatten(0, 1)).unflatten(0, context.shape[:2])
        return torch.cat([vectors[..., : self.row.fixed].flatten(1), vectors[..., self.row.fixed :].flatten(1)], -1)

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
    def fixed(self) -> int:
        return sum(part.fixed for part in self.parts.values())

    @property
    def takes_absent(self) -> bool:
        return any(part.takes_absent for part in self.parts.values())

    def forward(self, context: Mapping[str, Tensor]) -> Tensor:
        parts = [self.parts[entry_key(name)] for name in self.context_shape]
        vectors = [part(context[name]) for part, name in zip(parts, self.context_shape, strict=True)]
        split = [vector.tensor_split((part.fixed,), -1) for part, vector in zip(parts, vectors, strict=True)]
        return torch.cat([*(fixed for fixed, _ in split), *(learned for _, learned in split)], -1)

    def read_data(self, context: Mapping[str, Tensor]) -> Iterator[tuple[Statistic, Tensor]]:
        for name in self.context_shape:
            if context.get(name) is not None:
                yield from self.parts[entry_key(name)].read_data(context[name])


def takes_absent(module: nn.Module) -> bool:
    """Whether to a part of a module rows of NaN are rows that are not there."""
    return any(
        (isinstance(part, Embedding) and part.takes_absent) or (isinstance(part, Standardizer) and part.absent)
        for part in module.modules()
    )


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


def tamed(standardized: Tensor) -> Tensor:
    """Numbers as they are up to five; from there on they grow by their logarithm, smoothly."""
    far = standardized.abs().clamp(min=_FAR) / _FAR
    return standardized.clamp(-_FAR, _FAR) + _FAR * far.log().copysign(standardized)


def shaped(context: Tensor, shape: Shape) -> Tensor:
    """A context that must have one batch dimension before its shape.

    Raises:
        ValueError: it has another shape.
    """
    if context.shape[1:] != torch.Size(shape):
        raise ValueError(f"`context` must have shape (N, {', '.join(map(str, shape))}), got {tuple(context.shape)}")
    return context
