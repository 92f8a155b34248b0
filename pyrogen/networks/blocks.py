"""Matrix products with matrices that are zero outside a staircase of blocks, as those of masked networks are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


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


def product(first: Tensor, second: Tensor, wide: bool) -> Tensor:
    """``first @ second``, the memory of the result laid out by columns if ``wide``."""
    return (second.t() @ first.t()).t() if wide else first @ second


def linear(x: Tensor, weight: Tensor, bias: Tensor, blocks: Blocks, wide: bool) -> Tensor:
    """``x @ weight.T + bias`` for a weight that is zero outside of ``blocks``, which cover all rows.

    Args:
        x: Shape ``(N, C)``.
        weight: Shape ``(R, C)``.
        bias: Shape ``(R,)``.
        blocks: Of the weight.
        wide: Whether the memory of the result is laid out by columns.
    """
    if len(blocks) == 1:
        return torch.addmm(bias.unsqueeze(1), weight, x.t()).t() if wide else F.linear(x, weight, bias)
    out = _empty(x, len(weight), wide)
    for rows, columns in blocks:
        torch.addmm(bias[rows], x[:, columns], weight[rows, columns].t(), out=out[:, rows])
    return out


def linear_by_input(gradient: Tensor, weight: Tensor, blocks: Blocks, wide: bool) -> Tensor:
    """The gradient of :func:`linear` with respect to ``x``, from that with respect to its result."""
    if len(blocks) == 1:
        return product(gradient, weight, wide)
    out = _empty(gradient, weight.shape[1], wide)
    for rows, columns in upright(blocks, weight.shape[1]):
        torch.mm(gradient[:, rows], weight[rows, columns], out=out[:, columns])
    return out


def linear_by_weight(gradient: Tensor, x: Tensor, blocks: Blocks) -> Tensor:
    """The gradient of :func:`linear` with respect to ``weight``, zero outside of the blocks."""
    if len(blocks) == 1:
        return gradient.t() @ x
    by_weight = gradient.new_zeros(gradient.shape[1], x.shape[1])
    for rows, columns in blocks:
        torch.mm(gradient[:, rows].t(), x[:, columns], out=by_weight[rows, columns])
    return by_weight


def _empty(like: Tensor, columns: int, wide: bool) -> Tensor:
    return like.new_empty(columns, len(like)).t() if wide else like.new_empty(len(like), columns)


def upright(blocks: Blocks, width: int) -> Blocks:
    """Blocks that cover the same by ranges of columns: all columns once, each with the rows that use it."""
    cuts = sorted({0, width, *(edge for block in blocks for edge in (block.columns.start, block.columns.stop))})
    found = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        using = [rows for rows, columns in blocks if columns.start < stop and start < columns.stop]
        rows = slice(using[0].start, using[-1].stop) if using else slice(0, 0)
        found.append(MatrixBlock(rows, slice(start, stop)))
    return tuple(found)
