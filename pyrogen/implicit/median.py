"""The median distance between data, learned from the data set before training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.networks.statistics import Moments, Statistic
from pyrogen.numerics.pairwise import median_distance

_KEPT = 1000


class SampledRows(Moments):
    """A thousand rows chosen at random from all, whatever their order; those of the smallest random numbers.

    The choice is the same at every reading of the same data, and leaves torch's generator alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = self._numbers = torch.zeros(0)

    def add(self, rows: Tensor) -> None:
        part = SampledRows()
        part.count, part.rows = len(rows), rows.detach()
        part._numbers = torch.rand(len(rows), generator=torch.Generator().manual_seed(self.count))
        self.merge(part)

    def merge(self, other: SampledRows) -> None:
        if not other.count:
            return
        self.count += other.count
        rows = torch.cat([self.rows, other.rows]) if len(self.rows) else other.rows
        numbers = torch.cat([self._numbers, other._numbers])
        kept = numbers.argsort()[:_KEPT]
        self.rows, self._numbers = rows[kept.to(rows.device)], numbers[kept]


class MedianDistance(Statistic, nn.Module):
    """The median distance between two different data; one until it is learned.

    Raises:
        ValueError: when learned: all data coincide, or there are fewer than two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("distance", torch.ones(()))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    @property
    def learned(self) -> bool:
        return bool(self.initialised)

    def moments(self) -> SampledRows:
        return SampledRows()

    def learn(self, moments: SampledRows) -> None:
        try:
            self.distance.copy_(median_distance(moments.rows))
        except ValueError as error:
            raise ValueError(
                f"`kernel` must have a `bandwidth`, for it cannot be fitted to the data: {error}"
            ) from None
        self.initialised.fill_(True)

    def reset(self, *, learned: bool = False) -> None:
        self.distance.fill_(1)
        self.initialised.fill_(learned)
