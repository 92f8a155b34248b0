"""Euclidean distances between all pairs of two samples, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ENTRIES = 2_000_000


def distance_blocks(x: Tensor, y: Tensor, *, entries: int = BLOCK_ENTRIES) -> Iterator[tuple[slice, Tensor]]:
    """The distances of some rows of ``x`` to all rows of ``y``, block after block.

    A block holds about ``entries`` numbers however many rows there are, so memory is linear in the samples. Distances
    are computed in double precision, and are of the dtype of ``x``.

    Args:
        x: Points.
        y: Points.
        entries: How many distances a block may hold.

    Shape:
        ``x`` is ``(m, d)`` and ``y`` ``(n, d)``; a block of rows ``s`` is ``(len(s), n)``.

    Raises:
        ValueError: the points are not rows of equal length.
    """
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"`x` and `y` must have shapes (m, d) and (n, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    # cdist multiplies matrices, which cancels badly far from the origin, so that single precision leaves nothing of
    # short distances between far points. A median, for no outlier moves it.
    dtype, x, y = x.dtype, x.double(), y.double()
    center = y.median(0).values if len(y) else 0.0
    x, y = x - center, y - center
    rows = max(1, entries // max(1, len(y)))
    for start in range(0, len(x), rows):
        block = slice(start, min(start + rows, len(x)))
        yield block, torch.cdist(x[block], y).to(dtype)


def median_distance(x: Tensor, *, rows: int = 1000, generator: torch.Generator | None = None) -> Tensor:
    """The median distance between two different points of a sample.

    Where most pairs coincide, as those of counts and labels may, it is the median of the distances of the others.

    Args:
        x: Points, of shape ``(n, d)``.
        rows: The median is taken among at most so many points, chosen at random.
        generator: Of the choice.

    Raises:
        ValueError: there are fewer than two points, or all coincide.
    """
    if len(x) < 2:
        raise ValueError(f"`x` must hold at least two points, got {len(x)}")
    if len(x) > rows:
        x = x[torch.randperm(len(x), generator=generator)[:rows].to(x.device)]
    distances = torch.nn.functional.pdist(x.double())
    median = distances.median().to(x.dtype)
    apart = distances[distances > 0]
    if median == 0 and len(apart):
        median = apart.median().to(x.dtype)
    if not median > 0:
        raise ValueError(f"the median distance of `x` must be positive, got {float(median)}: all points coincide")
    return median


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """The squared distances of all pairs, by one product of matrices, whose gradient is another.

    Rounding leaves an error of about ``eps`` times the squared distance from the centre of ``y``.

    Args:
        x: Points.
        y: Points.

    Shape:
        ``(m, d)`` and ``(n, d)`` to ``(m, n)``.
    """
    center = y.detach().mean(0)
    x, y = x - center, y - center
    return (x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
