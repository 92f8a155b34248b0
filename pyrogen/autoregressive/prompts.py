"""Prompts: sequences of unequal length as one tensor and a mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def aligned(
    prompts: Sequence[Tensor | Sequence[int]], length: int, *, like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Prompts as symbols ``(N, length, *symbol)`` and a mask ``(N, length)`` of what is known.

    Args:
        prompts: One sequence of symbols a row, of any lengths from one to ``length``.
        length: How many symbols a whole sequence has.
        like: A tensor whose device the results have.

    Raises:
        ValueError: there is no prompt, or one is empty or too long.

    Example:
        >>> symbols, mask = aligned([[3, 1], [2]], 4)
        >>> symbols.tolist(), mask.sum(-1).tolist()
        ([[3, 1, 0, 0], [2, 0, 0, 0]], [2, 1])
    """
    device = None if like is None else like.device
    rows = [torch.as_tensor(prompt, device=device) for prompt in prompts]
    if not rows:
        raise ValueError("`prompts` must hold at least one prompt, got none")
    for place, row in enumerate(rows):
        count = len(row) if row.dim() else 0
        if not 0 < count <= length:
            what = "an empty prompt" if not count else f"{count} symbols"
            raise ValueError(f"`prompts` must have from 1 to {length} symbols each, got {what} at position {place}")
    symbols = rows[0].new_zeros(len(rows), length, *rows[0].shape[1:])
    for place, row in enumerate(rows):
        symbols[place, : len(row)] = row
    counts = torch.tensor([len(row) for row in rows], device=device)
    return symbols, torch.arange(length, device=device) < counts.unsqueeze(1)
