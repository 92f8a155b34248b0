r"""Sets of rows as vectors: any number of rows, in any order.

The posterior of parameters given exchangeable rows depends on their empirical distribution and on how many there are.
So rows :math:`x_1, \dots, x_n` become averages of features, their extremes, and the logarithm of their number,

.. math::
    s = \Big( \frac{1}{n} \sum_i x_i, \; \frac{1}{n} \sum_i \phi(x_i), \; \max_i \psi(x_i), \; \log n \Big) ,

beside which stands what a network makes of all of that (Zaheer et al. 2017). In conjugate families means and
:math:`\log n` are all that the posterior needs. A row of NaN is absent: a batch holds sets of different sizes.

References:
    Zaheer et al. 2017, "Deep sets", https://arxiv.org/abs/1703.06114
    Wagstaff et al. 2022, "Universal approximation of functions on sets", https://jmlr.org/papers/v23/21-0730.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pyrogen.arguments import checked

from .embedding import Embedding, read_rows, shaped
from .mlp import MLP
from .statistics import Statistic, require_rows


class SetEmbedding(Embedding):
    """Rows whose order means nothing, up to a largest number of them, as a vector; see :mod:`pyrogen.networks.sets`.

    Rows of NaN are absent and change nothing. All rows share their standardisation.

    Args:
        row: Embeds one row: a :class:`VectorEmbedding`, or another set for sets of sets.
        rows: How many rows there are at most.
        width: How many learned features are averaged, and of how many the largest is taken.
        outputs: How many features the network after the pooling has.

    Shape:
        ``(N, rows, *row.context_shape)`` to ``(N, size)``.

    Example:
        >>> embedding = SetEmbedding(VectorEmbedding((3,)), rows=5)
        >>> some = torch.randn(1, 5, 3)
        >>> some[:, 2:] = torch.nan
        >>> torch.allclose(embedding(some), embedding(some[:, [3, 1, 4, 0, 2]]))
        True
    """

    takes_absent = True

    @checked
    def __init__(self, row: Embedding, *, rows: int, width: int = 64, outputs: int = 32) -> None:
        super().__init__((rows, *row.context_shape))
        self.row, self.rows = row, rows
        self.features = MLP(row.size, 2 * width, hidden=(width,))
        self.pooled = MLP(row.size + 2 * width + 1, outputs, hidden=(width,))
        self._size = row.size + 1 + outputs

    @property
    def size(self) -> int:
        return self._size

    def forward(self, context: Tensor) -> Tensor:
        present = self.present(shaped(context, self.context_shape))  # (N, rows)
        missing = ~present.unsqueeze(-1)
        known = torch.where(present.reshape(present.shape + (1,) * (context.dim() - 2)), context, 0)
        vectors = self.row(known.flatten(0, 1)).unflatten(0, present.shape)  # (N, rows, row)
        averaged, largest = self.features(vectors).chunk(2, -1)
        count = present.sum(-1, keepdim=True).to(vectors.dtype)
        mean = torch.cat([vectors, averaged], -1).masked_fill(missing, 0).sum(1) / count.clamp(min=1)
        largest = largest.masked_fill(missing, -torch.inf).amax(1).masked_fill(count == 0, 0)
        number = (count.clamp(min=0.5) / self.rows).log() / math.log(2 * self.rows)
        pooled = torch.cat([mean, largest, number], -1)
        return torch.cat([mean[:, : self.row.size], number, self.pooled(pooled)], -1)

    def present(self, context: Tensor) -> Tensor:
        """Which rows are there, ``(N, rows)``: those of which not every element is NaN."""
        return ~context.flatten(2).isnan().all(-1) if context.dim() > 2 else ~context.isnan()

    def read_data(self, context: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        present = self.present(shaped(context, self.context_shape))
        if not self.row.takes_absent:
            elements = context.reshape(*present.shape, -1)
            demand = "`context` must hold finite numbers in each row of a set, or NaN in all of a row that is absent"
            require_rows(elements.isfinite() | ~present.unsqueeze(-1), elements, demand)
        return read_rows(self.row, context[present], present.nonzero()[:, 0])
