r"""Elements: monotone maps of single numbers, the building blocks of coupling and autoregressive transforms.

An element takes ``size`` parameters for each number. They come parameter-major, ``(size, *shape)`` for numbers of shape
``shape``, so that computing is contiguous. Zero parameters give the identity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .fused import Written, fused
from .spline import written


class Element(ABC):
    """A monotone increasing map of each number on its own."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many parameters each number takes."""

    @property
    def written(self) -> tuple[Written, Written] | None:
        """:meth:`forward` and :meth:`inverse` with their backward passes written out, if they are."""
        return None

    @abstractmethod
    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the logarithm of the slope there, from parameters of shape ``(size, *x.shape)``."""

    @abstractmethod
    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The place where the value is ``y``, and the logarithm of the *inverse's* slope."""


@dataclass(frozen=True)
class Affine(Element):
    r"""The map :math:`y = e^{s} x + t` with a soft-clipped log-scale :math:`s = a / (1 + |a| / c)`.

    Args:
        log_scale_bound: The clip :math:`c`: scales lie between :math:`e^{-c}` and :math:`e^{c}`.
    """

    log_scale_bound: float = 3.0
    size: int = 2

    @property
    def written(self) -> tuple[Written, Written]:
        return (
            Written(self._evaluate, self._gradients),
            Written(self._evaluate_inverse, self._gradients_of_inverse),
        )

    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return fused(parameters, x, self.written[0])

    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return fused(parameters, y, self.written[1])

    def _clip(self, raw: Tensor) -> Tensor:
        return raw.abs().mul_(1 / self.log_scale_bound).add_(1)

    def _evaluate(self, parameters: Tensor, x: Tensor) -> tuple:
        shift, raw = parameters
        clip = self._clip(raw)
        log_scale = raw / clip
        scale = log_scale.exp()
        scaled = scale * x
        return scaled + shift, log_scale, (scaled, scale, clip)

    def _gradients(self, saved: tuple, g_y: Tensor, g_log: Tensor) -> tuple[Tensor, Tensor]:
        scaled, scale, clip = saved
        gradient = g_y.new_empty(2, *g_y.shape)
        gradient[0] = g_y
        torch.addcmul(g_log, g_y, scaled, out=gradient[1])
        gradient[1].div_(clip).div_(clip)
        return gradient, g_y * scale

    def _evaluate_inverse(self, parameters: Tensor, y: Tensor) -> tuple:
        shift, raw = parameters
        clip = self._clip(raw)
        log_scale = (-raw).div_(clip)
        scale = log_scale.exp()
        x = (y - shift).mul_(scale)
        return x, log_scale, (x + 0, scale, clip)

    def _gradients_of_inverse(self, saved: tuple, g_x: Tensor, g_log: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, clip = saved
        g_y = g_x * scale
        return torch.stack((-g_y, torch.addcmul(g_log, g_x, x).neg_().div_(clip).div_(clip))), g_y


@dataclass(frozen=True)
class Spline(Element):
    """A rational-quadratic spline on ``[-bound, bound]``, the identity outside; see :mod:`pyrogen.transforms.spline`.

    Args:
        bins: How many bins.
        bound: Half the width of the interval.

    Raises:
        ValueError: there are fewer than two bins, or the bound is not positive.
    """

    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"`bins` must be at least 2, got {self.bins}")
        if not self.bound > 0:
            raise ValueError(f"`bound` must be positive, got {self.bound}")

    @property
    def size(self) -> int:
        return 3 * self.bins - 1

    @property
    def written(self) -> tuple[Written, Written]:
        return written(self.bound)

    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return fused(parameters, x, self.written[0])

    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return fused(parameters, y, self.written[1])
