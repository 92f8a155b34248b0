"""Members of sequences, of which some may be absent: symbols of -1, and vectors that are all NaN."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def present_members(value: Tensor, *, symbols: bool) -> Tensor:
    """Which members are there, ``(N, length)``, of symbols ``(N, length)`` or of vectors ``(N, length, features)``."""
    return value >= 0 if symbols else ~value.isnan().all(-1)


def embedded_members(embedding: nn.Module, value: Tensor, present: Tensor) -> Tensor:
    """Vectors ``(N, length, features)`` by a table of symbols or a map of vectors; those of absent members are zero."""
    there = present.reshape(present.shape + (1,) * (value.dim() - 2))
    return embedding(torch.where(there, value, 0)).masked_fill(~present.unsqueeze(-1), 0.0)
