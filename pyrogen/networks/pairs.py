"""A perceptron of two vectors, without repeated work where one of them stays the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked


class PairNetwork(nn.Module):
    """A number for each pair of vectors: residual blocks after a first layer that sees each vector apart.

    The batch dimensions of both broadcast. It is smooth, as gradients with respect to either vector should be.

    Args:
        first: Size of the first vector.
        second: Size of the second vector.
        width: Size of the hidden vectors.
        depth: How many blocks.
        dropout: Share of the hidden units dropped in training.

    Shape:
        ``(*batch, first)`` and ``(*batch, second)`` to ``batch``.

    Example:
        >>> PairNetwork(3, 2)(torch.zeros(7, 1, 3), torch.zeros(5, 2)).shape
        torch.Size([7, 5])
    """

    @checked
    def __init__(self, first: int, second: int, *, width: int = 64, depth: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(first, width), nn.Linear(second, width, bias=False)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.last = nn.Linear(width, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        h = self.first(first) + self.second(second)
        for block in self.blocks:
            h = block(h)
        return self.last(nn.functional.silu(h)).squeeze(-1)


class EachPair(nn.Module):
    """A network of rows as one whose batch dimensions broadcast.

    Args:
        network: From ``(N, *first)`` and ``(N, second)`` to ``(N,)`` or ``(N, 1)``.
        event_dim: How many dimensions the first has.

    Raises:
        ValueError: it gives something else (when called).
    """

    def __init__(self, network: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.network, self.event_dim = network, event_dim

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        cut = first.dim() - self.event_dim
        batch = torch.broadcast_shapes(first.shape[:cut], second.shape[:-1])
        rows = first.expand(*batch, *first.shape[cut:]).reshape(-1, *first.shape[cut:])
        found = self.network(rows, second.expand(*batch, second.shape[-1]).reshape(-1, second.shape[-1]))
        if not isinstance(found, Tensor) or found.numel() != len(rows):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"`network` must give one number for each of {len(rows)} rows, got {got}")
        return found.reshape(batch)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        inner = nn.functional.silu(self.inner(nn.functional.silu(h)))
        return h + self.outer(self.dropout(inner))
