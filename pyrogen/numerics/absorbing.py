r"""The absorbing path: the elements of an event become unknown one after another, in a random order.

Read backwards it is a model over any order: after :math:`k` of :math:`L` steps :math:`k` elements are known, each set
of them as likely as any other, and the next one is drawn given those.

References:
    Hoogeboom et al. 2022, "Autoregressive diffusion models", https://arxiv.org/abs/2110.02037
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def random_orders(rows: int, length: int, first: Sequence[Tensor | None], device: torch.device) -> Tensor:
    """A random order of places for each row, ``(rows, length)``: which comes first, second, ...

    Args:
        rows: How many rows there are.
        length: How many places.
        first: Masks ``(rows, length)`` of places that come before all others, those of earlier masks first.
        device: Where the orders are.
    """
    rank = torch.rand(rows, length, device=device)
    for place, mask in enumerate(reversed(first), 1):
        if mask is not None:
            rank = rank - 2**place * mask.to(rank.dtype)
    return rank.argsort(-1)
