r"""Causal transformers: attention to what came before, with keys and values kept between steps.

Each block adds attention and a perceptron to a stream of vectors, both of a normalized copy (pre-norm). Queries and
keys are rotated by angles that grow with the place, so that their products depend on distances only. Several query
heads share one key head (grouped keys), which shrinks what is kept.

In steps, keys and values are written into tensors allocated once for the whole sequence; a step reads the filled part.

References:
    Vaswani et al. 2017, "Attention is all you need", https://arxiv.org/abs/1706.03762
    Su et al. 2021, "RoFormer: Enhanced transformer with rotary position embedding", https://arxiv.org/abs/2104.09864
    Ainslie et al. 2023, "GQA: Training generalized multi-query transformer models", https://arxiv.org/abs/2305.13245
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .attention import attend, attend_at_once
from .noise_level import zeroed
from .sequence import SequenceNetwork, State, select, shifted

KeysAndValues = tuple[Tensor, Tensor]
CrossKeys = tuple[Tensor, Tensor, Tensor | None]
Attended = Tensor | tuple[Tensor, Tensor]
"""Vectors of a context, ``(N, m, width)``, and which of them are there, ``(N, m)``, if not all."""


@dataclass
class StackState(State):
    """Keys and values of each block, ``(N, key_heads, capacity, head)``, and of the context; how many are filled."""

    keys: list[Tensor]
    values: list[Tensor]
    context: list[CrossKeys]
    prefix: Tensor | None
    filled: int = 0

    def reindex(self, rows: Tensor) -> StackState:
        """Moves keys and values of rows that change alone, and those places that are filled."""
        changed = (rows != torch.arange(len(rows), device=rows.device)).nonzero().flatten()
        for cache in (*self.keys, *self.values):
            filled = cache[:, :, : self.filled]
            filled[changed] = filled[rows[changed]]
        return replace(self, context=select(self.context, rows), prefix=select(self.prefix, rows))


class RotaryEmbedding(nn.Module):
    """Rotates pairs of elements of queries and keys by angles that grow with the place.

    Args:
        places: How many places there are.
        size: Size of a head, an even number.
        base: The slowest rotation takes about ``2 pi base`` places.
    """

    def __init__(self, places: int, size: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        speeds = base ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = torch.arange(places, dtype=torch.float64).unsqueeze(1) * speeds
        dtype, half = torch.get_default_dtype(), size // 2
        self.half = half
        self.register_buffer("cosine", angles.cos().repeat(1, 2).to(dtype), persistent=False)
        self.register_buffer("sine", torch.cat([-angles.sin(), angles.sin()], 1).to(dtype), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotates ``(..., n, size)`` as the places from ``start`` on."""
        places = slice(start, start + x.shape[-2])
        return torch.addcmul(x * self.cosine[places], x.roll(self.half, -1), self.sine[places])


class CausalAttention(nn.Module):
    """Attention of each place to itself and those before it.

    Args:
        width: Size of the vectors.
        heads: How many query heads, a divisor of ``width``.
        key_heads: How many key and value heads, a divisor of ``heads``.
    """

    def __init__(self, width: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.heads, self.key_heads, self.size = heads, key_heads, width // heads
        self.project = nn.Linear(width, (heads + 2 * key_heads) * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: RotaryEmbedding | None, cache: KeysAndValues | None = None) -> Tensor:
        """``(N, n, width)`` to the same; keys and values are also written into a cache, if one is given."""
        rotated, values = self._heads(x, rotation, 0)
        queries, keys = rotated.split([self.heads, self.key_heads], 1)
        if cache is not None:
            cache[0][:, :, : x.shape[1]], cache[1][:, :, : x.shape[1]] = keys, values
        return self.out(attend_at_once(queries, keys, values, causal=True))

    def step(self, x: Tensor, rotation: RotaryEmbedding | None, cache: KeysAndValues, place: int) -> Tensor:
        """The same for one place, ``(N, 1, width)``, whose predecessors are in the cache."""
        rotated, value = self._heads(x, rotation, place)
        queries, key = rotated.split([self.heads, self.key_heads], 1)
        keys, values = cache
        keys[:, :, place], values[:, :, place] = key[:, :, 0], value[:, :, 0]
        return self.out(attend(queries, keys[:, :, : place + 1], values[:, :, : place + 1]))

    def _heads(self, x: Tensor, rotation: RotaryEmbedding | None, start: int) -> tuple[Tensor, Tensor]:
        """Queries and keys together, rotated, and values."""
        heads = self.project(x).unflatten(-1, (-1, self.size)).transpose(1, 2)  # (N, heads, n, size)
        rotated, values = heads.split([self.heads + self.key_heads, self.key_heads], 1)
        return (rotated if rotation is None else rotation(rotated, start)), values


class CrossAttention(nn.Module):
    """Attention of each place to the vectors of a context.

    Args:
        width: Size of the vectors on both sides.
        heads: How many query heads.
        key_heads: How many key and value heads.
    """

    def __init__(self, width: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.heads, self.key_heads, self.size = heads, key_heads, width // heads
        self.queries = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, 2 * key_heads * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def keys_and_values(self, context: Attended) -> CrossKeys:
        """Of a context ``(N, m, width)``: computed once, however many places attend to it; and which are there."""
        vectors, present = context if isinstance(context, tuple) else (context, None)
        heads = self.project(vectors).unflatten(-1, (-1, self.size)).transpose(1, 2)
        keys, values = heads.chunk(2, 1)
        return keys, values, present

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, present: Tensor | None = None) -> Tensor:
        queries = self.queries(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
        return self.out(attend(queries, keys, values, present=present))


class TransformerBlock(nn.Module):
    """One block: causal attention, attention to a context if there is one, and a perceptron.

    Dropout belongs to training: it acts in one pass without a cache, never in steps.
    """

    def __init__(self, width: int, heads: int, key_heads: int, ratio: int, cross: bool, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, key_heads)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross = CrossAttention(width, heads, key_heads) if cross else None
        self.norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        rotation: RotaryEmbedding | None,
        context: CrossKeys | None,
        cache: KeysAndValues | None = None,
    ) -> Tensor:
        drop = self.dropout if cache is None else _nothing
        return self._rest(x + drop(self.attention(self.attention_norm(x), rotation, cache)), context, drop)

    def step(
        self,
        x: Tensor,
        rotation: RotaryEmbedding | None,
        context: CrossKeys | None,
        cache: KeysAndValues,
        place: int,
    ) -> Tensor:
        """The same for one place whose predecessors are in the cache."""
        return self._rest(x + self.attention.step(self.attention_norm(x), rotation, cache, place), context, _nothing)

    def _rest(self, x: Tensor, context: CrossKeys | None, drop: Callable[[Tensor], Tensor]) -> Tensor:
        if context is not None:
            x = x + drop(self.cross(self.cross_norm(x), *context))
        return x + drop(self.perceptron(self.norm(x)))


class CausalStack(nn.Module):
    """Causal blocks over embedded vectors, in one pass or in steps.

    Args:
        width: Size of the vectors, a multiple of ``2 heads`` where places are rotated.
        places: How many places there are, those of a prefix included.
        depth: How many blocks.
        heads: How many query heads.
        key_heads: How many key and value heads; ``heads`` if ``None``.
        ratio: How much wider the perceptrons are than the stream.
        cross: Whether a context ``(N, m, width)`` is attended to by every block; else it comes before the sequence.
            What is attended to may lack members: it is then a pair, the second which of them are there, ``(N, m)``.
        rotary: Whether queries and keys are rotated by place.
        dropout: Share of the outputs of each part of a block dropped in training.

    Raises:
        ValueError: the heads do not divide the width, or the key heads the heads.
    """

    @checked
    def __init__(
        self,
        width: int,
        places: int,
        *,
        depth: int = 4,
        heads: int = 4,
        key_heads: int | None = None,
        ratio: int = 4,
        cross: bool = False,
        rotary: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        key_heads = heads if key_heads is None else key_heads
        if heads < 1 or key_heads < 1:
            raise ValueError(f"`heads` and `key_heads` must be at least 1, got {heads} and {key_heads}")
        if width % heads or (rotary and width // heads % 2):
            raise ValueError(f"`width` must be a multiple of {'twice ' * rotary}`heads` ({heads}), got {width}")
        if heads % key_heads:
            raise ValueError(f"`key_heads` must divide `heads` ({heads}), got {key_heads}")
        self.places, self.cross, self.key_heads, self.size = places, cross, key_heads, width // heads
        self.rotation = RotaryEmbedding(places, width // heads) if rotary else None
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, key_heads, ratio, cross, dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Attended | None = None) -> Tensor:
        """``(N, n, width)`` to the same, each place seeing itself, those before it and the context."""
        return self._all(x, context, None)

    def start(self, rows: int, like: Tensor, context: Attended | None = None) -> StackState:
        """An empty state; of ``like`` it has dtype and device."""
        shape = rows, self.key_heads, self.places, self.size
        keys, values = ([like.new_empty(shape) for _ in self.blocks] for _ in range(2))
        if self.cross:
            return StackState(keys, values, [block.cross.keys_and_values(context) for block in self.blocks], None)
        return StackState(keys, values, [], context)

    def read(self, x: Tensor, state: StackState) -> Tensor:
        """Takes in the first vectors, ``(N, n, width)``, at once."""
        y = self._all(x, state.prefix, state)
        state.filled = x.shape[1] + (0 if state.prefix is None else state.prefix.shape[1])
        return y

    def step(self, x: Tensor, state: StackState) -> Tensor:
        """Takes in one vector, ``(N, 1, width)``; the state is changed in place."""
        if not state.filled and state.prefix is not None:
            return self.read(x, state)
        for index, block in enumerate(self.blocks):
            context = state.context[index] if self.cross else None
            x = block.step(x, self.rotation, context, (state.keys[index], state.values[index]), state.filled)
        state.filled += 1
        return self.norm(x)

    def _all(self, x: Tensor, context: Attended | None, state: StackState | None) -> Tensor:
        ahead = 0
        if context is not None and not self.cross:
            ahead = context.shape[1]
            x = torch.cat([context, x], 1)
        for index, block in enumerate(self.blocks):
            crossed = state.context[index] if state is not None and self.cross else None
            if self.cross and crossed is None:
                crossed = block.cross.keys_and_values(context)
            cache = None if state is None else (state.keys[index], state.values[index])
            x = block(x, self.rotation, crossed, cache)
        return self.norm(x[:, ahead:])


class CausalTransformer(SequenceNetwork):
    """A causal transformer over symbols.

    Args:
        embedding: A network from symbols to vectors of the stack's width.
        stack: The blocks; they must have a place for every symbol and for every vector of a prefix.
        width: Size of the vectors.
        features: Size of an output.

    Shape:
        Symbols ``(N, L, *symbol)``, a context ``(N, m, width)`` (where members may be absent, a pair with which are
        there, ``(N, m)``), outputs ``(N, L, features)``.
    """

    def __init__(self, embedding: nn.Module, stack: CausalStack, *, width: int, features: int) -> None:
        super().__init__()
        self.embedding, self.stack = embedding, stack
        self.first = nn.Parameter(torch.randn(width))
        self.head = zeroed(nn.Linear(width, features))

    def forward(self, symbols: Tensor, context: Attended | None = None) -> Tensor:
        return self.head(self.stack(shifted(self.embedding(symbols), self.first), context))

    def start(self, batch_shape: tuple[int, ...], context: Attended | None = None) -> StackState:
        return self.stack.start(torch.Size(batch_shape).numel(), self.first, context)

    def step(self, symbol: Tensor | None, state: StackState) -> tuple[Tensor, StackState]:
        rows = len(state.keys[0])
        x = self.first.expand(rows, 1, -1) if symbol is None else self.embedding(symbol).unsqueeze(1)
        return self.head(self.stack.step(x, state)[:, 0]), state

    def read(self, symbols: Tensor, state: StackState) -> tuple[Tensor, StackState]:
        known = torch.cat([self.first.expand(len(symbols), 1, -1), self.embedding(symbols)], 1)
        return self.head(self.stack.read(known, state)[:, -1]), state


@dataclass
class OrderedState(State):
    """The state of the stack, and for each row which place comes first, second, ..., ``(N, L)``; how many are known."""

    stack: StackState
    order: Tensor
    known: int


class AnyOrderTransformer(nn.Module):
    r"""A causal transformer that takes symbols in any order and gets with each the place that comes next.

    The vector of a symbol carries its own place and the place to be predicted, so one network gives
    :math:`p(x_{\sigma_i} \mid x_{\sigma_0}, \dots, x_{\sigma_{i-1}})` for every order :math:`\sigma`.

    Args:
        embedding: A network from symbols to vectors of the stack's width.
        stack: The blocks, without rotation.
        length: How many places there are.
        width: Size of the vectors.
        features: Size of an output.

    References:
        Uria, Murray and Larochelle 2014, "A deep and tractable density estimator", https://arxiv.org/abs/1310.1757
        Pannatier, Courdier and Fleuret 2024, "sigma-GPTs: A new approach to autoregressive models",
        https://arxiv.org/abs/2404.09562
    """

    def __init__(self, embedding: nn.Module, stack: CausalStack, *, length: int, width: int, features: int) -> None:
        super().__init__()
        self.embedding, self.stack, self.length = embedding, stack, length
        self.first = nn.Parameter(torch.randn(width))
        self.own = nn.Parameter(torch.randn(length, width))
        self.next = nn.Parameter(torch.randn(length, width))
        self.head = zeroed(nn.Linear(width, features))

    def ordered(self, order: Tensor | Sequence[int]) -> OrderedTransformer:
        """The sequence network for one order, or one for each row ``(N, L)``; symbols come in that order."""
        return OrderedTransformer(self, torch.as_tensor(order, device=self.first.device))


class OrderedTransformer(SequenceNetwork):
    """An :class:`AnyOrderTransformer` for given orders.

    Args:
        network: The network for all orders.
        order: Which place comes first, second, ...: ``(L,)``, or ``(N, L)`` for an order of each row.
    """

    def __init__(self, network: AnyOrderTransformer, order: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("order", order, persistent=False)

    def forward(self, symbols: Tensor, context: Attended | None = None) -> Tensor:
        order = self.order.expand(len(symbols), -1)
        known = shifted(self._known(symbols, order), self.network.first)
        return self.network.head(self.network.stack(known + self.network.next[order], context))

    def start(self, batch_shape: tuple[int, ...], context: Attended | None = None) -> OrderedState:
        rows = torch.Size(batch_shape).numel()
        return OrderedState(self.network.stack.start(rows, self.network.first, context), self.order.expand(rows, -1), 0)

    def step(self, symbol: Tensor | None, state: OrderedState) -> tuple[Tensor, OrderedState]:
        network, place = self.network, state.known
        x = network.next[state.order[:, place]]
        x = x + (network.first if symbol is None else self._known(symbol, state.order[:, place - 1]))
        state.known += 1
        return network.head(network.stack.step(x.unsqueeze(1), state.stack)[:, 0]), state

    def read(self, symbols: Tensor, state: OrderedState) -> tuple[Tensor, OrderedState]:
        network, count = self.network, symbols.shape[1]
        known = self._known(symbols, state.order[:, :count])
        first = network.first.expand(len(symbols), 1, -1)
        x = torch.cat([first, known], 1) + network.next[state.order[:, : count + 1]]
        state.known = count + 1
        return network.head(network.stack.read(x, state.stack)[:, -1]), state

    def _known(self, symbols: Tensor, places: Tensor) -> Tensor:
        return self.network.embedding(symbols) + self.network.own[places]


def _nothing(x: Tensor) -> Tensor:
    return x
