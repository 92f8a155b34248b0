r"""A conditioner in one call: a rectifier network that gives, for each of several features, the parameters of its map.

:meth:`Weighted.__call__` is the definition, by differentiable operations; :mod:`pyrogen.transforms.kernels` holds the
same together with what its outputs parameterize, with a backward pass written by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Blocks

Layer = tuple[Tensor, Tensor]


class Structure(NamedTuple):
    """What of a network does not change from call to call.

    Args:
        activation: The nonlinearity after each hidden layer.
        blocks: Of each hidden layer, the blocks outside which its weight is zero.
        parts: Ranges of features that are computed one after the other, each with the units it sees.
    """

    activation: nn.Module
    blocks: tuple[Blocks, ...]
    parts: Blocks


class Projection(NamedTuple):
    """A context ``(*batch, context)`` and the linear map that makes of it what a first hidden layer gets."""

    context: Tensor
    weight: Tensor
    bias: Tensor | None

    def __call__(self) -> Tensor:
        """What is added to the first hidden layer, ``(*batch, units)``."""
        return F.linear(self.context.to(self.weight.dtype), self.weight, self.bias)


def on_circle(x: Tensor, angles: Tensor) -> Tensor:
    """Inputs with the cosines of angles in their places and the sines behind, ``(*batch, inputs + angles)``."""
    turned = x.index_select(-1, angles)
    return torch.cat([x.index_copy(-1, angles, turned.cos()), turned.sin()], -1)


class Weighted(NamedTuple):
    """A conditioner's network with the weights of one call, a projected context, and the units that are dropped.

    With a :class:`Projection` it can be used again and again, each time with a graph of its own: the tensors it holds
    are those of the module and the context, and :meth:`projecting` comes first.

    Args:
        structure: What does not change.
        layers: Weights and biases. The last ``(parameters, features, units)`` and ``(parameters, features)``.
        masks: What the weights are multiplied by, if anything.
        projected: What a context adds to the first hidden layer, ``(*batch, units)``.
        projection: What :meth:`projecting` makes that of.
        dropout: Share of the hidden units that :meth:`dropping` drops.
        dropped: Factors of the hidden units of each layer, zero where one is dropped.
        angles: Which inputs are angles, by index, of which the first layer sees cosines and, behind all others, sines.
    """

    structure: Structure
    layers: Sequence[Layer]
    masks: Sequence[Tensor] = ()
    projected: Tensor | None = None
    projection: Projection | None = None
    dropout: float = 0.0
    dropped: Sequence[Tensor] = ()
    angles: Tensor | None = None

    @property
    def batch_shape(self) -> torch.Size:
        """Batch dimensions of the context."""
        given = self.projected if self.projection is None else self.projection.context
        return torch.Size() if given is None else given.shape[:-1]

    @property
    def tensors(self) -> list[Tensor]:
        """Weights and biases in a row."""
        return [tensor for layer in self.layers for tensor in layer]

    @property
    def masked(self) -> Sequence[Layer]:
        """Weights, their masks multiplied in, and biases."""
        if not self.masks:
            return self.layers
        return [(weight * mask, bias) for (weight, bias), mask in zip(self.layers, self.masks, strict=True)]

    def given(self, tensors: Sequence[Tensor], projected: Tensor | None) -> Weighted:
        """The same with other numbers; dropped units stay dropped."""
        layers = list(zip(tensors[0::2], tensors[1::2], strict=True))
        return self._replace(layers=layers, projected=projected)

    def projecting(self) -> Weighted:
        """The same with its context projected."""
        return self if self.projection is None else self._replace(projected=self.projection(), projection=None)

    def shares_context(self, batch: torch.Size) -> bool:
        """Whether several rows of a batch have the same context, and no unit is dropped for each row by itself."""
        if self.projected is None or self.dropout:
            return False
        return self.batch_shape.numel() < torch.broadcast_shapes(batch, self.batch_shape).numel()

    def for_rows(self, batch: torch.Size) -> Weighted:
        """The same with one row for each place of ``batch``, to which the context's batch dimensions broadcast."""
        if self.projected is None:
            return self
        projected = self.projected.expand(*batch, -1).reshape(-1, self.projected.shape[-1])
        return self._replace(projected=projected)

    def dropping(self, rows: int) -> Weighted:
        """The same with units newly dropped for each of so many rows."""
        if not self.dropout:
            return self
        keep = 1 - self.dropout
        chances = [weight.new_full((rows, len(bias)), keep) for weight, bias in self.layers[:-1]]
        dropped = [chance.bernoulli().div_(keep) for chance in chances]
        return self._replace(dropout=0.0, dropped=dropped)

    def __call__(self, x: Tensor) -> Tensor:
        """The parameters, ``(parameters, features, *batch)``, from ``x`` of shape ``(*batch, inputs)``."""
        *layers, (last, last_bias) = self.masked
        h = x if self.angles is None else on_circle(x, self.angles)
        for index, (weight, bias) in enumerate(layers):
            h = F.linear(h, weight, bias)
            if self.projected is not None and index == 0:
                h = h + self.projected
            h = self.structure.activation(h)
            h = h * self.dropped[index] if self.dropped else h
        out = torch.addmm(last_bias.reshape(-1, 1), last.flatten(0, 1), h.reshape(-1, h.shape[-1]).T)
        return out.reshape(*last_bias.shape, *h.shape[:-1])

    def premultiplied(self) -> Weighted:
        """The same with the masks multiplied in."""
        return self._replace(layers=self.masked, masks=()) if self.masks else self
