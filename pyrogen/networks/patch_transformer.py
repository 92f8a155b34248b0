"""A causal transformer over the patches of an image: parameters for each patch from all those before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, count

from .causal_transformer import CausalStack, StackState
from .noise_level import zeroed
from .sequence import SequenceNetwork, State, shifted


@dataclass
class PatchState(State):
    """The state of the blocks, and how many patches are known."""

    stack: StackState
    known: int


class PatchTransformer(SequenceNetwork):
    """A causal transformer over vectors, each place with a learned vector of its own, starting at zero.

    Args:
        length: How many patches an image has.
        size: How many elements a patch has.
        features: Size of an output.
        width: Size of the vectors.
        depth: How many blocks.
        heads: How many heads.
        context: Size of a context vector, which comes before the first patch; zero for none.
        dropout: Share of the outputs of each part of a block dropped in training.

    Shape:
        Patches ``(N, length, size)`` and a context ``(N, context)`` to ``(N, length, features)``.
    """

    @checked(context=count)
    def __init__(
        self,
        length: int,
        size: int,
        features: int,
        *,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(size, width)
        self.first = nn.Parameter(torch.randn(width))
        self.places = nn.Parameter(torch.randn(length, width))
        self.context = nn.Linear(context, width) if context else None
        options = {"depth": depth, "heads": heads, "rotary": False, "dropout": dropout}
        self.stack = CausalStack(width, length + bool(context), **options)
        self.head = zeroed(nn.Linear(width, features))

    def forward(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        return self.head(self.stack(self._known(symbols), self._before(context)))

    def undropped(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        """The same without dropout, in training too: what steps give."""
        known = self._known(symbols)
        return self.head(self.stack.read(known, self.stack.start(len(known), self.first, self._before(context))))

    def start(self, batch_shape: tuple[int, ...], context: Tensor | None = None) -> PatchState:
        rows = torch.Size(batch_shape).numel()
        return PatchState(self.stack.start(rows, self.first, self._before(context)), 0)

    def step(self, symbol: Tensor | None, state: PatchState) -> tuple[Tensor, PatchState]:
        rows = len(state.stack.keys[0])
        x = self.first.expand(rows, -1) if symbol is None else self.embedding(symbol)
        x = (x + self.places[state.known]).unsqueeze(1)
        state.known += 1
        return self.head(self.stack.step(x, state.stack)[:, 0]), state

    def _known(self, symbols: Tensor) -> Tensor:
        return shifted(self.embedding(symbols), self.first) + self.places

    def _before(self, context: Tensor | None) -> Tensor | None:
        return None if context is None else self.context(context.to(self.first.dtype)).unsqueeze(1)
