"""Matrix products with matrices that are zero outside a staircase of blocks, as those of masked networks are."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


class Block(NamedTuple):
    """A range of rows, and the range of columns outside which they are zero."""

    rows: slice
    columns: slice


def staircase(mask: Tensor, steps: int) -> tuple[Block, ...]:
    """The blocks that cover what is not masked, the rows cut into ``steps`` ranges of nearly equal length."""
    cuts = [len(mask) * step // steps for step in range(steps + 1)]
    blocks = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        used = mask[start:stop].any(0).nonzero().flatten().tolist() or [0]
        blocks.append(Block(slice(start, stop), slice(used[0], used[-1] + 1)))
    return tuple(blocks)


def block_linear(weight: Tensor, bias: Tensor, x: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """``weight @ x + bias`` for a weight that is zero outside of ``blocks``, which cover all rows.

    Shape:
        ``weight`` ``(R, C)``, ``bias`` ``(R,)``, ``x`` ``(C, N)``; the result is ``(R, N)``.
    """
    tensors = weight, bias, x
    wrapped = map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)
    if len(blocks) == 1 or torch.compiler.is_compiling() or any(wrapped):
        return torch.addmm(bias.unsqueeze(1), weight, x)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _BlockLinear.apply(weight, bias, x, blocks)
    return _product(weight, bias, x, blocks)


def _product(weight: Tensor, bias: Tensor, x: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    out = x.new_empty(len(weight), x.shape[1])
    for rows, columns in blocks:
        torch.addmm(bias[rows].unsqueeze(1), weight[rows, columns], x[columns], out=out[rows])
    return out


class _BlockLinear(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, x: Tensor, blocks: tuple[Block, ...]) -> Tensor:
        ctx.save_for_backward(weight, x)
        ctx.blocks = blocks
        return _product(weight, bias, x, blocks)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        weight, x = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for: differentiable, without the shortcut
            return g @ x.T, g.sum(1), weight.T @ g, None
        by_weight = by_x = None
        if ctx.needs_input_grad[0]:
            by_weight = torch.zeros_like(weight)
            for rows, columns in ctx.blocks:
                by_weight[rows, columns] = g[rows] @ x[columns].T
        if ctx.needs_input_grad[2]:
            by_x = torch.empty_like(x)
            for rows, columns in _upright(ctx.blocks, x.shape[0]):
                torch.mm(weight[rows, columns].T, g[rows], out=by_x[columns])
        return by_weight, g.sum(1), by_x, None


def _upright(blocks: tuple[Block, ...], width: int) -> list[Block]:
    """Blocks that cover the same by ranges of columns: all columns once, each with the rows that use it."""
    cuts = sorted({0, width, *(edge for block in blocks for edge in (block.columns.start, block.columns.stop))})
    found = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        using = [rows for rows, columns in blocks if columns.start < stop and start < columns.stop]
        rows = slice(using[0].start, using[-1].stop) if using else slice(0, 0)
        found.append(Block(rows, slice(start, stop)))
    return found
