r"""Block neural autoregressive transforms: one masked network whose blocks on the diagonal are positive.

Each of ``D`` elements owns a few units in every layer. A unit sees those of its own element through positive weights
and those of elements before it through any, so :math:`f_i(x)` increases in :math:`x_i` and depends on
:math:`x_{\le i}` only. The slope :math:`\partial f_i / \partial x_i` is the product of the positive blocks and the
slopes of the nonlinearities along one element.

The units are bounded, so :math:`f` alone does not reach all of the real line, and its "density" lacks the mass it does
not reach. Mixed with the identity,

.. math:: y_i = (1 - \alpha_i)\, x_i + \alpha_i\, f_i(x), \qquad 0 < \alpha_i < 1,

it does: every slope is at least :math:`1 - \alpha_i`, tails are straight, and :math:`y_i` runs over the real line.

References:
    De Cao, Aziz and Titov 2019, "Block neural autoregressive flow", https://arxiv.org/abs/1904.04676
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.networks.weighted import Projection

from .monotone import invert
from .transform import VectorTransform


class BlockLayer(NamedTuple):
    """The weights of one layer, from ``I`` to ``O`` units for each of ``D`` elements.

    Args:
        diagonal: Positive weights within an element, ``(D, O, I)``.
        lower: Weights from the units of all elements, zero but for those before, ``(D, O, D * I)``.
        bias: Shape ``(D, O, 1)``, or ``(D, O, N)`` with a context in it.
    """

    diagonal: Tensor
    lower: Tensor
    bias: Tensor


class RawLayer(NamedTuple):
    """What the weights of a :class:`BlockLayer` are computed from, whenever they are used.

    Args:
        share: Logits of the weights within an element, ``(D, O, I)``; ``None`` for one.
        gain: Logarithms of their sums, before they are clipped, ``(D, O, 1)``.
        lower: Weights from the units of all elements, ``(D, O, D * I)``.
        mask: Zero but for the elements before, of a shape that broadcasts to it.
        bias: Shape ``(D, O, 1)``.
    """

    share: Tensor | None
    gain: Tensor
    lower: Tensor
    mask: Tensor
    bias: Tensor

    def weights(self) -> BlockLayer:
        """The weights, those within an element the shares of a bounded total gain."""
        gain = (self.gain / (1 + self.gain.abs() / 5)).exp()
        diagonal = gain if self.share is None else self.share.softmax(-1) * gain
        return BlockLayer(diagonal, self.lower * self.mask, self.bias)


class BlockNeural(VectorTransform):
    r"""A block neural autoregressive transform of a (flattened) event of ``D`` elements.

    Args:
        layers: The network's.
        raw_gate: The logit of :math:`\alpha / 0.99`, shape ``(D,)``.
        order: Which element comes when.
        event_shape: Shape of one event.
        projection: Makes of a context what it adds to the first bias, ``(*batch, D * O)``.
    """

    def __init__(
        self,
        layers: Sequence[RawLayer],
        raw_gate: Tensor,
        order: Tensor,
        event_shape: tuple[int, ...],
        projection: Projection | None = None,
    ) -> None:
        super().__init__(event_shape, torch.Size() if projection is None else projection.context.shape[:-1])
        self.layers, self.raw_gate, self.order, self.projection = layers, raw_gate, order, projection

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, (layers, gate), batch = self._rows(x)

        def offset(index: int, units: Tensor) -> Tensor:
            return layers[index].lower @ units.flatten(0, 1) + layers[index].bias

        value, log_slope, _ = _through([layer.diagonal for layer in layers], gate.unsqueeze(1), rows, offset)
        return self._events(value, batch), log_slope.sum(0).reshape(batch)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Element by element, by root finding; units of the elements before are computed once."""
        rows, (layers, gate), batch = self._rows(y)
        found: list[Tensor] = []
        total = torch.zeros_like(rows[0])
        seen = [rows.new_zeros(len(rows), layer.diagonal.shape[2], rows.shape[1]) for layer in layers]
        for place in range(len(rows)):
            offsets = [layer.lower[place] @ units.flatten(0, 1) + layer.bias[place]
                       for layer, units in zip(layers, seen, strict=True)]  # fmt: skip
            diagonals = [layer.diagonal[place] for layer in layers]
            element = partial(_through, diagonals, gate[place], offset=lambda index, _, at=offsets: at[index])
            x = invert(lambda x, element=element: element(x)[:2], rows[place])
            _, log_slope, units = element(x)
            here = torch.arange(len(rows), device=x.device).reshape(-1, 1, 1) == place
            seen = [torch.where(here, new, old) for new, old in zip(units, seen, strict=True)]
            found.append(x)
            total = total - log_slope
        return self._events(torch.stack(found), batch), total.reshape(batch)

    def _rows(self, x: Tensor) -> tuple[Tensor, tuple[list[BlockLayer], Tensor], torch.Size]:
        """Events as ``(D, N)`` in the transform's order; layers with the context in them and gate; batch dimensions."""
        batch = torch.broadcast_shapes(x.shape[:-1], self.batch_shape)
        rows = x.expand(*batch, x.shape[-1]).reshape(batch.numel(), x.shape[-1]).T.index_select(0, self.order)
        first, *others = (layer.weights() for layer in self.layers)
        if self.projection is not None:
            units = first.bias.shape[:2]
            projected = self.projection().expand(*batch, units.numel()).reshape(batch.numel(), *units)
            first = first._replace(bias=first.bias + projected.movedim(0, -1))
        return rows, ([first, *others], 0.99 * self.raw_gate.sigmoid()), batch

    def _events(self, rows: Tensor, batch: torch.Size) -> Tensor:
        return rows.index_select(0, self.order.argsort()).T.reshape(*batch, len(rows))


def _through(
    diagonals: Sequence[Tensor], gate: Tensor, x: Tensor, offset: Callable[[int, Tensor], Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Value and log-slope of elements ``(..., N)``, and their units in each layer, ``(..., units, N)``.

    ``offset`` gives what bias and elements before add to a layer, from its index and the units below.
    """
    units, slope = [x.unsqueeze(-2)], torch.ones_like(x).unsqueeze(-2)
    *inner, last = diagonals
    for index, diagonal in enumerate(inner):
        units.append((diagonal @ units[-1] + offset(index, units[-1])).tanh())
        slope = diagonal @ slope * (1 - units[-1].square())
    value, slope = (last @ units[-1] + offset(len(inner), units[-1])).squeeze(-2), (last @ slope).squeeze(-2)
    return x + gate * (value - x), (1 + gate * (slope - 1)).log(), units
