"""Representations: a class, its settings or its shapes, and no tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Distribution


def by_settings(thing: Any) -> str:
    """A class and the public attributes of one of its objects, tensors by their shapes."""
    settings = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
    shown = (f"{name}={_shown(value)}" for name, value in settings.items())
    return f"{type(thing).__name__}({', '.join(shown)})"


def by_shapes(distribution: Distribution, *parts: str) -> str:
    """A distribution's class, what it is made of, and its shapes."""
    shapes = f"batch_shape={tuple(distribution.batch_shape)}", f"event_shape={tuple(distribution.event_shape)}"
    return f"{type(distribution).__name__}({', '.join((*parts, *shapes))})"


def _shown(value: Any) -> str:
    return f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
