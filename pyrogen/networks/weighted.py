r"""A conditioner in one call: a rectifier network that gives, for each of several features, the parameters of its map.

The call is written twice. :meth:`Weighted.__call__` is the definition, by differentiable operations. The passes
(:meth:`Weighted.hidden`, :meth:`Weighted.outputs` and their gradients) are for those who write their own backward pass:
they keep what is needed, work in place, and leave out the blocks of a masked weight that are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Blocks, MatrixBlock, linear, linear_by_input, linear_by_weight
from .blocks import product as _product

Layer = tuple[Tensor, Tensor]
_WIDE = 100
"""From so many outputs on, keeping hidden units feature-major pays (measured)."""


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


class Weighted:
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
    """

    def __init__(
        self,
        structure: Structure,
        layers: Sequence[Layer],
        masks: Sequence[Tensor] = (),
        projected: Tensor | None = None,
        *,
        projection: Projection | None = None,
        dropout: float = 0.0,
        dropped: Sequence[Tensor] = (),
    ) -> None:
        self.structure, self.layers, self.masks, self.projected = structure, layers, masks, projected
        self.projection, self.dropout, self.dropped = projection, dropout, dropped

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

    @property
    def has_passes(self) -> bool:
        """Whether the passes with written gradients may be used."""
        return isinstance(self.structure.activation, nn.ReLU)

    def given(self, tensors: Sequence[Tensor], projected: Tensor | None) -> Weighted:
        """The same with other numbers; dropped units stay dropped."""
        layers = list(zip(tensors[0::2], tensors[1::2], strict=True))
        return Weighted(self.structure, layers, self.masks, projected, dropped=self.dropped)

    def projecting(self) -> Weighted:
        """The same with its context projected."""
        if self.projection is None:
            return self
        return Weighted(self.structure, self.layers, self.masks, self.projection(), dropout=self.dropout)

    def for_rows(self, batch: torch.Size) -> Weighted:
        """The same with one row for each place of ``batch``, to which the context's batch dimensions broadcast."""
        if self.projected is None:
            return self
        projected = self.projected.expand(*batch, -1).reshape(-1, self.projected.shape[-1])
        return Weighted(self.structure, self.layers, self.masks, projected, dropout=self.dropout)

    def dropping(self, rows: int) -> Weighted:
        """The same with units newly dropped for each of so many rows."""
        if not self.dropout:
            return self
        keep = 1 - self.dropout
        chances = [weight.new_full((rows, len(bias)), keep) for weight, bias in self.layers[:-1]]
        dropped = [chance.bernoulli().div_(keep) for chance in chances]
        return Weighted(self.structure, self.layers, self.masks, self.projected, dropped=dropped)

    def __call__(self, x: Tensor) -> Tensor:
        """The parameters, ``(parameters, features, *batch)``, from ``x`` of shape ``(*batch, inputs)``."""
        *layers, (last, last_bias) = self.masked
        h = x
        for index, (weight, bias) in enumerate(layers):
            h = F.linear(h, weight, bias)
            if self.projected is not None and index == 0:
                h = h + self.projected
            h = self.structure.activation(h)
            h = h * self.dropped[index] if self.dropped else h
        out = torch.addmm(last_bias.reshape(-1, 1), last.flatten(0, 1), h.reshape(-1, h.shape[-1]).T)
        return out.reshape(*last_bias.shape, *h.shape[:-1])

    def prepared(self) -> Weighted:
        """The same with the masks multiplied in, for the passes below."""
        if not self.masks:
            return self
        return Weighted(self.structure, self.masked, (), self.projected, dropped=self.dropped)

    def hidden(self, x: Tensor) -> list[Tensor]:
        """The hidden units of each layer, ``(N, units)``, from ``x`` of shape ``(N, inputs)``; not differentiable."""
        found, wide = [], self._wide
        for index, ((weight, bias), blocks) in enumerate(zip(self.layers, self.structure.blocks, strict=False)):
            x = linear(x, weight, bias, blocks, wide)
            if self.projected is not None and index == 0:
                x += self.projected
            x.relu_()
            if self.dropped:
                x *= self.dropped[index]
            found.append(x)
        return found

    def outputs(self, units: Tensor, part: MatrixBlock) -> Tensor:
        """The parameters of some features, ``(parameters, features * N)``, from the last hidden units."""
        weight, bias = self.layers[-1]
        if len(self.structure.parts) > 1:
            weight, bias, units = weight[:, part.rows, part.columns], bias[:, part.rows], units[:, part.columns]
        out = torch.addmm(bias.reshape(-1, 1), weight.flatten(0, 1), units.t())
        return out.view(weight.shape[0], -1)

    def outputs_gradients(self, units: Tensor, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients with respect to the last hidden units, weight and bias, from those of :meth:`outputs`."""
        weight, bias = self.layers[-1]
        if len(gradients) == 1:
            gradient = gradients[0].view(-1, units.shape[0])
            by_units = _product(gradient.t(), weight.flatten(0, 1), self._wide)
            return by_units, (gradient @ units).view_as(weight), gradient.sum(1).view_as(bias)
        by_units, by_weight, by_bias = torch.zeros_like(units), torch.zeros_like(weight), torch.empty_like(bias)
        for (rows, columns), gradient in zip(self.structure.parts, gradients, strict=True):
            gradient = gradient.view(-1, units.shape[0])
            shape = by_bias[:, rows].shape
            by_weight[:, rows, columns] = (gradient @ units[:, columns]).view(*shape, -1)
            by_bias[:, rows] = gradient.sum(1).view(shape)
            by_units[:, columns].addmm_(gradient.t(), weight[:, rows, columns].flatten(0, 1))
        return by_units, by_weight, by_bias

    def hidden_gradients(
        self, x: Tensor, hidden: Sequence[Tensor], gradient: Tensor, *, by_input: bool
    ) -> tuple[Tensor | None, Tensor, list[Tensor]]:
        """Gradients with respect to ``x`` (if asked for), the first units before their nonlinearity, and the layers.

        Args:
            x: What :meth:`hidden` was given.
            hidden: What it gave.
            gradient: With respect to the last of it; overwritten.
            by_input: Whether the gradient with respect to ``x`` is needed.
        """
        found: list[Tensor] = []
        for index in range(len(hidden) - 1, -1, -1):
            if self.dropped:
                gradient *= self.dropped[index]
            torch.ops.aten.threshold_backward.grad_input(gradient, hidden[index], 0, grad_input=gradient)
            weight, blocks = self.layers[index][0], self.structure.blocks[index]
            if index:
                found[:0] = linear_by_weight(gradient, hidden[index - 1], blocks), gradient.sum(0)
                gradient = linear_by_input(gradient, weight, blocks, self._wide)
        found[:0] = (x.t() @ gradient).t(), gradient.sum(0)  # few inputs: this order is the fastest
        return (weight.t() @ gradient.t()).t() if by_input else None, gradient, found

    @property
    def _wide(self) -> bool:
        return self.layers[-1][1].numel() >= _WIDE
