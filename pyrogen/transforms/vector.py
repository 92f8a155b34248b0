"""Transforms of events taken as flat vectors, whatever their shape."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from pyrogen.numerics.autograd import in_full_precision

from .transform import Transform


class VectorTransform(Transform):
    """A transform that sees an event of any shape as a vector of ``D`` elements.

    Subclasses define :meth:`forward_vector` and :meth:`inverse_vector`.

    Args:
        event_shape: Shape of one event.
        batch_shape: Batch dimensions of the transform's own parameters.
    """

    def __init__(self, event_shape: tuple[int, ...], batch_shape: torch.Size = torch.Size()) -> None:
        super().__init__(len(event_shape), batch_shape)
        self.event_shape = torch.Size(event_shape)

    @property
    def event_dims(self) -> tuple[int, int]:
        return self.event_dim, self.event_dim

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` of shape ``(*batch, D)`` and the log-determinant of shape ``batch``, from ``x`` like ``y``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward pass")

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`forward_vector` with its own log-determinant."""
        raise NotImplementedError(f"{type(self).__name__} has no inverse pass")

    @in_full_precision
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = self.forward_vector(self._flat(x))
        return self._shaped(y), log_det

    @in_full_precision
    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = self.inverse_vector(self._flat(y))
        return self._shaped(x), log_det

    def _flat(self, x: Tensor) -> Tensor:
        if len(self.event_shape) == 1:
            return x
        return x.reshape(*x.shape[: x.dim() - self.event_dim], prod(self.event_shape))

    def _shaped(self, y: Tensor) -> Tensor:
        return y if len(self.event_shape) == 1 else y.reshape(y.shape[:-1] + self.event_shape)


def feature_major(x: Tensor, batch_shape: torch.Size) -> Tensor:
    """Vectors ``(*batch, D)`` as ``(D, *batch_shape)``, to which their batch dimensions broadcast."""
    return x.expand(*batch_shape, x.shape[-1]).movedim(-1, 0)
