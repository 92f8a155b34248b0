"""Multilayer perceptrons, plain and parameter-major."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, count, sizes

from .blocks import whole
from .weighted import Projection, Structure, Weighted


def rectifier() -> nn.ReLU:
    """The rectified linear unit, in place: hidden layers need no second copy of their output."""
    return nn.ReLU(inplace=True)


class MLP(nn.Module):
    """A multilayer perceptron.

    Args:
        inputs: Size of the input's last dimension, with that of a context beside it.
        outputs: Size of the output's last dimension.
        hidden: Sizes of the hidden layers.
        activation: Makes the nonlinearity after each hidden layer.
        dropout: Share of the hidden units that are dropped in training.

    Shape:
        ``(*batch, inputs)`` to ``(*batch, outputs)``.

    Example:
        >>> MLP(3, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    @checked(hidden=sizes, inputs=count)
    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (128, 128),
        activation: Callable[[], nn.Module] = rectifier,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(before, after), activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(x if context is None else torch.cat([x, context], -1))


class Conditioner(nn.Module):
    """A perceptron that computes, for each of several features, the parameters of its map.

    Its output is *parameter-major*, ``(parameters, features, *batch)``: everything downstream works on long contiguous
    vectors. The last layer starts at zero. It is called through :meth:`weighted`; the part of the first layer that sees
    the context is computed apart, once for each context.

    Args:
        inputs: Size of the input's last dimension, possibly zero.
        features: How many features get parameters.
        parameters: How many parameters each feature gets.
        hidden: Sizes of the hidden layers, at least one.
        context: Size of the context vector, zero for none.
        activation: Makes the nonlinearity after each hidden layer.
        dropout: Share of the hidden units that are dropped in training.
        angles: Which inputs are angles, if any, one truth value for each: their cosines and sines are seen.

    Raises:
        ValueError: ``hidden`` is empty, or ``angles`` does not have one entry for each input.
    """

    @checked(inputs=count)
    def __init__(
        self,
        inputs: int,
        features: int,
        parameters: int,
        *,
        hidden: Sequence[int] = (128, 128),
        context: int = 0,
        activation: Callable[[], nn.Module] = rectifier,
        dropout: float = 0.0,
        angles: Sequence[bool] = (),
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("`hidden` must name at least one layer, got none")
        self.register_buffer("angles", places_of(angles, inputs), persistent=False)
        inputs += sum(angles)
        self.first = nn.Linear(inputs, hidden[0]) if inputs else None
        self.context = nn.Linear(context, hidden[0], bias=not inputs) if context else None
        if not inputs and not context:
            self.start = nn.Parameter(torch.zeros(hidden[0]))
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in zip(hidden, hidden[1:], strict=False))
        self.activation, self.dropout = activation(), dropout
        self.weight = nn.Parameter(torch.zeros(parameters, features, hidden[-1]))
        self.bias = nn.Parameter(torch.zeros(parameters, features))
        sizes = (inputs, *hidden)
        blocks = tuple(whole(after, before) for before, after in zip(sizes, hidden, strict=False))
        self.structure = Structure(self.activation, blocks, whole(features, hidden[-1]))

    def weighted(self, context: Tensor | None = None) -> Weighted:
        """The network in one call, for a context ``(*batch, context)`` that is projected whenever it is used."""
        layers = [self._first(), *((layer.weight, layer.bias) for layer in self.hidden), (self.weight, self.bias)]
        projection = None if context is None else Projection(context, self.context.weight, self.context.bias)
        dropout = self.dropout * self.training
        return Weighted(self.structure, layers, projection=projection, dropout=dropout, angles=self.angles)

    def _first(self) -> tuple[Tensor, Tensor]:
        if self.first is not None:
            return self.first.weight, self.first.bias
        start = self.start if self.context is None else torch.zeros_like(self.context.bias)
        return start.new_empty(len(start), 0), start


def places_of(angles: Sequence[bool], inputs: int) -> Tensor | None:
    """The places of angles among so many inputs, ``None`` if there are none.

    Raises:
        ValueError: ``angles`` is neither empty nor of one entry for each input.
    """
    if angles and len(angles) != inputs:
        raise ValueError(f"`angles` must have {inputs} entries, got {len(angles)}")
    return torch.tensor(angles, dtype=torch.bool).nonzero().flatten() if any(angles) else None
