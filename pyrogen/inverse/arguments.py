"""Checks of arguments that several methods of this package share, beside those of ``pyrogen.arguments``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrogen.numerics.grids import Grid


def program(value: Any, name: str = "model") -> Callable:
    """A Pyro program, or any other function.

    Raises:
        TypeError: ``value`` cannot be called.
    """
    if not callable(value):
        raise TypeError(f"`{name}` must be callable, got {type(value).__name__}")
    return value


def site_name(value: Any) -> str:
    """The name of a site.

    Raises:
        TypeError: ``value`` is no string.
    """
    if not isinstance(value, str):
        raise TypeError(f"`site` must be the name of a latent site, a str, got {type(value).__name__}")
    return value


def instance(value: Any, kind: type, name: str) -> Any:
    """An object of a class, or ``None``.

    Raises:
        TypeError: it is something else.
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"`{name}` must be a {kind.__name__}, got {type(value).__name__}")
    return value


def grid(value: Any) -> Grid | None:
    """Noise levels, or ``None`` for those by default."""
    return instance(value, Grid, "grid")


def numbers(value: Any, name: str) -> Tensor:
    """A floating-point tensor without missing or infinite entries.

    Raises:
        TypeError: ``value`` is no tensor of floating-point numbers.
        ValueError: an entry is NaN or infinite.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"`{name}` must be a tensor of floating-point numbers, got {kind}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"`{name}` must be finite, got {int((~torch.isfinite(value)).sum())} entries that are not")
    return value


def image_shape(value: Any, *, channels: int | None = None) -> tuple[int, int, int]:
    """The shape ``(channels, height, width)`` of an image.

    Raises:
        ValueError: it is of another length, or a size is not a positive integer.
    """
    shape = tuple(value)
    wanted = "channels" if channels is None else str(channels)
    fits = len(shape) == 3 and all(isinstance(size, int) and size > 0 for size in shape)
    if not fits or (channels is not None and shape[0] != channels):
        raise ValueError(f"`shape` must be ({wanted}, height, width), got {shape}")
    return shape
