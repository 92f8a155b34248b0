r"""Affine elements: each number is scaled and shifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyrogen.arguments import positive

from .elements import ElementKernel
from .kernels import FusedElement


@dataclass(frozen=True)
class Affine(FusedElement):
    r"""The map :math:`y = e^{s} x + t` with a soft-clipped log-scale :math:`s = a / (1 + |a| / c)`.

    Args:
        log_scale_bound: The clip :math:`c`: scales lie between :math:`e^{-c}` and :math:`e^{c}`.

    Raises:
        TypeError: ``log_scale_bound`` is no number.
        ValueError: it is not positive and finite.
    """

    log_scale_bound: float = 3.0
    size: ClassVar[int] = 2

    def __post_init__(self) -> None:
        positive(self.log_scale_bound, "log_scale_bound")

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
