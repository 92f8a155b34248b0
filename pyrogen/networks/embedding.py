"""Embeddings: from a context of any shape to one vector."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn


class Labels(nn.Module):
    """Class labels as one-hot vectors.

    Args:
        classes: How many classes there are; labels run from zero.

    Shape:
        Integers ``batch`` to ``(*batch, classes)``.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("places", torch.arange(classes).to(torch.get_default_dtype()), persistent=False)

    def check(self, labels: Tensor) -> None:
        """Raises a ValueError if a label is out of range."""
        if labels.is_floating_point() or ((labels < 0) | (labels >= self.classes)).any():
            raise ValueError(f"`context` must hold integer labels from 0 to {self.classes - 1}, got {labels}")

    def forward(self, labels: Tensor) -> Tensor:
        return (labels.unsqueeze(-1) == self.places).to(self.places.dtype)


class Flatten(nn.Module):
    """A context of one shape, or several in a dict, as one vector: flattened and concatenated.

    Args:
        shape: The shape of one context, or a dict of them.

    Shape:
        ``(*batch, *shape)`` to ``(*batch, size)``; the batch dimensions of several tensors broadcast.
    """

    def __init__(self, shape: tuple[int, ...] | dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = dict(shape) if isinstance(shape, Mapping) else {"": tuple(shape)}
        self.single = not isinstance(shape, Mapping)

    @property
    def size(self) -> int:
        """How long the vector is."""
        return sum(map(prod, self.shapes.values()))

    def forward(self, context: Tensor | Mapping[str, Tensor]) -> Tensor:
        parts = {"": context} if self.single else context
        flat = [
            parts[key].reshape(*parts[key].shape[: parts[key].dim() - len(shape)], prod(shape))
            for key, shape in self.shapes.items()
        ]
        if len(flat) == 1:
            return flat[0]
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in flat))
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in flat], -1)
