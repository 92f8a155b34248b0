r"""The gated PixelCNN: an image row by row, each pixel depending on all before it and none after; and its caches.

Two stacks of convolutions run side by side. The *vertical* one sees the rows above, the *horizontal* one the pixels to
the left in its own row and the output of the vertical stack. Both take an image that is shifted by one (down, and to
the right), so that no weight needs a mask and there is no blind spot.

In steps, the vertical stack runs once for each row, over that row alone, from the rows each of its layers has kept. A
pixel then costs a few small matrix products.

References:
    van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders", https://arxiv.org/abs/1606.05328
    Salimans, Karpathy, Chen and Kingma 2017, "PixelCNN++", https://arxiv.org/abs/1701.05517
    Ramachandran et al. 2017, "Fast generation for convolutional autoregressive models",
    https://arxiv.org/abs/1704.06001
    Chen, Mishra, Rohaninejad and Abbeel 2018, "PixelSNAIL: An improved autoregressive generative model",
    https://arxiv.org/abs/1712.09763
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, dropout, pad

from pyrogen.arguments import checked, integer

from .causal_transformer import CausalAttention
from .noise_level import zeroed
from .sequence import Numbers, SequenceNetwork, State
from .wavenet import gated


@dataclass
class RowState(State):
    """What a :class:`PixelCNN` keeps.

    Args:
        row: Embedded pixels of the current row, ``(N, columns, width)``.
        above: For each layer, the last rows that came into its vertical part, ``(N, width, reach, columns)``.
        linked: For each layer, what the vertical part gives to the current row, ``(N, columns, 2 width)``.
        left: For each layer, the last vectors that came into its horizontal part, ``(N, reach, width)``.
        keys: For each attention block, the keys so far, ``(N, heads, L, size)``.
        values: The values.
        conditions: For each layer, ``(N, 1 or L, 4 width)``.
        place: How many outputs were given.
    """

    row: Tensor
    above: list[Tensor]
    linked: list[Tensor]
    left: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    conditions: list[Tensor | None]
    place: int


class GatedLayer(nn.Module):
    """One layer of both stacks.

    Dropout belongs to training: it acts in one pass, never in steps.

    Args:
        width: Size of the vectors.
        kernel: How wide the convolutions are; odd.
        context: Size of the context vectors, 0 for none.
        dropout: Share of the gated units dropped in training.
        last: Whether no layer comes after it, which would take the residual of its vertical part.
    """

    def __init__(self, width: int, kernel: int = 3, context: int = 0, dropout: float = 0.0, last: bool = False) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.vertical = nn.Conv2d(width, 2 * width, (self.reach + 1, kernel))
        self.vertical_residual = None if last else nn.Conv2d(width, width, 1, bias=False)
        self.link = nn.Conv2d(2 * width, 2 * width, 1, bias=False)
        self.horizontal = nn.Linear((self.reach + 1) * width, 2 * width)  # as a matrix, which is what a step needs
        self.horizontal_residual = nn.Linear(width, width, bias=False)
        self.condition = nn.Linear(context, 4 * width, bias=False) if context else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, above: Tensor, left: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks, ``(N, width, rows, columns)``; conditions are ``(N, 4 width, rows or 1, columns or 1)``."""
        vertical, horizontal = (None, None) if condition is None else condition.chunk(2, 1)
        above, linked = self.down(pad(above, (0, 0, self.reach, 0)), vertical, training=self.training)
        weight = self.horizontal.weight.unflatten(1, (self.reach + 1, -1)).transpose(1, 2).unsqueeze(2).contiguous()
        sums = conv2d(pad(left, (self.reach, 0, 0, 0)), weight, self.horizontal.bias) + linked
        gates = self.dropout(gated(sums if horizontal is None else sums + horizontal, 1))
        return above, left + conv2d(gates, self.horizontal_residual.weight[..., None, None])

    def down(self, rows: Tensor, condition: Tensor | None, *, training: bool = False) -> tuple[Tensor, Tensor]:
        """The vertical part: rows with those they need above, to the same rows and the input of the horizontal one."""
        sums = self.vertical(pad(rows, (self.reach, self.reach, 0, 0)))
        if condition is not None:
            sums = sums + condition
        rows = rows[:, :, self.reach :]
        if self.vertical_residual is not None:
            rows = rows + self.vertical_residual(dropout(gated(sums, 1), self.dropout.p, training))
        return rows, self.link(sums)

    def right(self, x: Tensor, left: Tensor, linked: Tensor) -> Tensor:
        """The horizontal part for one pixel ``(N, width)``; ``linked`` holds biases and conditions too."""
        sums = torch.addmm(linked, torch.cat([left.flatten(1), x], 1), self.horizontal.weight.t())
        gates = gated(sums, 1)
        return torch.addmm(x, gates, self.horizontal_residual.weight.t())


class PixelAttention(nn.Module):
    """Each pixel of the horizontal stack attends to itself and all before it.

    Args:
        width: Size of the vectors.
        heads: How many heads; they divide the width.
        places: How many pixels there are.
    """

    def __init__(self, width: int, heads: int, places: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"`width` must be a multiple of `heads` ({heads}), got {width}")
        self.places = nn.Parameter(0.1 * torch.randn(places, width))
        self.norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, heads)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, L, width)`` to the same."""
        return x + self.attention(self.norm(x) + self.places, None)

    def step(self, x: Tensor, cache: tuple[Tensor, Tensor], place: int) -> Tensor:
        """One place, ``(N, width)``; keys and values are filled in place."""
        now = (self.norm(x) + self.places[place]).unsqueeze(1)
        return x + self.attention.step(now, None, cache, place)[:, 0]


class PixelCNN(SequenceNetwork):
    """A gated PixelCNN over images as sequences of pixels, row by row.

    Args:
        embedding: A network from pixels to vectors of size ``width``.
        shape: Rows and columns.
        width: Size of the vectors.
        features: Size of an output.
        depth: How many layers.
        kernel: How wide the convolutions are; odd.
        context: Size of the context vectors, 0 for none.
        attention: How many attention blocks stand among the layers, the last at the end.
        heads: How many heads they have.
        dropout: Share of the gated units dropped in training.

    Shape:
        Symbols ``(N, rows * columns, *symbol)``; a context ``(N, context)`` for the image or ``(N, rows * columns,
        context)`` for every pixel; outputs ``(N, rows * columns, features)``.

    Raises:
        ValueError: ``kernel`` is even, there are more attention blocks than layers, or heads do not divide the width.
    """

    @checked(kernel=integer)
    def __init__(
        self,
        embedding: nn.Module,
        *,
        shape: tuple[int, int],
        width: int,
        features: int,
        depth: int = 6,
        kernel: int = 3,
        context: int = 0,
        attention: int = 0,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd and at least 3, got {kernel}")
        if not 0 <= attention <= depth:
            raise ValueError(f"`attention` must lie between 0 and `depth` ({depth}), got {attention}")
        self.embedding, self.shape, self.width = embedding, shape, width
        self.layers = nn.ModuleList(
            GatedLayer(width, kernel, context, dropout, last=layer == depth - 1) for layer in range(depth)
        )
        spread = [round((block + 1) * depth / attention) - 1 for block in range(attention)]
        places = shape[0] * shape[1]
        self.attention = nn.ModuleDict({str(layer): PixelAttention(width, heads, places) for layer in spread})
        self.hidden = nn.Linear(width, width)
        self.head = zeroed(nn.Linear(width, features))

    def forward(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        image = self.embedding(symbols).unflatten(1, self.shape).permute(0, 3, 1, 2)
        above, left = pad(image, (0, 0, 1, -1)), pad(image, (1, -1, 0, 0))
        for index, layer in enumerate(self.layers):
            above, left = layer(above, left, self._condition(layer, context, image))
            if str(index) in self.attention:
                left = self._attended(self.attention[str(index)], left)
        return self._output(left.flatten(2).transpose(1, 2))

    def start(self, batch_shape: tuple[int, ...], context: Tensor | None = None) -> RowState:
        rows, (height, columns), layers = torch.Size(batch_shape).numel(), self.shape, self.layers
        new, heads = self.head.weight.new_zeros, [block.attention.heads for block in self.attention.values()]
        keys, values = ([new(rows, n, height * columns, self.width // n) for n in heads] for _ in range(2))
        context = None if context is None else context.reshape(rows, -1, context.shape[-1])
        return RowState(
            row=new(rows, columns, self.width),
            above=[new(rows, self.width, layer.reach, columns) for layer in layers],
            linked=[new(rows, columns, 2 * self.width) for _ in layers],
            left=[new(rows, layer.reach, self.width) for layer in layers],
            keys=keys,
            values=values,
            conditions=[None if context is None else layer.condition(context) for layer in layers],
            place=0,
        )

    def step(self, symbol: Tensor | None, state: RowState) -> tuple[Tensor, RowState]:
        row, column = divmod(state.place, self.shape[1])
        if symbol is not None:
            state.row[:, column - 1] = x = self.embedding(symbol)  # the last column of the row before, if this is new
        if column == 0:
            self._next_row(row, state)
            x = torch.zeros_like(state.row[:, 0])
        caches = iter(zip(state.keys, state.values, strict=True))
        for index, layer in enumerate(self.layers):
            left, entered = state.left[index], x
            x = layer.right(x, left, state.linked[index][:, column])
            state.left[index] = torch.cat([left[:, 1:], entered.unsqueeze(1)], 1)
            if str(index) in self.attention:
                x = self.attention[str(index)].step(x, next(caches), state.place)
        state.place += 1
        return self._output(x), state

    def _next_row(self, row: int, state: RowState) -> None:
        """Runs the vertical stack over one row, and empties what was to the left."""
        above = state.row.transpose(1, 2).unsqueeze(2)  # the row before; zeros in front of the first
        for index, layer in enumerate(self.layers):
            vertical, horizontal = self._row_conditions(state.conditions[index], row)
            rows = torch.cat([state.above[index], above], 2)
            state.above[index] = rows[:, :, 1:]
            above, linked = layer.down(rows, vertical)
            linked = linked[:, :, 0].transpose(1, 2) + layer.horizontal.bias
            state.linked[index] = linked if horizontal is None else linked + horizontal
            state.left[index] = torch.zeros_like(state.left[index])

    def _row_conditions(self, condition: Tensor | None, row: int) -> tuple[Tensor | None, Tensor | None]:
        """Those of one row: ``(N, 2 width, 1, columns or 1)`` and ``(N, columns or 1, 2 width)``."""
        if condition is None:
            return None, None
        columns = self.shape[1]
        if condition.shape[1] > 1:
            condition = condition[:, row * columns : (row + 1) * columns]
        vertical, horizontal = condition.chunk(2, -1)
        return vertical.transpose(1, 2).unsqueeze(2), horizontal

    def _condition(self, layer: GatedLayer, context: Tensor | None, image: Tensor) -> Tensor | None:
        if context is None:
            return None
        condition = layer.condition(context)
        if context.dim() == 2:
            return condition[:, :, None, None]
        return condition.transpose(1, 2).unflatten(2, self.shape)

    def _attended(self, block: PixelAttention, left: Tensor) -> Tensor:
        return block(left.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, self.shape)

    def _output(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x.relu()).relu())


class Intensities(nn.Module):
    """Quantized values, few or many, as vectors: scaled to lie between -1 and 1, then a linear map.

    Args:
        symbol_shape: ``()`` for grey pixels, ``(channels,)`` for others.
        symbols: How many values a channel can take, counted from zero.
        width: Size of the vectors.

    Shape:
        ``(*shape, *symbol)`` to ``(*shape, width)``.
    """

    def __init__(self, symbol_shape: tuple[int, ...], symbols: int, width: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.numbers = Numbers(symbol_shape, width)

    def forward(self, values: Tensor) -> Tensor:
        values = values.to(self.numbers.linear.weight.dtype)
        return self.numbers(values * (2 / (self.symbols - 1)) - 1)
