"""Prompts: sequences of unequal length as one tensor and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


def aligned(prompts: Sequence[Tensor | Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
    """Prompts as symbols ``(N, length, *symbol)`` and a mask ``(N, length)`` of what is known.

    Args:
        prompts: One sequence of symbols a row, of any lengths from one to ``length``.
        length: How many symbols a whole sequence has.

    Raises:
        ValueError: there is no prompt, or one is no sequence, empty or too long.

    Example:
        >>> symbols, mask = aligned([[3, 1], [2]], 4)
        >>> symbols.tolist(), mask.sum(-1).tolist()
        ([[3, 1, 0, 0], [2, 0, 0, 0]], [2, 1])
    """
    rows = [torch.as_tensor(prompt) for prompt in prompts]
    if not rows:
        raise ValueError("`prompts` must hold at least one prompt, got none")
    for place, row in enumerate(rows):
        count = len(row) if row.dim() else 0
        if not 0 < count <= length:
            what = f"{count} symbols" if count else "an empty prompt"
            what = what if row.dim() else f"the single symbol {row.item()}"
            raise ValueError(f"`prompts` must have from 1 to {length} symbols each, got {what} at position {place}")
    dtype = reduce(torch.promote_types, (row.dtype for row in rows))
    symbols = rows[0].new_zeros(len(rows), length, *rows[0].shape[1:], dtype=dtype)
    for place, row in enumerate(rows):
        symbols[place, : len(row)] = row
    counts = torch.tensor([len(row) for row in rows], device=symbols.device)
    return symbols, torch.arange(length, device=symbols.device) < counts.unsqueeze(1)
