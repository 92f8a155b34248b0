"""Embeddings: from a context of any shape to one vector."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import prod

import torch
from torch import Tensor, nn

from pyrogen.arguments import anything, checked, context_shape

from .statistics import ReadsData, Standardizer, Standardizers, Statistic, require_labels


class Labels(ReadsData, nn.Module):
    """Class labels as one-hot vectors.

    Args:
        classes: How many classes there are; labels run from zero.
        name: What errors call them.

    Shape:
        Integers ``batch`` to ``(*batch, classes)``.
    """

    @checked
    def __init__(self, classes: int, *, name: str = "context") -> None:
        super().__init__()
        self.classes, self.name = classes, name
        self.register_buffer("places", torch.arange(classes).to(torch.get_default_dtype()), persistent=False)

    def check(self, labels: Tensor) -> None:
        """Raises a ValueError if a label is out of range."""
        require_labels(labels, self.classes, self.name)

    def read_data(self, labels: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        self.check(labels)
        return iter(())

    def forward(self, labels: Tensor) -> Tensor:
        return (labels.unsqueeze(-1) == self.places).to(self.places.dtype)


class Flatten(ReadsData, nn.Module):
    """A context of one shape, or several in a dict, as one vector: standardised, flattened and concatenated.

    Args:
        shape: The shape of one context, or a dict of them.
        standardize: Which entries of a dict are standardised by moments of the data set; all (or the single context) if
            ``None``.

    Shape:
        ``(*batch, *shape)`` to ``(*batch, size)``; the batch dimensions of several tensors broadcast.
    """

    @checked(shape=context_shape, standardize=anything)
    def __init__(
        self, shape: tuple[int, ...] | dict[str, tuple[int, ...]], *, standardize: Collection[str] | None = None
    ) -> None:
        super().__init__()
        self.shapes = dict(shape) if isinstance(shape, Mapping) else {"": tuple(shape)}
        self.single = not isinstance(shape, Mapping)
        chosen = self.shapes if standardize is None else standardize
        self.standardizers = Standardizers({key: entry for key, entry in self.shapes.items() if key in chosen})

    @property
    def size(self) -> int:
        """How long the vector is."""
        return sum(map(prod, self.shapes.values()))

    def forward(self, context: Tensor | Mapping[str, Tensor]) -> Tensor:
        parts = self.standardizers({"": context} if self.single else context)
        flat = [
            parts[key].reshape(*parts[key].shape[: parts[key].dim() - len(shape)], prod(shape))
            for key, shape in self.shapes.items()
        ]
        if len(flat) == 1:
            return flat[0]
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in flat))
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in flat], -1)

    def read_data(self, context: Tensor | Mapping[str, Tensor]) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardizers.read_data({"": context} if self.single else context)


class Members(ReadsData, nn.Linear):
    """The members of a sequence of vectors, standardised, as vectors of another width.

    Args:
        shape: ``(length, features)``.
        width: Size of the vectors that come out.
        name: What errors call the sequence.

    Shape:
        ``(*batch, length, features)`` to ``(*batch, length, width)``.
    """

    def __init__(self, shape: tuple[int, ...], width: int, *, name: str = "context") -> None:
        super().__init__(shape[1], width)
        self.standardize = Standardizer(shape, name=name)

    def forward(self, sequence: Tensor) -> Tensor:
        return super().forward(self.standardize(sequence))

    def read_data(self, sequence: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardize.read_data(sequence)
