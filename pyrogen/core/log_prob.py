"""Scoring more data than memory holds at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyrogen.arguments import checked
from pyrogen.arrays import takes_arrays
from pyrogen.numerics.values import require_numbers

from .modes import evaluating
from .module import DistributionModule
from .shapes import Context, Shape, batch_shape_of, context_batch_shape


@takes_arrays
@checked
def log_prob(module: DistributionModule, x: Tensor, context: Context = None, *, rows: int = 1024) -> Tensor:
    """The ``log_prob`` of any number of data, so many rows at a time.

    Without gradients, and with the module in evaluation mode for as long as it takes. The batch dimensions of ``x`` and
    of the context broadcast; what is broadcast is never held in memory beyond one chunk.

    Args:
        module: Whose ``log_prob`` is wanted.
        x: Events.
        context: As the module takes it.
        rows: Events in a chunk.

    Shape:
        The batch dimensions of ``x``, broadcast with those of the context; nats, on the device of ``x``.

    Raises:
        ValueError: ``rows`` is not positive, or ``x`` or ``context`` has the wrong shape or dtype.

    Example:
        >>> import pyrogen as pg
        >>> encoder = pg.Parametric(nn.Linear(4, 6), pg.families.diagonal_normal, event_shape=3, context_shape=4)
        >>> log_prob(encoder, torch.zeros(1000, 3), torch.zeros(4), rows=300).shape
        torch.Size([1000])
    """
    batch = batch_shape_of(x, module.event_shape, "x")
    batch = torch.broadcast_shapes(batch, context_batch_shape(context, module.context_shape))
    with torch.no_grad(), evaluating(module):
        if batch.numel() <= rows:
            return _score(module, x, context)
        scores = [
            _score(module, _at(x, module.event_shape, batch, index), _context_at(context, module, batch, index))
            for index in _indices(batch, rows, x.device)
        ]
    return torch.cat(scores).reshape(batch)


def _score(module: DistributionModule, x: Tensor, context: Context) -> Tensor:
    distribution = module(context)
    if module.density is not None:
        require_numbers(x, distribution.support, module.parameters(), "x")
    return distribution.log_prob(x)


def _indices(batch: torch.Size, rows: int, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """For each chunk, where its rows are in the batch dimensions."""
    for start in range(0, batch.numel(), rows):
        stop = min(start + rows, batch.numel())
        yield torch.unravel_index(torch.arange(start, stop, device=device), batch)


def _context_at(context: Context, module: DistributionModule, batch: torch.Size, index: tuple[Tensor, ...]) -> Context:
    if isinstance(context, Mapping):
        return {key: _at(context[key], shape, batch, index) for key, shape in module.context_shape.items()}
    return None if context is None else _at(context, module.context_shape, batch, index)


def _at(value: Tensor, event_shape: Shape, batch: torch.Size, index: tuple[Tensor, ...]) -> Tensor:
    """Rows of a tensor as if it had all batch dimensions; one without any stays as it is, to be used once."""
    if value.dim() == len(event_shape):
        return value
    return value.expand(*batch, *event_shape)[tuple(part.to(value.device) for part in index)]
