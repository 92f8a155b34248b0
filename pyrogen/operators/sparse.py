"""Sparse matrices: products with vectors of any batch shape, differentiable to any order and mapped by ``vmap``."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional


class _Rows(NamedTuple):
    """The entries of a matrix row by row: where each row begins, and the columns and values of its entries."""

    starts: Tensor
    columns: Tensor
    values: Tensor


class SparseMatrix:
    """A matrix of which only some entries are not zero.

    Its entries are kept twice, in the order of the rows and in that of the columns, so that the matrix and its
    transpose are equally fast.

    Args:
        rows: The row of each entry, integers.
        columns: The column of each entry.
        values: The entries.
        shape: How many rows and columns there are.
    """

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        self._sides = _grouped(rows, columns, values, shape[0]), _grouped(columns, rows, values, shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        """The product with vectors ``(*batch, columns)``."""
        return _Product.apply(self._sides, x)

    def transposed(self, y: Tensor) -> Tensor:
        """The product of the transpose with vectors ``(*batch, rows)``."""
        return _Product.apply(self._sides[::-1], y)

    def to(self, *place: Any) -> SparseMatrix:
        """The same matrix on another device or of another dtype."""
        moved = object.__new__(SparseMatrix)
        moved._sides = tuple(
            _Rows(side.starts.to(values.device), side.columns.to(values.device), values)
            for side in self._sides
            for values in (side.values.to(*place),)
        )
        return moved


class _Product(Function):
    @staticmethod
    def forward(sides: tuple[_Rows, _Rows], x: Tensor) -> Tensor:
        rows = sides[0]
        if not x.numel():  # which the fast pass does not take
            return x.new_zeros(*x.shape[:-1], len(rows.starts))
        # A clone: one column passes for contiguous, with strides that the fast pass does not take.
        table = x.reshape(-1, x.shape[-1]).T.clone(memory_format=torch.contiguous_format)
        # A row of the product is a weighted sum of rows of the table: torch has one fused pass for it.
        product = functional.embedding_bag(
            rows.columns, table, rows.starts, mode="sum", per_sample_weights=rows.values.to(x.dtype)
        )
        return product.T.reshape(*x.shape[:-1], len(rows.starts))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.sides = inputs[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, _Product.apply(ctx.sides[::-1], gradient)

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor) -> Tensor:
        return _Product.apply(ctx.sides, tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, sides: tuple[_Rows, _Rows], x: Tensor) -> tuple[Tensor, int]:
        return _Product.apply(sides, x.movedim(in_dims[1], 0)), 0


def _grouped(rows: Tensor, columns: Tensor, values: Tensor, count: int) -> _Rows:
    if len(rows) < 2**31:  # half of the memory to be read
        rows, columns = rows.int(), columns.int()
    counts = torch.bincount(rows, minlength=count)
    starts = (counts.cumsum(0) - counts).to(columns.dtype)
    if (rows.diff() >= 0).all():
        return _Rows(starts, columns, values)
    order = rows.argsort(stable=True)
    return _Rows(starts, columns[order], values[order])
