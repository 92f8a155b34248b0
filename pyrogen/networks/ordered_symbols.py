"""A network that sees any part of an event, as a sequence network along an order: what comes later is hidden.

Every place takes an evaluation of its own, in one pass as in steps: exact, and dear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .context import Context
from .sequence import SequenceNetwork, State

if TYPE_CHECKING:
    from .symbol_transformer import SymbolTransformer


@dataclass
class VisibleState(State):
    """The symbols known so far where they stand, ``(N, L)``; the order, ``(N, L)``; the context; how many are known."""

    visible: Tensor
    order: Tensor
    context: Context
    known: int


class OrderedSymbols(SequenceNetwork):
    """A :class:`~pyrogen.networks.symbol_transformer.SymbolTransformer` along given orders.

    Args:
        network: The network of all symbols.
        order: Which element of the flattened event comes first, second, ...: ``(L,)``, or ``(N, L)`` for an order of
            each row.
    """

    def __init__(self, network: SymbolTransformer, order: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("order", order, persistent=False)

    def forward(self, symbols: Tensor, context: Context = None) -> Tensor:
        rows, length = symbols.shape
        order = self.order.expand(rows, -1)
        rank = order.argsort(-1)
        before = rank.unsqueeze(1) < torch.arange(length, device=rank.device).unsqueeze(1)  # (N, step, place)
        visible = torch.where(before, symbols.gather(1, rank).unsqueeze(1), self.network.symbols)
        outputs = self._outputs(visible, _repeated(context))
        return outputs.gather(2, order[..., None, None].expand(-1, -1, 1, self.network.symbols)).squeeze(2)

    def start(self, batch_shape: tuple[int, ...], context: Context = None) -> VisibleState:
        rows = torch.Size(batch_shape).numel()
        order = self.order.expand(rows, -1)
        return VisibleState(torch.full_like(order, self.network.symbols), order, context, 0)

    def step(self, symbol: Tensor | None, state: VisibleState) -> tuple[Tensor, VisibleState]:
        if symbol is not None:
            state.visible.scatter_(1, state.order[:, state.known, None], symbol.long().unsqueeze(1))
            state.known += 1
        outputs = self._outputs(state.visible, state.context)
        place = state.order[:, state.known, None, None].expand(-1, 1, self.network.symbols)
        return outputs.gather(1, place).squeeze(1), state

    def _outputs(self, visible: Tensor, context: Context) -> Tensor:
        """The logits at all places, ``(..., L, symbols)``, from what is visible there, ``(..., L)``."""
        events = visible.reshape(*visible.shape[:-1], *self.network.event_shape)
        level = self.network.table.new_zeros(())
        return self.network(events, level, context).reshape(*visible.shape, self.network.symbols)


def _repeated(context: Context) -> Context:
    """A context that is the same in all steps of a row."""
    if isinstance(context, Mapping):
        return {key: value.unsqueeze(1) for key, value in context.items()}
    return None if context is None else context.unsqueeze(1)
