r"""Sequence networks: what they compute in one pass over a whole sequence, they also compute step by step.

A sequence :math:`x_0, \dots, x_{L-1}` of symbols goes in, and for each place :math:`i` an output
:math:`h_i = f(x_0, \dots, x_{i-1})` comes out, from which a conditional distribution of :math:`x_i` is made. In one
pass (teacher forcing) all outputs are computed at once. In steps, :math:`h_0` comes first; each following step takes in
one symbol and gives the next output, and a *state* keeps what would otherwise be computed again (keys and values,
queues, rows, hidden units).

Every sequence network has the same three methods, and both ways agree at every place.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked


@dataclass
class State:
    """What a sequence network keeps between steps: a dataclass whose tensors have the rows in front.

    A state belongs to the step that comes next: :meth:`SequenceNetwork.step` may change it in place.
    """

    def select(self, rows: Tensor) -> State:
        """A copy that holds the given rows, which may be fewer, more, repeated or in another order."""
        return replace(self, **{name: select(value, rows) for name, value in vars(self).items()})

    def reindex(self, rows: Tensor) -> State:
        """The same for as many rows as there are, which may change this state in place: for those that go on."""
        nested = {name: value.reindex(rows) for name, value in vars(self).items() if isinstance(value, State)}
        rest = {name: select(value, rows) for name, value in vars(self).items() if name not in nested}
        return replace(self, **nested, **rest)


class SequenceNetwork(Abstract, nn.Module):
    """A network over sequences that also runs step by step; see :mod:`pyrogen.networks.sequence`.

    Shape:
        Symbols are ``(N, L, *symbol)``, outputs ``(N, L, features)``; a single symbol is ``(N, *symbol)`` and a single
        output ``(N, features)``. A context has the N rows in front.
    """

    @abstractmethod
    def forward(self, symbols: Tensor, context: Any = None) -> Tensor:
        """All outputs at once; output i depends on symbols before i only: the shift is inside."""

    @abstractmethod
    def start(self, batch_shape: tuple[int, ...], context: Any = None) -> State:
        """The state before the first step, for ``batch_shape`` rows (one dimension)."""

    @abstractmethod
    def step(self, symbol: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Takes in one symbol (``None`` in the first step) and gives the output for the place after it."""

    def read(self, symbols: Tensor, state: State) -> tuple[Tensor, State]:
        """Takes in ``(N, n, *symbol)`` known symbols from the start, and gives the output for the place after them.

        Networks override this where one pass over all of them is faster than n steps.
        """
        output, state = self.step(None, state)
        for symbol in symbols.unbind(1):
            output, state = self.step(symbol, state)
        return output, state


class Tokens(nn.Module):
    """Symbols out of a finite alphabet as learned vectors.

    Args:
        symbols: How many symbols there are, counted from zero.
        width: Size of the vectors.

    Shape:
        Whole numbers (of any dtype) ``shape`` to ``(*shape, width)``.
    """

    @checked
    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(symbols, width))

    def forward(self, symbols: Tensor) -> Tensor:
        return nn.functional.embedding(symbols.long(), self.weight)


class Numbers(nn.Module):
    """Real symbols, or vectors of them, as vectors: a linear map.

    Args:
        symbol_shape: Shape of one symbol.
        width: Size of the vectors.

    Shape:
        ``(*shape, *symbol)`` to ``(*shape, width)``.
    """

    @checked
    def __init__(self, symbol_shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.symbol_dim = len(symbol_shape)
        self.linear = nn.Linear(torch.Size(symbol_shape).numel(), width)

    def forward(self, symbols: Tensor) -> Tensor:
        vectors = symbols.flatten(-self.symbol_dim) if self.symbol_dim else symbols.unsqueeze(-1)
        return self.linear(vectors.to(self.linear.weight.dtype))


def shifted(vectors: Tensor, first: Tensor) -> Tensor:
    """Vectors ``(N, L, width)`` moved one place on: ``first`` (width,) or (N, width) comes in front, the last drops."""
    first = first.expand(len(vectors), 1, -1) if first.dim() == 1 else first.unsqueeze(1)
    return torch.cat([first, vectors[:, :-1]], 1)


def select(value: Any, rows: Tensor) -> Any:
    """Some rows of what a state keeps."""
    if isinstance(value, Tensor):
        return value.index_select(0, rows) if value.dim() else value
    if isinstance(value, State):
        return value.select(rows)
    if isinstance(value, (tuple, list)):
        return type(value)(select(entry, rows) for entry in value)
    if isinstance(value, dict):
        return {key: select(entry, rows) for key, entry in value.items()}
    return value
