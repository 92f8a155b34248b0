"""Linear operators and their adjoints."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .sparse import SparseMatrix


class Linear(ABC):
    """A linear operator. Subclasses define :meth:`__call__`.

    Args:
        shape: The shape of one input; the output may have another.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The measurement of ``x``, of shape ``(*batch, *shape)``, without noise."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one measurement."""
        return tuple(self(torch.zeros(self.shape)).shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint at ``y``, of shape ``(*batch, *shape)``; by differentiation unless a subclass defines it."""
        zero = torch.zeros(self.shape, dtype=y.dtype, device=y.device)
        start = zero.expand(*y.shape[: y.dim() - self(zero).dim()], *self.shape)
        return torch.func.vjp(self, start)[1](y)[0]

    def to(self, *place: Any) -> Linear:
        """The same operator on another device or of another dtype, as ``torch.Tensor.to`` takes them."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            setattr(moved, name, _moved(value, place))
        return moved


def flattened(signal: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """A signal ``(*batch, *shape)`` as vectors.

    Raises:
        ValueError: it has another shape; ``name`` is that of the argument.
    """
    batch = signal.dim() - len(shape)
    if tuple(signal.shape[max(batch, 0) :]) != shape:
        raise ValueError(f"`{name}` must end in shape {shape}, got {tuple(signal.shape)}")
    return signal.reshape(*signal.shape[:batch], math.prod(shape))


def _moved(value: Any, place: tuple) -> Any:
    if isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
        return value.to(*(part for part in place if not isinstance(part, torch.dtype)))
    if isinstance(value, tuple):
        return tuple(_moved(part, place) for part in value)
    return value.to(*place) if isinstance(value, Tensor | Linear | SparseMatrix) else value
