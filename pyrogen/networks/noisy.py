"""Networks of noisy data, ``network(x, level, context)``: what they have in common, and how batches reach them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract

from .conditions import Conditions, ContextEncoder
from .context import Classes, Context, ContextShape, Shape, by_name, context_rows
from .noise_level import FourierFeatures
from .statistics import ReadsData, Statistic


class NoisyNetwork(Abstract, ReadsData, nn.Module):
    """A network of noisy data, a noise level and a context; subclasses define :meth:`compute`.

    Args:
        event_shape: Shape of one event.
        context_shape: As for :class:`~pyrogen.networks.conditions.ContextEncoder`.
        outputs: How many outputs each element of the event gets; ``None`` for one, without a dimension of its own.
        levels: How many numbers stand for the time of a datum: one, its noise level; or two, for a step to another.
        width: Size of the condition, in which level and vectors of the context add up.
        classes: How many values integer contexts take.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        context_dropout: Share of the rows that lose their context in training.
        flat: Whether sequences and images of the context, too, become vectors.

    Raises:
        ValueError: the context holds an image where events are none, or one of other sides.

    Shape:
        ``x`` is ``(*batch, *event_shape)``, ``level`` ``batch`` or ``(*batch, levels)``, the context has batch
        dimensions in front; all broadcast. The output is ``(*batch, *output_shape)``.
    """

    def __init__(
        self,
        event_shape: Shape,
        context_shape: ContextShape,
        *,
        outputs: int | None,
        levels: int = 1,
        width: int,
        classes: Classes,
        embedding: nn.Module | None,
        context_dropout: float,
        flat: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape, self.context_shape = tuple(event_shape), context_shape
        self.output_shape = (*(() if outputs is None else (outputs,)), *self.event_shape)
        self.level_shape: Shape = () if levels == 1 else (levels,)
        self.level = FourierFeatures(width, numbers=levels)
        self.context = ContextEncoder(
            context_shape,
            width,
            classes=classes,
            embedding=embedding,
            flat=flat,
            event_shape=None if flat else self.event_shape,
            dropout=context_dropout,
        )

    @abstractmethod
    def compute(self, x: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        """The outputs of N rows, ``(N, *output_shape)`` in whatever shape.

        Args:
            x: ``(N, *event_shape)``.
            condition: The condition made of level and vectors of the context, ``(N, width)``.
            given: Sequences of the context, and what of it stands beside the events.
        """

    def forward(self, x: Tensor, level: Tensor, context: Context = None) -> Tensor:
        inputs = flat_inputs(x, level, context, self.event_shape, self.context_shape, self.level_shape)
        given = self.context(inputs.context, len(inputs.x))
        condition = self.level(inputs.level)
        if given.vector is not None:
            condition = condition + given.vector
        outputs = self.compute(inputs.x, condition, given)
        return inputs.restore(outputs.reshape((len(inputs.x), *self.output_shape)))

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.context.read_data(context)


class FlatInputs(NamedTuple):
    """The inputs of a network with one batch dimension, and the batch shape they came with."""

    x: Tensor
    level: Tensor
    context: Context
    batch_shape: torch.Size

    def restore(self, output: Tensor) -> Tensor:
        """``(N, *shape)`` with the batch shape of the inputs."""
        return output.reshape((*self.batch_shape, *output.shape[1:]))


def flat_inputs(
    x: Tensor, level: Tensor, context: Context, event_shape: Shape, context_shape: ContextShape, level_shape: Shape = ()
) -> FlatInputs:
    """Broadcasts and flattens the batch dimensions of data, noise levels and contexts.

    Raises:
        ValueError: ``x`` does not end in ``event_shape``, or ``level`` in ``level_shape``.
    """
    batch_dim = x.dim() - len(event_shape)
    if batch_dim < 0 or x.shape[batch_dim:] != torch.Size(event_shape):
        raise ValueError(f"`x` must end in shape {tuple(event_shape)}, got {tuple(x.shape)}")
    level = torch.as_tensor(level, dtype=x.dtype if x.is_floating_point() else None, device=x.device)
    level_dim = level.dim() - len(level_shape)
    if level_dim < 0 or level.shape[level_dim:] != torch.Size(level_shape):
        raise ValueError(f"`level` must end in shape {tuple(level_shape)}, got {tuple(level.shape)}")
    shapes = by_name(context_shape)
    fronts = [part.shape[: part.dim() - len(shapes[key])] for key, part in by_name(context).items()]
    batch = torch.broadcast_shapes(x.shape[:batch_dim], level.shape[:level_dim], *fronts)
    return FlatInputs(
        x.expand((*batch, *event_shape)).reshape((prod(batch), *event_shape)),
        level.expand((*batch, *level_shape)).reshape((prod(batch), *level_shape)),
        context_rows(context, context_shape, batch),
        batch,
    )


def beside(x: Tensor, given: Conditions) -> Tensor:
    """Noisy events ``(N, channels, *places)`` with what stands beside them as further channels.

    Places that are absent hold zeros.
    """
    if given.shown is not None:
        x = torch.where(given.shown.unsqueeze(1), x, 0.0)
    return x if given.beside is None else torch.cat([x, given.beside.expand(len(x), -1, *x.shape[2:])], 1)
