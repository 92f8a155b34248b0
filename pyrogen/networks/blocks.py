"""Where the weights of masked networks are not zero: a staircase of blocks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MatrixBlock(NamedTuple):
    """A range of rows, and the range of columns outside which they are zero."""

    rows: slice
    columns: slice


Blocks = tuple[MatrixBlock, ...]


def staircase(mask: Tensor, steps: int) -> Blocks:
    """The blocks that cover what is not masked, the rows cut into ``steps`` ranges of nearly equal length."""
    cuts = [len(mask) * step // steps for step in range(steps + 1)]
    blocks = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        used = mask[start:stop].any(0).nonzero().flatten().tolist() or [0]
        blocks.append(MatrixBlock(slice(start, stop), slice(used[0], used[-1] + 1)))
    return tuple(blocks)


def whole(rows: int, columns: int) -> Blocks:
    """One block that covers all."""
    return (MatrixBlock(slice(0, rows), slice(0, columns)),)


def upright(blocks: Blocks, width: int) -> Blocks:
    """Blocks that cover the same by ranges of columns: all columns once, each with the rows that use it."""
    cuts = sorted({0, width, *(edge for block in blocks for edge in (block.columns.start, block.columns.stop))})
    found = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        using = [rows for rows, columns in blocks if columns.start < stop and start < columns.stop]
        rows = slice(using[0].start, using[-1].stop) if using else slice(0, 0)
        found.append(MatrixBlock(rows, slice(start, stop)))
    return tuple(found)
