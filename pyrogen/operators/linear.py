"""Linear operators and their adjoints."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


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

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint at ``y``, of shape ``(*batch, *shape)``; by differentiation unless a subclass defines it."""
        batch = y.shape[: y.dim() - self._output_dim(y)]
        start = torch.zeros(batch + self.shape, dtype=y.dtype, device=y.device)
        return torch.func.vjp(self, start)[1](y)[0]

    def _output_dim(self, y: Tensor) -> int:
        return self(torch.zeros(self.shape, dtype=y.dtype, device=y.device)).dim()
