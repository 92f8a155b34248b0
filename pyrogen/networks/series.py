"""Long series as vectors, by convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .embedding import Embedding, Shape, shaped, tamed
from .forms import Form, Plain
from .statistics import Standardizer, Statistic

_LAST = 8
"""Convolutions halve a series until it is at most so long."""
_DIRECT = 512
"""Of up to so many numbers a series is seen whole as well."""
_PARTS = 16
"""Over so many parts a series is averaged."""


class SequenceEmbedding(Embedding):
    """A series of any length as a vector: convolutions that halve it, and averages of what they find on the way.

    The end of the convolutions is taken by places, so that position counts; averages over all places see what a
    series is like wherever it happens. Series that are not too long are also seen whole. Averages of the series itself,
    over sixteen parts, stand beside.

    Args:
        context_shape: ``(length,)`` or ``(length, features)``.
        outputs: How many features the convolutions give.
        width: Channels of the convolutions.
        form: What is taken of each number; if ``None`` the number itself.

    Example:
        >>> SequenceEmbedding((100, 2))(torch.zeros(5, 100, 2)).shape
        torch.Size([5, 64])
    """

    @checked
    def __init__(self, context_shape: Shape, *, outputs: int = 32, width: int = 32, form: Form | None = None) -> None:
        super().__init__(context_shape)
        self.form = Plain() if form is None else form
        length, features = self.context_shape[0], prod(self.context_shape[1:]) * self.form.width
        self.standardizer = Standardizer((length, features))
        self.convolutions, channels, pooled = nn.ModuleList(), features, 0
        while length > _LAST or not self.convolutions:
            self.convolutions.append(nn.Conv1d(channels, width, 5, stride=2, padding=2))
            length, channels, pooled = (length + 1) // 2, width, pooled + width
        numbers = prod(self.standardizer.shape)
        self.direct = nn.Linear(numbers, width) if numbers <= _DIRECT else None
        joined = pooled + length * width + width * (self.direct is not None)
        self.last = nn.Sequential(nn.Linear(joined, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, outputs))
        self.averages = nn.Sequential(nn.AdaptiveAvgPool1d(_PARTS), nn.Flatten())
        self._outputs = outputs

    @property
    def size(self) -> int:
        return self.fixed + self._outputs

    @property
    def fixed(self) -> int:
        return _PARTS * self.standardizer.shape[1]

    def forward(self, context: Tensor) -> Tensor:
        series = self.standardizer(self._series(context))
        found = [] if self.direct is None else [self.direct(series.flatten(1)).relu()]
        places = series.transpose(1, 2)  # (N, features, length)
        averages = tamed(self.averages(places))
        for convolution in self.convolutions:
            places = convolution(places).relu()
            found.append(places.mean(-1))
        return torch.cat([averages, self.last(torch.cat([*found, places.flatten(1)], -1))], -1)

    def read_data(self, context: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardizer.read_data(self._series(context))

    def _series(self, context: Tensor) -> Tensor:
        return self.form(shaped(context, self.context_shape)).reshape(len(context), *self.standardizer.shape)
