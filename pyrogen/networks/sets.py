r"""Sets of rows as vectors: any number of rows, in any order.

The posterior of parameters given exchangeable rows depends on their empirical distribution and on how many there are.
So rows :math:`x_1, \dots, x_n` become their mean, the logarithm of their scale and that of their number,

.. math::
    \bar x = \frac{1}{n} \sum_i x_i, \qquad
    \frac{1}{2} \log \frac{1 + \sum_i (x_i - \bar x)^2}{n + 1}, \qquad
    \log n ,

beside which stands what a network makes of these, of averages of learned features :math:`\frac{1}{n} \sum_i \phi(x_i)`
and of extremes :math:`\max_i \psi(x_i)` (Zaheer et al. 2017). In conjugate families means and :math:`\log n` are all
that the posterior needs. A row of NaN is absent: a batch holds sets of different sizes.

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

    Rows of NaN are absent and change nothing. All rows share their standardization.

    Args:
        row: Embeds one row: a :class:`VectorEmbedding`, or another set for sets of sets.
        rows: How many rows there are at most.
        width: How many learned features are averaged, and of how many the largest is taken.
        outputs: How many features the network after the pooling has.

    Shape:
        ``(N, rows, *row.context_shape)`` to ``(N, size)``.

    Example:
        >>> from pyrogen.networks.embedding import VectorEmbedding
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
        self.network = MLP(1 + row.fixed + row.size + 2 * width, outputs, hidden=(width,))
        self._outputs = outputs

    @property
    def size(self) -> int:
        return 1 + self.row.fixed + self.row.size + self._outputs

    @property
    def fixed(self) -> int:
        return 1 + 2 * self.row.fixed

    def forward(self, context: Tensor) -> Tensor:
        present = self.present(shaped(context, self.context_shape))  # (N, rows)
        known = torch.where(present.reshape(present.shape + (1,) * (context.dim() - 2)), context, 0)
        vectors = self.row(known.flatten(0, 1)).unflatten(0, present.shape)  # (N, rows, row)
        averaged, largest = self.features(vectors).chunk(2, -1)
        absent, count = ~present.unsqueeze(-1), present.sum(-1, keepdim=True).to(vectors.dtype)
        mean, average = _mean(vectors, absent, count), _mean(averaged, absent, count)
        deviations = (vectors - mean.unsqueeze(1))[..., : self.row.fixed].masked_fill(absent, 0)
        log_scale = 0.5 * ((1 + deviations.square().sum(1)) / (1 + count)).log()
        log_number = (count.clamp(min=0.5) / self.rows).log() / math.log(2 * self.rows)
        largest = largest.masked_fill(absent, -torch.inf).amax(1).masked_fill(count == 0, 0)
        summary = torch.cat([log_number, log_scale, mean], -1)
        return torch.cat([summary, self.network(torch.cat([summary, average, largest], -1))], -1)

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


def _mean(vectors: Tensor, absent: Tensor, count: Tensor) -> Tensor:
    return vectors.masked_fill(absent, 0).sum(1) / count.clamp(min=1)
