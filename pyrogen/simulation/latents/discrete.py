r"""Discrete sites: a symbol for each of their numbers, one after the other.

A vector of integers :math:`d` is scored as a sequence, :math:`q(d \mid x) = \prod_i q(d_i \mid d_{<i}, x)`. Each number
has its own alphabet, so that the support is exact. Where a site has many values or infinitely many, a symbol stands for
a *cell* of neighbouring integers, which are equally likely within it:

- one integer each, where draws of the prior lie (or several, where these spread widely);
- beyond, cells of growing width, and after the last a geometric tail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.autograd import is_functional
from pyrogen.numerics.supports import Packed, element_of, point_inside
from pyrogen.numerics.values import require_value

from ..joint.variable import Variable

_CELLS = 192
"""How many cells there are where nearly all draws of the prior lie."""
_FEW = 32
"""Up to so many symbols a network gets each as a number of its own."""

_INTERVAL = type(constraints.integer_interval(0, 1))
_ABOVE = type(constraints.nonnegative_integer)


class Alphabets(nn.Module):
    """Vectors of integers as symbols, and back.

    Args:
        variables: The discrete sites.
        draws: Draws of their prior by site, ``(n, *shape)``.

    Raises:
        ValueError: the support of a site is not known to be a range of integers, or of one-hot vectors.
    """

    def __init__(self, variables: Sequence[Variable], draws: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.support = Packed([(variable.shape, variable.support) for variable in variables])
        self.one_hot = [element_of(variable.support) is constraints.one_hot for variable in variables]
        self.shapes = [variable.shape for variable in variables]
        starts: list[list[int]] = []
        tails: list[int] = []
        for variable in variables:
            for cells, tail in _cells_of(variable, draws[variable.name]):
                starts.append(cells)
                tails.append(tail)
        counts = [len(cells) - 1 for cells in starts]  # the last is where the last cell ends
        table = torch.full((len(starts), max(counts) + 1), torch.iinfo(torch.int64).max)
        for row, cells in enumerate(starts):
            table[row, : len(cells)] = torch.tensor(cells)
        self.register_buffer("starts", table)
        self.register_buffer("counts", torch.tensor(counts))
        self.register_buffer("tails", torch.tensor(tails))  # the mean of a geometric tail; zero for none

    @property
    def length(self) -> int:
        """How many symbols there are."""
        return len(self.counts)

    @property
    def symbols(self) -> int:
        """The size of the largest alphabet, at least two."""
        return max(2, self.starts.shape[1] - 1)

    @property
    def allowed(self) -> Tensor:
        """Which symbols each place may have, ``(length, symbols)``."""
        return torch.arange(self.symbols, device=self.counts.device) < self.counts.unsqueeze(1)

    @property
    def features(self) -> int:
        """How many numbers :meth:`described` gives."""
        return sum(count if count <= _FEW else 1 for count in self.counts.tolist())

    def encode(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The symbols of vectors of the support, ``(*batch, length)``, and the log-probabilities given their cells."""
        integers = self._integers(numbers)
        symbols = torch.minimum(self._last_at_most(integers).clamp(min=0), self.counts - 1)
        first, width = self._cell(symbols)
        within, (_, log_end, log_ratio) = -width.log(), self._tail(numbers.dtype)
        rest = log_end + (integers - first).to(numbers.dtype) * log_ratio
        return symbols, torch.where(self._is_tail(symbols), rest, within.to(numbers.dtype))

    def decode(self, symbols: Tensor, like: Tensor) -> Tensor:
        """Vectors of which the cells are known, each integer drawn within its own."""
        first, width = self._cell(symbols)
        uniform = torch.rand(symbols.shape, dtype=torch.float64, device=symbols.device)
        inside = torch.minimum((uniform * width).floor(), width - 1)
        tail, _, log_ratio = self._tail(torch.float64)
        beyond = ((1 - uniform).log() / torch.where(tail, log_ratio, -1.0)).floor()
        integers = first + torch.where(self._is_tail(symbols), beyond, inside).long()
        return self._numbers(integers, like.dtype)

    def described(self, numbers: Tensor) -> Tensor:
        """Vectors of the support for a network, ``(*batch, features)``: one-hot, or as they are where many."""
        integers, (symbols, _) = self._integers(numbers), self.encode(numbers)
        parts = []
        for place, count in enumerate(self.counts.tolist()):
            if count > _FEW:
                parts.append(integers[..., place, None].to(numbers.dtype))
            else:
                alphabet = torch.arange(count, device=numbers.device)
                parts.append((symbols[..., place, None] == alphabet).to(numbers.dtype))
        return torch.cat(parts, -1)

    def _last_at_most(self, integers: Tensor) -> Tensor:
        """The last cell of each alphabet that begins at most at an integer."""
        if is_functional((integers,)):  # where a search would copy, and warn
            return (self.starts <= integers.unsqueeze(-1)).sum(-1) - 1
        rows = integers.reshape(-1, self.length).T.contiguous()
        return (torch.searchsorted(self.starts, rows, right=True) - 1).T.reshape(integers.shape)

    def _integers(self, numbers: Tensor) -> Tensor:
        parts = []
        for part, shape, hot in zip(numbers.split(self.support.sizes, -1), self.shapes, self.one_hot, strict=True):
            parts.append(part.unflatten(-1, (-1, shape[-1])).argmax(-1) if hot else part.long())
        return torch.cat(parts, -1)

    def _numbers(self, integers: Tensor, dtype: torch.dtype) -> Tensor:
        counts = [math.prod(shape[:-1] if hot else shape) for shape, hot in zip(self.shapes, self.one_hot, strict=True)]
        parts = []
        for part, shape, hot in zip(integers.split(counts, -1), self.shapes, self.one_hot, strict=True):
            alphabet = torch.arange(shape[-1], device=part.device) if hot else None
            parts.append((part.unsqueeze(-1) == alphabet).flatten(-2) if hot else part)
        return torch.cat([part.to(dtype) for part in parts], -1)

    def _cell(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Where cells begin, and how wide they are (in double precision; one where a tail begins)."""
        places = torch.arange(self.length, device=symbols.device)
        first, after = self.starts[places, symbols], self.starts[places, symbols + 1]
        return first, torch.where(self._is_tail(symbols), 1, after - first).double()

    def _is_tail(self, symbols: Tensor) -> Tensor:
        return (symbols == self.counts - 1) & (self.tails > 0)

    def _tail(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Where there is a tail, and the logarithms of the probabilities that it ends, or goes on, at an integer."""
        mean = self.tails.to(dtype)
        return self.tails > 0, -(mean + 1).log(), (mean / (mean + 1)).log()


class DiscreteSites(DistributionModule):
    """The distribution of vectors of integers out of one of symbols.

    Args:
        symbols: The distribution of symbols, ``(length,)``.
        alphabets: What symbols mean.
    """

    def __init__(self, symbols: DistributionModule, alphabets: Alphabets) -> None:
        super().__init__((sum(alphabets.support.sizes),), symbols.context_shape)
        self.symbols, self.alphabets = symbols, alphabets

    def forward(self, context: Context = None) -> IntegerVectors:
        return IntegerVectors(self.symbols(context), self.alphabets, next(self.symbols.parameters()))

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.symbols.read_data(self.alphabets.encode(x)[0].to(x.dtype), context)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.symbols.read_context(context)


class IntegerVectors(PyrogenDistribution):
    """The distribution of a :class:`DiscreteSites` for one context.

    Args:
        symbols: The distribution of the symbols.
        alphabets: What symbols mean.
        like: A tensor of the dtype of draws.
    """

    def __init__(self, symbols: PyrogenDistribution, alphabets: Alphabets, like: Tensor) -> None:
        self.symbols, self.alphabets, self.like = symbols, alphabets, like
        super().__init__(symbols.batch_shape, torch.Size((sum(alphabets.support.sizes),)))

    @property
    def support(self) -> constraints.Constraint:
        return self.alphabets.support

    def _expanded(self, batch_shape: torch.Size) -> IntegerVectors:
        return IntegerVectors(self.symbols.expand(batch_shape), self.alphabets, self.like)

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.alphabets.decode(self.symbols.sample(torch.Size(sample_shape)).long(), self.like)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        inside = self.support.check(value)
        safe = torch.where(inside.unsqueeze(-1), value, point_inside(self.support, value))
        symbols, within = self.alphabets.encode(safe)
        score = self.symbols.log_prob(symbols.to(value.dtype)) + within.sum(-1)
        return torch.where(inside, score, torch.where(value.isnan().any(-1), torch.nan, -torch.inf).to(score))


def _cells_of(variable: Variable, draws: Tensor) -> Iterator[tuple[list[int], int]]:
    """For each number of a site where its cells begin, at last where they end, and the mean of the tail, if any."""
    support, shape = element_of(variable.support), variable.shape
    if support is constraints.one_hot:
        yield from [([*range(shape[-1] + 1)], 0)] * math.prod(shape[:-1])
        return
    if support is constraints.boolean:
        yield from [([0, 1, 2], 0)] * math.prod(shape)
        return
    if not isinstance(support, _INTERVAL | _ABOVE):
        raise ValueError(
            f"`joint` must have discrete latent sites of integers from some least one on, or of one-hot vectors, got "
            f"site {variable.name!r} within {variable.support}"
        )
    low = torch.as_tensor(support.lower_bound).expand(shape).reshape(-1).long().tolist()
    bounded = isinstance(support, _INTERVAL)
    high = torch.as_tensor(support.upper_bound).expand(shape).reshape(-1).long().tolist() if bounded else None
    columns = draws.reshape(len(draws), -1).double()
    least, first, last, most = columns.quantile(torch.tensor([0.0, 0.005, 0.995, 1.0]).double(), 0).long().tolist()
    for place, lowest in enumerate(low):
        highest = None if high is None else high[place]
        yield _cells(lowest, highest, (first[place], last[place]), (least[place], most[place]))


def _cells(low: int, high: int | None, inner: tuple[int, int], outer: tuple[int, int]) -> tuple[list[int], int]:
    """The cells of integers from ``low`` to ``high``.

    Args:
        low: The least integer.
        high: The largest; ``None`` where there is none.
        inner: Between which integers nearly all draws lie.
        outer: Between which all of them do.
    """
    if high is not None and high - low < _CELLS:
        return [*range(low, high + 2)], 0
    margin = (inner[1] - inner[0]) // 2 + 2
    first, last = max(low, inner[0] - margin), inner[1] + margin
    last = last if high is None else min(last, high)
    width = -(-(last - first + 1) // _CELLS)
    starts = [*range(first, last + 1, width)]
    step = width
    while starts[0] > low:
        starts.insert(0, max(low, starts[0] - step))
        step *= 2
    above, step = starts[-1] + width, width
    end = outer[1] + margin if high is None else high
    while above <= end:
        step *= 2
        starts.append(above)
        above += step
    if high is None:
        return [*starts, above, above + 1], max(step, margin)
    return [*starts, high + 1], 0
