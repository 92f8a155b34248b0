"""What convolutional networks over sequences get of a context: one vector for all places, or one for each."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pyrogen.core.shapes import ContextShape, Shape, as_context_shape
from pyrogen.networks.embedding import Flatten, Labels
from pyrogen.networks.statistics import Chained


def context_of(
    context_shape: ContextShape,
    classes: int | None,
    width: int,
    local: Callable[[Shape], tuple[nn.Module, int] | None],
) -> tuple[ContextShape, nn.Module | None, int]:
    """The context's shape, what makes vectors of it, and their size.

    Args:
        context_shape: As recipes take it.
        classes: How many labels there are, if the context is one.
        width: Size of the vectors made of a context that speaks to all places alike.
        local: For the shape of a single tensor that speaks to every place, its network and its size; else ``None``.

    Raises:
        ValueError: both ``classes`` and ``context_shape`` are given.
    """
    if classes is not None:
        if context_shape not in (None, ()):
            raise ValueError(f"`context_shape` must be None where `classes` is given, got {context_shape}")
        return (), Labels(classes), classes
    context_shape = as_context_shape(context_shape)
    if context_shape is None:
        return None, None, 0
    found = local(context_shape) if isinstance(context_shape, tuple) else None
    if found is not None:
        return context_shape, *found
    flatten = Flatten(context_shape)
    return context_shape, Chained(flatten, nn.Linear(flatten.size, width), nn.ReLU()), width
