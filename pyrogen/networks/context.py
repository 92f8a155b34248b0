"""What a model is conditioned on: one tensor, several in a dict, or none, some of them integer labels.

:mod:`pyrogen.networks.context_embeddings` makes features of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from pyrogen import arguments

from .statistics import require_labels

Shape = tuple[int, ...]
ContextShape = Shape | dict[str, Shape] | None
Context = Tensor | Mapping[str, Tensor] | None
Classes = int | Mapping[str, int] | None


def described(context_shape: ContextShape, classes: Classes) -> tuple[ContextShape, dict[str, int]]:
    """The shape of a context, and how many labels its entries have by name.

    Raises:
        ValueError: ``classes`` does not fit the context.
    """
    context_shape = arguments.context_shape(context_shape, "context_shape")
    if classes is None:
        return context_shape, {}
    arguments.labels(classes, "classes")
    context_shape = () if context_shape is None else context_shape
    if isinstance(context_shape, dict) != isinstance(classes, Mapping):
        raise ValueError(f"`classes` must be a number for one context and a dict for several, got {classes}")
    labels = by_name(classes)
    if not set(labels) <= set(by_name(context_shape)):
        raise ValueError(f"`classes` must name entries of the context among {sorted(context_shape)}, got {[*labels]}")
    return context_shape, labels


def integer_labels(labels: Tensor, classes: int, name: str = "context", lowest: int = 0) -> Tensor:
    """The labels as long integers.

    Raises:
        ValueError: one is out of range, where torch validates the arguments of distributions.
    """
    if torch.distributions.Distribution._validate_args:
        require_labels(labels, classes, name, lowest)
    return labels.long()


def by_name(entries: Any) -> dict[str, Any]:
    """The entries of a dict; what stands alone has the name ``""``, and ``None`` has no entries."""
    return {} if entries is None else dict(entries) if isinstance(entries, Mapping) else {"": entries}


def context_rows(context: Context, context_shape: ContextShape, batch_shape: Shape) -> Context:
    """A context with one batch dimension in front, its own expanded to ``batch_shape``; ``None`` stays."""
    if isinstance(context, Mapping):
        return {key: _rows(value, context_shape[key], batch_shape) for key, value in context.items()}
    return None if context is None else _rows(context, context_shape, batch_shape)


def _rows(value: Tensor, shape: Shape, batch_shape: Shape) -> Tensor:
    wide = value if value.shape == (*batch_shape, *shape) else value.expand((*batch_shape, *shape))
    return wide if len(batch_shape) == 1 else wide.reshape((prod(batch_shape), *shape))
