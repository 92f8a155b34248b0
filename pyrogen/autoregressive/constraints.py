r"""Hard constraints: at each place, which symbols may come next.

A constrained model is again a distribution,
:math:`q(x_i \mid x_{<i}) \propto p(x_i \mid x_{<i})\, a_i(x_{\le i})` with :math:`a_i` one or zero, normalized place by
place. It is not the model *given* the constraint, unless all prefixes that are allowed leave as much of the model's
probability to what is allowed after them: prefixes that lead to dead ends come too often. The conditional, and the
probability of the constraint, are what :class:`pyrogen.inverse.SequenceSMC` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrogen.networks.sequence import SequenceNetwork, State

from .conditionals import Conditional, FiniteDiscrete, Reweighted, finite_discrete
from .model import Autoregressive

Rule = Callable[[Tensor], Tensor]


def constrained(model: Autoregressive, allowed: Tensor | Rule) -> Autoregressive:
    """A model that only takes allowed symbols, place by place.

    This is fast, and not the model given the constraint, which :class:`pyrogen.inverse.SequenceSMC` gives: with
    ``twist=pyrogen.inverse.Admissible(allowed)``, and the same rule as a ``pyro.factor``.

    Args:
        model: An autoregressive model over few symbols; it shares its parameters with the result.
        allowed: Boolean, ``(symbols,)`` for all places alike or ``(length, symbols)``; or a function from what came
            before, ``(N, i, *symbol)`` in the order of the model, to ``(N, symbols)``.

    Returns:
        A model whose ``sample`` raises a ValueError, naming the place, where no symbol is allowed.

    Raises:
        NotImplementedError: the model has several orders, or random ones.
        ValueError: a tensor ``allowed`` has another shape, is not boolean, or leaves no symbol at some place.

    Example:
        >>> model = pg.autoregressive.transformer((4,), symbols=3, width=16, depth=1)
        >>> even = constrained(model, torch.tensor([True, False, True]))
        >>> (even().sample((5,)) % 2).sum().item()
        0
    """
    if not isinstance(model, Autoregressive):
        raise NotImplementedError("a constraint needs one order for all rows; constrain a model `along(order)` instead")
    symbols = _symbols(model.conditional)
    if isinstance(allowed, Tensor):
        allowed = _checked(allowed, model.layout.length, symbols)
    network = ConstrainedNetwork(model.network, allowed, symbols)
    return model.altered(lambda conditional: Allowed(conditional, symbols), network)


@dataclass(frozen=True)
class Allowed(Reweighted):
    """A conditional over the symbols that the end of an output allows.

    Args:
        inner: The conditional that is constrained.
        symbols: How many flags stand at the end of an output, one for each symbol.
    """

    symbols: int

    @property
    def size(self) -> int:
        return self.inner.size + self.symbols

    def change(self, logits: Tensor) -> Tensor:
        return logits

    def __call__(self, output: Tensor) -> FiniteDiscrete:
        old = finite_discrete(self.inner(output[..., : -self.symbols]))
        kept = (output[..., -self.symbols :] > 0.5) & (old.logits > -torch.inf)
        impossible = ~kept.any(-1)
        if old.impossible is not None:
            impossible = impossible | old.impossible
        logits = old.logits.masked_fill(~kept & ~impossible.unsqueeze(-1), -torch.inf)
        return FiniteDiscrete(logits, old.values, impossible)


@dataclass
class ConstrainedState(State):
    """The state of the network, and for a rule the symbols so far."""

    inner: State
    before: Tensor | None
    place: int


class ConstrainedNetwork(SequenceNetwork):
    """A sequence network whose outputs end in flags of the symbols that are allowed.

    Args:
        network: The network.
        allowed: ``(length, symbols)``, or a function from what came before to ``(N, symbols)``.
        symbols: How many symbols there are.
    """

    def __init__(self, network: SequenceNetwork, allowed: Tensor | Rule, symbols: int) -> None:
        super().__init__()
        self.network, self.symbols = network, symbols
        self.rule = None if isinstance(allowed, Tensor) else allowed
        self.register_buffer("allowed", allowed if isinstance(allowed, Tensor) else None, persistent=False)

    def forward(self, symbols: Tensor, context: Any = None) -> Tensor:
        if self.rule is None:
            allowed = self.allowed.expand(len(symbols), -1, -1)
        else:
            allowed = torch.stack([self._allowed(symbols[:, :place]) for place in range(symbols.shape[1])], 1)
        return _joined(self.network(symbols, context), allowed)

    def start(self, batch_shape: tuple[int, ...], context: Any = None) -> ConstrainedState:
        return ConstrainedState(self.network.start(batch_shape, context), None, 0)

    def step(self, symbol: Tensor | None, state: ConstrainedState) -> tuple[Tensor, ConstrainedState]:
        output, inner = self.network.step(symbol, state.inner)
        before = state.before
        if symbol is not None:
            before = symbol.unsqueeze(1) if before is None else torch.cat([before, symbol.unsqueeze(1)], 1)
        return self._next(output, inner, before, state.place)

    def read(self, symbols: Tensor, state: ConstrainedState) -> tuple[Tensor, ConstrainedState]:
        output, inner = self.network.read(symbols, state.inner)
        return self._next(output, inner, symbols, symbols.shape[1])

    def _next(self, output: Tensor, inner: State, before: Tensor | None, place: int) -> tuple[Tensor, ConstrainedState]:
        if self.rule is None:
            return _joined(output, self.allowed[place].expand(len(output), -1)), ConstrainedState(
                inner, None, place + 1
            )
        seen = torch.zeros(len(output), 0, dtype=torch.long, device=output.device) if before is None else before
        return _joined(output, self._allowed(seen)), ConstrainedState(inner, before, place + 1)

    def _allowed(self, before: Tensor) -> Tensor:
        allowed = self.rule(before)
        if allowed.shape != (len(before), self.symbols) or allowed.dtype != torch.bool:
            raise ValueError(
                f"`allowed` must give booleans of shape {(len(before), self.symbols)}, "
                f"got {allowed.dtype} of shape {tuple(allowed.shape)} at position {before.shape[1]}"
            )
        return allowed


def _joined(output: Tensor, allowed: Tensor) -> Tensor:
    return torch.cat([output, allowed.to(output.dtype)], -1)


def _symbols(conditional: Conditional) -> int:
    return finite_discrete(conditional(torch.zeros(conditional.size))).logits.shape[-1]


def _checked(allowed: Tensor, length: int, symbols: int) -> Tensor:
    if allowed.dtype != torch.bool or allowed.shape not in ((symbols,), (length, symbols)):
        raise ValueError(
            f"`allowed` must be boolean of shape {(symbols,)} or {(length, symbols)}, "
            f"got {allowed.dtype} of shape {tuple(allowed.shape)}"
        )
    allowed = allowed.expand(length, symbols).clone()
    empty = (~allowed.any(-1)).nonzero().flatten()
    if len(empty):
        raise ValueError(f"`allowed` must leave a symbol at every place, got none at position {int(empty[0])}")
    return allowed
