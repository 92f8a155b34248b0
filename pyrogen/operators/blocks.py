"""Block-diagonal matrices: products with vectors of any batch shape, with derivatives, under ``vmap`` too."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function


class BlockMatrix:
    """A matrix of which only blocks along the diagonal are not zero.

    Args:
        blocks: These, ``(blocks, m, n)``.
    """

    def __init__(self, blocks: Tensor) -> None:
        self.blocks = blocks

    def __call__(self, x: Tensor) -> Tensor:
        """The product with vectors ``(*batch, blocks, n)``, of shape ``(*batch, blocks, m)``."""
        return _Product.apply(self.blocks.to(x), x)

    def transposed(self, y: Tensor) -> Tensor:
        """The product of the transpose with vectors ``(*batch, blocks, m)``."""
        return _Product.apply(self.blocks.to(y).mT, y)


class _Product(Function):
    """Mapped over, blocks are not copied for each vector, as they are where a product of tensors is."""

    @staticmethod
    def forward(blocks: Tensor, x: Tensor) -> Tensor:
        rows = x.reshape(-1, *x.shape[-2:]).transpose(0, 1) @ blocks.mT  # (blocks, vectors, m)
        return rows.transpose(0, 1).reshape(*x.shape[:-1], blocks.shape[-2])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.blocks = inputs[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, _Product.apply(ctx.blocks.mT, gradient)

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor) -> Tensor:
        return _Product.apply(ctx.blocks, tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, blocks: Tensor, x: Tensor) -> tuple[Tensor, int]:
        return _Product.apply(blocks, x.movedim(in_dims[1], 0)), 0
