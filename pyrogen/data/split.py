"""Splitting data into parts that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyrogen.arrays import takes_arrays


@takes_arrays
def split(*tensors: Tensor, sizes: Sequence[int | float], seed: int) -> list[tuple[Tensor, ...]]:
    """Random parts of tensors of equal length, the same rows of each.

    Args:
        tensors: Rows first; arrays and tables become tensors.
        sizes: How many rows each part has: numbers of rows, or fractions of all. Fractions that add up to one take
            every row; rows left over are left out.
        seed: Of the order.

    Returns:
        For each size, a tuple with that part of every tensor.

    Raises:
        ValueError: there are no tensors or sizes, lengths differ, or the parts need more rows than there are.

    Example:
        >>> x, y = torch.arange(10), torch.arange(10)
        >>> (x_train, y_train), (x_test, y_test) = split(x, y, sizes=(0.8, 0.2), seed=0)
        >>> len(x_train), len(x_test), torch.equal(x_train, y_train)
        (8, 2, True)
    """
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) != 1:
        raise ValueError(f"`tensors` must have equal lengths, got {sorted(lengths)}")
    total = lengths.pop()
    counts = _counts(sizes, total)
    if not counts or sum(counts) > total or min(counts) < 0:
        raise ValueError(f"`sizes` must add up to at most {total} rows, got {counts}")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    parts = order[: sum(counts)].split(counts)
    return [tuple(tensor[part.to(tensor.device)] for tensor in tensors) for part in parts]


def _counts(sizes: Sequence[int | float], total: int) -> list[int]:
    """Rows of each part. The ends of parts are rounded, not their lengths: rounded thirds of two rows need three."""
    counts, end = [], 0.0
    for size in sizes:
        start, end = end, end + (size * total if isinstance(size, float) else size)
        counts.append(round(end) - round(start))
    return counts
