r"""Rows of a table as vectors that networks give as well as take: an encoding that can be undone.

Numbers and counts become *normal scores*: of a column with the distribution function :math:`F`, estimated from the data
set, :math:`\Phi^{-1}(F(x))`, whose distribution is standard normal whatever that of the column. Several modes, skewness
and heavy tails are then the encoding's business, and what a network has to learn is how columns depend on each other.
Labels become one-hot.

References:
    van der Waerden 1952, "Order tests for the two-sample problem and their power" (normal scores),
    https://doi.org/10.1016/S1385-7258(52)50063-5
    Jang, Gu and Poole 2017, "Categorical reparameterization with Gumbel-softmax", https://arxiv.org/abs/1611.01144
    Xu, Skoularidou, Cuesta-Infante and Veeramachaneni 2019, "Modeling tabular data using conditional GAN" (whose
    normalization by the components of a mixture normal scores replace), https://arxiv.org/abs/1907.00503
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.special import log_ndtr, ndtri

from pyrogen.arguments import checked, count, positive

from .statistics import Moments, ReadsData, Statistic, require_finite

_KNOTS = 200


class NormalScores(Statistic, ReadsData, nn.Module):
    """Numbers as standard normal ones, column by column, and back; the identity, within ±2.8, until it is learned.

    Between 200 quantiles of the data set the map is linear; the outermost are the smallest and the largest number,
    which scores beyond ±2.8 become as well: a positive column stays positive. A number that is there often has the
    score in the middle of its range, all scores of which become that number.

    Args:
        columns: How many columns there are.
        name: What errors call them.

    Shape:
        ``(*batch, columns)`` to the same.
    """

    @checked(columns=count)
    def __init__(self, columns: int, *, name: str = "x") -> None:
        super().__init__()
        self.columns, self.name = columns, name
        levels = ndtri((torch.arange(_KNOTS, dtype=torch.float64) + 0.5) / _KNOTS).to(torch.get_default_dtype())
        self.register_buffer("levels", levels)
        self.register_buffer("quantiles", levels.repeat(columns, 1))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.quantiles.dtype)
        first, last = (
            _line(x, self.quantiles, self.levels.expand_as(self.quantiles), right) for right in (False, True)
        )
        return (first + last) / 2

    def inverse(self, z: Tensor) -> Tensor:
        """The numbers that scores stand for."""
        return _line(z, self.levels.expand_as(self.quantiles), self.quantiles, False)

    def read_data(self, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        require_finite(x, self.name)
        yield self, x.reshape(-1, self.columns)

    @property
    def learned(self) -> bool:
        return bool(self.initialised)

    def moments(self) -> Moments:
        return KeptRows()

    def learn(self, moments: KeptRows) -> None:
        shares = (torch.arange(_KNOTS, dtype=torch.float64, device=moments.rows.device) + 0.5) / _KNOTS
        for quantiles, column in zip(self.quantiles, moments.rows.T, strict=True):
            quantiles.copy_(torch.cat([column.min()[None], torch.quantile(column, shares[1:-1]), column.max()[None]]))
        self.initialised.fill_(True)

    def reset(self, *, learned: bool = False) -> None:
        self.quantiles.copy_(self.levels.expand_as(self.quantiles))
        self.initialised.fill_(learned)


class TableEncoding(ReadsData, nn.Module):
    """Rows of columns of different kinds as vectors, and back: normal scores of numbers and counts, labels one-hot.

    Args:
        columns: How many columns there are.
        counts: Which of them hold counts.
        binary: Which of them hold zeros and ones.
        categories: Which of them hold labels, with how many labels there are.

    Attributes:
        size: How long the vectors are.
        labels: How many labels there are, by column.
        counts: Columns of counts.

    Raises:
        ValueError: a column is named twice or does not exist.

    Shape:
        ``(*batch, columns)`` to ``(*batch, size)``.

    Example:
        >>> encoding = TableEncoding(3, categories={1: 4})
        >>> encoding(torch.tensor([[0.5, 2.0, -1.0]]))
        tensor([[ 0.5000, -1.0000,  0.0000,  0.0000,  1.0000,  0.0000]])
    """

    @checked
    def __init__(
        self,
        columns: int,
        *,
        counts: Collection[int] = (),
        binary: Collection[int] = (),
        categories: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        named = [*counts, *binary, *(categories or {})]
        if len(set(named)) < len(named) or not all(0 <= column < columns for column in named):
            raise ValueError(f"columns must be named once and lie in 0 … {columns - 1}, got {named}")
        self.columns, self.counts = columns, sorted(counts)
        self.labels = dict(sorted({**dict.fromkeys(binary, 2), **(categories or {})}.items()))
        self.ordered = [column for column in range(columns) if column not in self.labels]
        self.scores = NormalScores(len(self.ordered))
        self.size = len(self.ordered) + sum(self.labels.values())
        places = [*self.ordered, *self.labels]
        self.register_buffer(
            "whole", torch.tensor([column in self.counts for column in self.ordered]), persistent=False
        )
        self.register_buffer("order", torch.tensor(places).argsort(), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        scores = self.scores(rows[..., self.ordered])
        one_hot = [
            (rows[..., column, None] == torch.arange(symbols, device=rows.device)).to(scores.dtype)
            for column, symbols in self.labels.items()
        ]
        return torch.cat([scores, *one_hot], -1)

    def decode(self, features: Tensor) -> Tensor:
        """Valid rows: numbers of scores, counts rounded, of each label the largest entry."""
        scores, *labels = features.split([len(self.ordered), *self.labels.values()], -1)
        numbers = self.scores.inverse(scores)
        numbers = torch.where(self.whole, numbers.round().clamp(min=0), numbers)
        chosen = [label.argmax(-1, keepdim=True).to(features.dtype) for label in labels]
        return torch.cat([numbers, *chosen], -1)[..., self.order]

    def read_data(self, rows: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        if self.ordered:
            yield from self.scores.read_data(rows[..., self.ordered])


class TableOutput(nn.Module):
    r"""A network that gives rows in their encoding, the one-hot labels relaxed.

    Labels are drawn by the Gumbel-max trick, whose noise is part of the network's input: standard normal numbers
    :math:`\varepsilon` behind those of the network, :math:`g = -\log(-\log \Phi(\varepsilon))`. The largest entry of
    :math:`\operatorname{softmax}((a + g) / \tau)` has the probabilities of the logits :math:`a`.

    Args:
        network: Takes the first numbers of the noise, and the vector of contexts where there is one; gives
            ``encoding.size`` numbers.
        encoding: That of the rows.
        temperature: :math:`\tau`.

    Attributes:
        extra: How many numbers of noise it takes besides those of the network.

    Shape:
        ``(N, noise + extra)`` to ``(N, size)``.
    """

    def __init__(self, network: nn.Module, encoding: TableEncoding, *, temperature: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.labels = list(encoding.labels.values())
        self.extra = sum(self.labels)
        self.temperature = positive(temperature, "temperature")

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        z, noise = z.split([z.shape[-1] - self.extra, self.extra], -1)
        output = self.network(z) if context is None else self.network(z, context)
        numbers, logits = output.split([output.shape[-1] - self.extra, self.extra], -1)
        perturbed = (logits - (-log_ndtr(noise)).log()) / self.temperature
        return torch.cat([numbers, *(part.softmax(-1) for part in perturbed.split(self.labels, -1))], -1)


class KeptRows(Moments):
    """All rows of a data set."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.zeros(0, 0, dtype=torch.float64)

    def merge(self, other: Moments) -> None:
        rows = [part.rows for part in (self, other) if part.count]
        super().merge(other)
        self.rows = torch.cat(rows) if rows else self.rows

    def _read(self, rows: Tensor) -> None:
        self.rows = rows
        super()._read(rows)


def _line(x: Tensor, places: Tensor, values: Tensor, right: bool) -> Tensor:
    """Values at x by straight lines between places; beyond them the first and the last value.

    Args:
        x: ``(*batch, columns)``.
        places: In increasing order, ``(columns, knots)``; where several are equal, the first or the last counts.
        values: At the places, of the same shape.
        right: Whether the last counts.
    """
    rows = x.reshape(-1, x.shape[-1]).T.contiguous()  # (columns, N)
    upper = torch.searchsorted(places.contiguous(), rows, right=right).clamp(1, places.shape[-1] - 1)
    low, high = places.gather(1, upper - 1), places.gather(1, upper)
    below, above = values.gather(1, upper - 1), values.gather(1, upper)
    width = high - low
    share = torch.where(width > 0, (rows - low) / torch.where(width > 0, width, 1.0), 0.5)
    return torch.lerp(below, above, share.clamp(0, 1)).T.reshape(x.shape)
