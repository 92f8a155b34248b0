"""Rows of a table, with gaps or without, as vectors that networks take well."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked


class ColumnFeatures(nn.Module):
    """Rows of columns of different kinds as vectors of numbers of order one.

    Counts enter by ``log(1 + count)``, categories one-hot, all other columns as they are: real columns should come
    standardized. Where NaN marks missing entries, they enter as zeros, beside flags of what was observed.

    Args:
        columns: How many columns there are.
        counts: Which of them hold counts.
        categories: Which of them hold labels, with how many labels there are.
        flags: Whether entries may be missing, so that flags of the observed ones are added.

    Shape:
        ``(*batch, columns)`` to ``(*batch, size)``.
    """

    @checked
    def __init__(
        self,
        columns: int,
        *,
        counts: Collection[int] = (),
        categories: Mapping[int, int] | None = None,
        flags: bool = False,
    ) -> None:
        super().__init__()
        self.categories = dict(categories or {})
        self.counts = sorted(counts)
        self.plain = [column for column in range(columns) if column not in {*self.counts, *self.categories}]
        self.flags = flags
        self.size = len(self.plain) + len(self.counts) + sum(self.categories.values()) + columns * flags

    def forward(self, x: Tensor) -> Tensor:
        observed = ~x.isnan()
        x = torch.where(observed, x, 0.0) if self.flags else x
        parts = [x[..., self.plain], x[..., self.counts].log1p()]
        for column, symbols in self.categories.items():
            one_hot = x[..., column, None] == torch.arange(symbols, device=x.device)
            parts.append((one_hot & observed[..., column, None]).to(x.dtype))
        return torch.cat([*parts, observed.to(x.dtype)] if self.flags else parts, -1)


class GapFeatures(nn.Module):
    """Events with gaps as vectors: entries with zeros where NaN marks them as missing, and flags of the observed ones.

    Args:
        event_dim: How many dimensions an event has.

    Shape:
        ``(*batch, *event)`` to ``(*batch, 2 * elements)``.
    """

    def __init__(self, event_dim: int) -> None:
        super().__init__()
        self.event_dim = event_dim

    def forward(self, x: Tensor) -> Tensor:
        observed = ~x.isnan()
        both = torch.stack([torch.where(observed, x, 0.0), observed.to(x.dtype)], x.dim() - self.event_dim)
        return both.flatten(x.dim() - self.event_dim)


class Elementwise(nn.Module):
    """A straight line for each element.

    Args:
        shape: Shape of the elements.
        sign: That of all slopes; they start at zero if ``None``.
    """

    def __init__(self, shape: tuple[int, ...], sign: int | None = None) -> None:
        super().__init__()
        self.sign = sign
        self.slope = nn.Parameter(torch.zeros(shape))
        self.start = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        slope = self.slope if self.sign is None else self.sign * nn.functional.softplus(self.slope)
        return self.start + slope * x
