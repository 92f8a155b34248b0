"""Prompts: sequences of unequal length as one tensor and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

_SCALAR = torch.Size()


def aligned(
    prompts: Sequence[Tensor | Sequence[int]], length: int, symbol_shape: torch.Size = _SCALAR
) -> tuple[Tensor, Tensor]:
    """Prompts as symbols ``(N, length, *symbol_shape)`` and a mask ``(N, length)`` of what is known.

    Args:
        prompts: One sequence of symbols a row, of any lengths from zero to ``length``.
        length: How many symbols a whole sequence has.
        symbol_shape: Shape of one symbol.

    Raises:
        ValueError: there is no prompt, or one is no sequence, too long, or has symbols of another shape.

    Example:
        >>> symbols, mask = aligned([[3, 1], [2], []], 4)
        >>> symbols.tolist(), mask.sum(-1).tolist()
        ([[3, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]], [2, 1, 0])
    """
    rows = [torch.as_tensor(prompt) for prompt in prompts]
    if not rows:
        raise ValueError("`prompts` must hold at least one prompt, got none")
    for place, row in enumerate(rows):
        _check(row, place, length, symbol_shape)
    # An empty list has a dtype of its own (float), which says nothing about symbols.
    dtype = reduce(torch.promote_types, (row.dtype for row in rows if len(row)), torch.uint8)
    device = next((row.device for row in rows if len(row)), None)
    symbols = torch.zeros(len(rows), length, *symbol_shape, dtype=dtype, device=device)
    for place, row in enumerate(rows):
        if len(row):
            symbols[place, : len(row)] = row
    counts = torch.tensor([len(row) for row in rows], device=symbols.device)
    return symbols, torch.arange(length, device=symbols.device) < counts.unsqueeze(1)


def _check(row: Tensor, place: int, length: int, symbol_shape: torch.Size) -> None:
    if not row.dim():
        raise ValueError(
            f"`prompts` must be sequences of symbols, got the single symbol {row.item()} at position {place}"
        )
    if len(row) > length:
        raise ValueError(
            f"`prompts` must have at most {length} symbols each, got {len(row)} symbols at position {place}"
        )
    if len(row) and row.shape[1:] != symbol_shape:
        expected, got = tuple(symbol_shape), tuple(row.shape[1:])
        raise ValueError(f"`prompts` must hold symbols of shape {expected}, got {got} at position {place}")
