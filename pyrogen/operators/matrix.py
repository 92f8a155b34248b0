"""Operators on the entries of a signal of any shape: some of them, or any linear combination."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.arrays import takes_arrays

from .linear import Linear, flattened, floating


class Mask(Linear):
    """Keeps some entries, as a vector: inpainting, missing pixels.

    Args:
        kept: Which entries are measured, of shape ``(*shape)``, booleans.
    """

    @takes_arrays
    def __init__(self, kept: Tensor) -> None:
        if not isinstance(kept, Tensor):
            raise TypeError(f"`kept` must be a tensor of booleans, got {type(kept).__name__}")
        if kept.dtype != torch.bool or not kept.any():
            raise ValueError(f"`kept` must be boolean and keep an entry, got {kept.dtype} with {int(kept.sum())} kept")
        super().__init__(tuple(kept.shape))
        self.index = kept.flatten().nonzero().squeeze(-1)

    def __call__(self, x: Tensor) -> Tensor:
        return flattened(x, self.shape, "x")[..., self.index]

    def adjoint(self, y: Tensor) -> Tensor:
        whole = torch.zeros(y.shape[:-1] + (math.prod(self.shape),), dtype=y.dtype, device=y.device)
        return whole.index_copy(-1, self.index, y).reshape(y.shape[:-1] + self.shape)


class Matrix(Linear):
    """Any matrix, on the flattened input.

    Args:
        matrix: Of shape ``(measurements, size)``.
        shape: The shape of one input; a vector if not given.
    """

    @takes_arrays
    def __init__(self, matrix: Tensor, shape: tuple[int, ...] | None = None) -> None:
        floating(matrix, "matrix")
        shape = (matrix.shape[-1],) if shape is None else tuple(shape)
        if matrix.dim() != 2 or matrix.shape[-1] != math.prod(shape):
            raise ValueError(f"`matrix` must have shape (measurements, {math.prod(shape)}), got {tuple(matrix.shape)}")
        super().__init__(shape)
        self.matrix = matrix

    def __call__(self, x: Tensor) -> Tensor:
        return flattened(x, self.shape, "x") @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(y.shape[:-1] + self.shape)
