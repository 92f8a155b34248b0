"""Generation: symbols one after the other, each known one taken in once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrogen.networks.sequence import SequenceNetwork
from pyrogen.numerics.autograd import full

from .conditionals import Conditional, FiniteDiscrete
from .given import Known, like


@dataclass(frozen=True)
class Ending:
    """How sequences of different lengths share one shape: after ``end`` there is nothing but ``padding``."""

    end: int
    padding: int

    def ended(self, symbols: Tensor) -> Tensor:
        """Whether a sequence had ended before each place, ``(N, L)``."""
        ends = (symbols == self.end).cumsum(-1) > 0
        return torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], -1)


@torch.no_grad()
def generate(
    network: SequenceNetwork,
    conditional: Conditional,
    rows: int,
    context: Any = None,
    *,
    length: int,
    known: Known | None = None,
    ending: Ending | None = None,
) -> Iterator[Tensor]:
    """Draws symbols ``(N, *symbol)`` one after the other; what is known is taken in at once, and yielded too.

    Stops early once every row has ended.
    """
    state = network.start((rows,), context)
    count = 0 if known is None else known.common()
    if count:
        yield from known.symbols[:, :count].unbind(1)
    ended = None if ending is None else ended_after(known, count, rows, ending, next(network.parameters()).device)
    if count == length or (ended is not None and bool(ended.all())):
        return
    output, state = network.read(known.symbols[:, :count], state) if count else network.step(None, state)
    for place in range(count, length):
        distribution = conditional(full(output))
        require_possible(distribution, place, ended)
        symbol = distribution.sample()
        if known is not None:
            given, mask = known.symbols[:, place], known.mask[:, place]
            symbol = torch.where(like(mask, symbol.shape[1:]), given.to(symbol.dtype), symbol)
        if ended is not None:
            symbol = symbol.masked_fill(ended, ending.padding)
            ended = ended | (symbol == ending.end)
        yield symbol
        if place + 1 == length or (ended is not None and bool(ended.all())):
            return
        output, state = network.step(symbol, state)


def ended_after(known: Known | None, count: int, rows: int, ending: Ending, device: torch.device) -> Tensor:
    """Which rows have ended among the first ``count`` symbols, which are known."""
    if not count:
        return torch.zeros(rows, dtype=torch.bool, device=device)
    return (known.symbols[:, :count] == ending.end).any(-1)


def require_possible(distribution: Any, place: int, ended: Tensor | None) -> None:
    """Raises a ValueError where a constrained model leaves no symbol to a row that has not ended."""
    if not isinstance(distribution, FiniteDiscrete) or distribution.impossible is None:
        return
    stuck = distribution.impossible if ended is None else distribution.impossible & ~ended
    if bool(stuck.any()):
        row = int(stuck.nonzero()[0])
        raise ValueError(f"`allowed` must leave a symbol at every place, got none at position {place} of row {row}")
