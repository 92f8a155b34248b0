r"""Elements: monotone maps of single numbers, the building blocks of coupling and autoregressive transforms.

An element takes ``size`` parameters for each number. They come parameter-major, ``(size, *shape)`` for numbers of shape
``shape``, so that computing is contiguous. Zero parameters give the identity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .kernels import ElementKernel, elementwise


class Element(ABC):
    """A monotone increasing map of each number on its own."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many parameters each number takes."""

    def kernel(self, inverse: bool) -> ElementKernel | None:
        """:meth:`forward`, or :meth:`inverse`, with its backward pass, if there is one written by hand."""
        return None

    @abstractmethod
    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the logarithm of the slope there, from parameters of shape ``(size, *x.shape)``."""

    @abstractmethod
    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The place where the value is ``y``, and the logarithm of the *inverse's* slope."""


class FusedElement(Element):
    """An element whose backward passes are written by hand."""

    @abstractmethod
    def kernel(self, inverse: bool) -> ElementKernel: ...

    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return elementwise(self.kernel(False), parameters, x)

    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return elementwise(self.kernel(True), parameters, y)


@dataclass(frozen=True)
class Affine(FusedElement):
    r"""The map :math:`y = e^{s} x + t` with a soft-clipped log-scale :math:`s = a / (1 + |a| / c)`.

    Args:
        log_scale_bound: The clip :math:`c`: scales lie between :math:`e^{-c}` and :math:`e^{c}`.
    """

    log_scale_bound: float = 3.0
    size: int = 2

    def kernel(self, inverse: bool) -> ElementKernel:
        if inverse:
            return ElementKernel(self._inverse, self._inverse_backward)
        return ElementKernel(self._forward, self._forward_backward)

    def _clip(self, raw: Tensor) -> Tensor:
        return raw.abs().mul_(1 / self.log_scale_bound).add_(1)

    def _forward(self, parameters: Tensor, x: Tensor) -> tuple:
        shift, raw = parameters
        clip = self._clip(raw)
        log_scale = raw / clip
        scale = log_scale.exp()
        scaled = scale * x
        return scaled + shift, log_scale, (scaled, scale, clip)

    def _forward_backward(self, saved: tuple, g_y: Tensor, g_log: Tensor) -> tuple[Tensor, Tensor]:
        scaled, scale, clip = saved
        gradient = g_y.new_empty(2, *g_y.shape)
        gradient[0] = g_y
        torch.addcmul(g_log, g_y, scaled, out=gradient[1])
        gradient[1].div_(clip).div_(clip)
        return gradient, g_y * scale

    def _inverse(self, parameters: Tensor, y: Tensor) -> tuple:
        shift, raw = parameters
        clip = self._clip(raw)
        log_scale = (-raw).div_(clip)
        scale = log_scale.exp()
        x = (y - shift).mul_(scale)
        return x, log_scale, (x + 0, scale, clip)

    def _inverse_backward(self, saved: tuple, g_x: Tensor, g_log: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, clip = saved
        g_y = g_x * scale
        return torch.stack((-g_y, torch.addcmul(g_log, g_x, x).neg_().div_(clip).div_(clip))), g_y
