"""Prefixes: the beginnings of many sequences, which grow symbol by symbol, and what the network keeps of them."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrogen.numerics.autograd import full

from .conditionals import FiniteDiscrete, finite_discrete
from .distribution import AutoregressiveDistribution
from .generation import ended_after, require_possible
from .given import like


class Prefixes:
    """The beginnings of sequences, one a row, for methods that choose each symbol, and among rows, themselves.

    What is known from the start in every row is taken in at once.

    Args:
        distribution: That of whole sequences, with one batch dimension of ``R`` rows.

    Attributes:
        symbols: Those so far, ``(R, L, *symbol)``: the first :attr:`count` of each count.
        count: How many symbols there are.
        ended: Which sequences have ended, ``(R,)``.

    Raises:
        NotImplementedError: the distribution is not autoregressive, or has several orders or random ones.
    """

    def __init__(self, distribution: AutoregressiveDistribution) -> None:
        require_one_order(distribution)
        self._network, self._conditional = distribution.network, distribution.conditional
        self._known, self._ending, self.length = distribution.known, distribution.ending, distribution.layout.length
        rows = distribution.batch_shape.numel()
        self.symbols = distribution.filler_symbols(torch.Size([rows]))
        self.count = 0 if self._known is None else self._known.common()
        if self.count:
            self.symbols[:, : self.count] = self._known.symbols[:, : self.count].to(self.symbols.dtype)
        self.ended = self.symbols.new_zeros(rows, dtype=torch.bool)
        if self._ending is not None:
            self.ended = ended_after(self._known, self.count, rows, self._ending, self.symbols.device)
        state = self._network.start((rows,), distribution.context)
        if self.finished:
            return
        known = self.symbols[:, : self.count]
        self._output, self._state = self._network.read(known, state) if self.count else self._network.step(None, state)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to choose."""
        return self.count == self.length or (self._ending is not None and bool(self.ended.all()))

    @property
    def so_far(self) -> Tensor:
        """The symbols so far, ``(R, count, *symbol)``."""
        return self.symbols[:, : self.count]

    def next(self) -> TorchDistributionMixin:
        """The distribution of the next symbol of each row: a point where it is known, or the sequence has ended."""
        distribution = self._conditional(full(self._output))
        require_possible(distribution, self.count, None if self._ending is None else self.ended)
        fixed, symbol = self._fixed()
        few = not distribution.event_shape and distribution.has_enumerate_support
        if not few or fixed is None or not bool(fixed.any()):
            return distribution
        found = finite_discrete(distribution)
        point = torch.where(values_of(found) == symbol.unsqueeze(-1), 0.0, -torch.inf)
        return FiniteDiscrete(torch.where(fixed.unsqueeze(-1), point.to(found.logits), found.logits), found.values)

    def append(self, symbols: Tensor) -> None:
        """Takes in one more symbol of each row, ``(R, *symbol)``; what is known, and padding, stand in their place."""
        fixed, symbol = self._fixed()
        if fixed is not None:
            symbols = torch.where(like(fixed, symbols.shape[1:]), symbol.to(symbols.dtype), symbols)
        self.symbols[:, self.count] = symbols
        self.count += 1
        if self._ending is not None:
            self.ended = self.ended | (symbols == self._ending.end)
        if not self.finished:
            self._output, self._state = self._network.step(symbols, self._state)

    def select(self, rows: Tensor) -> None:
        """Puts the given rows, as many as there are, in the place of all; some may be repeated."""
        self.symbols, self.ended, self._output = self.symbols[rows], self.ended[rows], self._output[rows]
        self._state = self._state.reindex(rows)
        if self._known is not None:
            self._known = type(self._known)(self._known.symbols[rows], self._known.mask[rows])

    def events(self) -> Tensor:
        """Whole sequences, padded to their length, ``(R, L, *symbol)``."""
        if self.count < self.length:
            self.symbols[:, self.count :] = self._ending.padding
        return self.symbols

    def _fixed(self) -> tuple[Tensor | None, Tensor | None]:
        """Which rows have no choice of their next symbol, and what it is."""
        fixed = symbol = None
        if self._ending is not None:
            fixed, symbol = self.ended, torch.full_like(self.symbols[:, 0], self._ending.padding)
        if self._known is not None:
            known, mask = self._known.symbols[:, self.count], self._known.mask[:, self.count]
            symbol = known if symbol is None else torch.where(mask, known.to(symbol.dtype), symbol)
            fixed = mask if fixed is None else fixed | mask
        return fixed, symbol


def require_one_order(distribution: object) -> None:
    """Raises a NotImplementedError unless a distribution is autoregressive, in one order for all rows."""
    if not isinstance(distribution, AutoregressiveDistribution):
        kind = type(distribution).__name__
        raise NotImplementedError(f"prefixes need a distribution of one autoregressive model, got {kind}")
    if distribution.orders is not None:
        raise NotImplementedError("prefixes need one order for all rows; take a model `along(order)` instead")


def values_of(distribution: FiniteDiscrete) -> Tensor:
    """The symbols of a distribution over few of them, ``(K,)``."""
    if distribution.values is not None:
        return distribution.values
    return torch.arange(distribution.logits.shape[-1], device=distribution.logits.device)
