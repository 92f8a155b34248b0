"""Shapes: of events, batches and contexts, and the errors where they do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import torch
from torch import Tensor, nn

from pyrogen import arguments
from pyrogen.networks.context import Context, ContextShape, Shape, context_rows
from pyrogen.numerics.rows import shaped


def as_shape(shape: int | Iterable[int], name: str) -> Shape:
    """A shape as a tuple of positive integers.

    Raises:
        TypeError: ``shape`` is neither an integer nor a sequence of such.
        ValueError: a size is not positive.
    """
    return arguments.shape(shape, name)


def as_context_shape(shape: ContextShape) -> ContextShape:
    """``None``, one shape, or a dict of shapes, each as a tuple."""
    return arguments.context_shape(shape, "context_shape")


def batch_shape_of(value: Tensor, event_shape: Shape, name: str) -> torch.Size:
    """The batch dimensions of ``value``: all those to the left of ``event_shape``.

    Raises:
        ValueError: ``value`` does not end in ``event_shape``.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"`{name}` must be a tensor, got {type(value).__name__}")
    batch_dim = value.dim() - len(event_shape)
    if batch_dim < 0 or value.shape[batch_dim:] != torch.Size(event_shape):
        raise ValueError(f"`{name}` must end in shape {tuple(event_shape)}, got {tuple(value.shape)}")
    return value.shape[:batch_dim]


def context_batch_shape(context: Context, context_shape: ContextShape) -> torch.Size:
    """The batch dimensions of a context; those of several tensors broadcast.

    Raises:
        ValueError: the context is missing, unexpected, has other keys than declared or ends in another shape.
    """
    if context_shape is None:
        if context is not None:
            raise ValueError("`context` must be None for a module without `context_shape`, got a context")
        return torch.Size()
    if context is None:
        raise ValueError(f"`context` must end in shape {context_shape}, got None")
    if not isinstance(context_shape, dict):
        return batch_shape_of(context, context_shape, "context")
    if not isinstance(context, Mapping) or set(context) != set(context_shape):
        got = sorted(context) if isinstance(context, Mapping) else type(context).__name__
        raise ValueError(f"`context` must be a dict with the keys {sorted(context_shape)}, got {got}")
    fronts = {
        f"context[{key!r}]": batch_shape_of(context[key], shape, f"context[{key!r}]")
        for key, shape in context_shape.items()
    }
    return common_batch_shape(fronts)


def context_of_part(context: Context, context_shape: ContextShape) -> Context:
    """The context of a part of a model: that of the whole, or none where the part takes none."""
    return None if context_shape is None else context


def common_batch_shape(shapes: Mapping[str, torch.Size]) -> torch.Size:
    """What batch shapes, by the names of what has them, broadcast to.

    Raises:
        ValueError: they do not broadcast.
    """
    try:
        return torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        got = ", ".join(f"{tuple(shape)} of `{name}`" for name, shape in shapes.items())
        raise ValueError(f"batch shapes must broadcast to one, got {got}") from None


def require_one_context_each(x: Tensor, context: Context, event_shape: Shape, context_shape: ContextShape) -> None:
    """Refuses contexts that would broadcast against events: each event would be scored under every context.

    Raises:
        ValueError: the contexts have another batch shape than the events, or one of the two ends in a wrong shape.
    """
    rows = batch_shape_of(x, event_shape, "x")
    contexts = context_batch_shape(context, context_shape)
    if context is None or contexts == rows:
        return
    aligned = len(contexts) == len(rows)  # broadcasting begins on the right, rows are on the left
    if not aligned or common_batch_shape({"x": rows, "context": contexts}) != rows:
        raise ValueError(
            f"`context` must have the batch shape of `x`, {tuple(rows)}, so that each event has its own, "
            f"got {tuple(contexts)}"
        )


def context_of_each(x: Tensor, context: Context, event_shape: Shape, context_shape: ContextShape) -> Context:
    """The context of each event of a minibatch ``(N, *event_shape)``; one for all is repeated.

    Raises:
        ValueError: events or contexts have other shapes.
    """
    require_one_context_each(x, context, event_shape, context_shape)
    if x.dim() != 1 + len(event_shape):
        raise ValueError(f"`x` must have shape (N, {', '.join(map(str, event_shape))}), got {tuple(x.shape)}")
    return expand_context(context, context_shape, x.shape[:1])


def expand_context(context: Context, context_shape: ContextShape, batch: torch.Size) -> Context:
    """The same context with all batch dimensions ``batch``, in each of its tensors; nothing is copied."""
    if isinstance(context, Mapping):
        return {key: context[key].expand((*batch, *shape)) for key, shape in context_shape.items()}
    return None if context is None else context.expand((*batch, *context_shape))


def flatten_batch(value: Tensor, event_shape: Shape) -> Tensor:
    """``(*batch, *event)`` as ``(N, *event)``."""
    return shaped(value, (prod(value.shape[: value.dim() - len(event_shape)]), *event_shape))


def embedded(context: Context, context_shape: ContextShape, embedding: nn.Module | None) -> Context:
    """The features that an embedding makes of a context, one tensor or a tuple, batch dimensions as they were.

    Without an embedding they are the context.
    """
    if context is None:
        return None
    batch = context_batch_shape(context, context_shape)
    if embedding is None:
        return expand_context(context, context_shape, batch)
    features = embedding(context_rows(context, context_shape, batch))
    if isinstance(features, tuple):
        return tuple(part.reshape(*batch, *part.shape[1:]) for part in features)
    return features.reshape(*batch, *features.shape[1:])
