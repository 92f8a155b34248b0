r"""Planar, radial and Sylvester transforms, with inverses.

Each adds to :math:`x` a bounded function of few numbers, so its determinant is small and its inverse the root of
monotone functions of one number. What is derived from their tensors is computed whenever they are used.

References:
    Rezende and Mohamed 2015, "Variational inference with normalizing flows", https://arxiv.org/abs/1505.05770
    van den Berg, Hasenclever, Tomczak and Welling 2018, "Sylvester normalizing flows for variational inference",
    https://arxiv.org/abs/1803.05649
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .monotone import invert
from .transform import VectorTransform


class Planar(VectorTransform):
    r"""The map :math:`y = x + \hat u \tanh(w^\top x + b)`, with :math:`\hat u` such that :math:`w^\top \hat u > -1`.

    Args:
        direction: The raw :math:`u`, shape ``(D,)``.
        weight: :math:`w`, shape ``(D,)``.
        bias: :math:`b`, shape ``()``.
        event_shape: Shape of one event, of ``D`` elements.
    """

    def __init__(self, direction: Tensor, weight: Tensor, bias: Tensor, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)
        self.direction, self.weight, self.bias = direction, weight, bias

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        direction, gain = self._corrected()
        inner = (x @ self.weight + self.bias).tanh()
        return x + inner.unsqueeze(-1) * direction, _log_slope(gain, inner)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        direction, gain = self._corrected()

        def along(value: Tensor) -> tuple[Tensor, Tensor]:
            inner = (value + self.bias).tanh()
            return value + gain * inner, _log_slope(gain, inner)

        inner = (invert(along, y @ self.weight) + self.bias).tanh()
        return y - inner.unsqueeze(-1) * direction, -_log_slope(gain, inner)

    def _corrected(self) -> tuple[Tensor, Tensor]:
        r""":math:`\hat u` and :math:`w^\top \hat u`."""
        product, square = self.weight @ self.direction, self.weight.square().sum()
        gain = softplus(product + 0.5413248546129181) - 1  # zero where the product is
        return self.direction + (gain - product) * self.weight / square.clamp_min(1e-12), gain


class Radial(VectorTransform):
    r"""The map :math:`y = x + \beta (x - c) / (\alpha + |x - c|)` with :math:`\alpha > 0` and :math:`\beta > -\alpha`.

    Args:
        center: :math:`c`, shape ``(D,)``.
        raw_radius: :math:`\alpha` before a softplus, shape ``()``.
        raw_strength: :math:`\alpha + \beta` before a softplus, relative to the first, shape ``()``; zero: the identity.
        event_shape: Shape of one event, of ``D`` elements.
    """

    def __init__(self, center: Tensor, raw_radius: Tensor, raw_strength: Tensor, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)
        self.center, self.raw_radius, self.raw_strength = center, raw_radius, raw_strength

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        radius, strength = self._radius_and_strength()
        distance = _norm(x - self.center)
        y = x + (strength / (radius + distance)).unsqueeze(-1) * (x - self.center)
        return y, _radial_log_det(radius, strength, distance, x.shape[-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        radius, strength = self._radius_and_strength()
        away = _norm(y - self.center)
        half = (radius + strength - away) / 2
        root = (half.square() + radius * away).sqrt()
        distance = torch.where(half > 0, radius * away / (half + root).clamp_min(1e-30), root - half)
        x = self.center + (y - self.center) / (1 + strength / (radius + distance)).unsqueeze(-1)
        return x, -_radial_log_det(radius, strength, distance, y.shape[-1])

    def _radius_and_strength(self) -> tuple[Tensor, Tensor]:
        r""":math:`\alpha` and :math:`\beta`."""
        radius = softplus(self.raw_radius)
        return radius, softplus(self.raw_radius + self.raw_strength) - radius


class Sylvester(VectorTransform):
    r"""The map :math:`y = x + Q R \tanh(\tilde R Q^\top x + b)` with orthonormal :math:`Q` and upper triangular R's.

    Args:
        basis: Any matrix of full column rank, shape ``(D, M)``; its orthonormal factor is :math:`Q`.
        outer: Raw :math:`R`, shape ``(M, M)``; its upper triangle counts.
        inner: Raw :math:`\tilde R`, shape ``(M, M)``; its upper triangle counts.
        bias: :math:`b`, shape ``(M,)``.
        event_shape: Shape of one event, of ``D`` elements.
    """

    def __init__(self, basis: Tensor, outer: Tensor, inner: Tensor, bias: Tensor, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)
        self.basis, self.outer, self.inner, self.bias = basis, outer, inner, bias

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ridges = self._ridges()
        h = (x @ ridges.basis @ ridges.inner.T + self.bias).tanh()
        return x + h @ ridges.outer.T @ ridges.basis.T, ridges.log_det(h)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        ridges = self._ridges()
        target = y @ ridges.basis
        found: list[Tensor] = []  # from the last coordinate to the first
        units: list[Tensor] = []
        for row in reversed(range(len(self.bias))):
            later = slice(row + 1, None)
            shift, rest = self.bias[row].expand(target.shape[:-1]), target[..., row]
            if found:
                shift = shift + torch.stack(found[::-1], -1) @ ridges.inner[row, later]
                rest = rest - torch.stack(units[::-1], -1) @ ridges.outer[row, later]
            found.append(invert(partial(ridges.coordinate, row, shift), rest))
            units.append((ridges.inner[row, row] * found[-1] + shift).tanh())
        h = torch.stack(units[::-1], -1)
        return y - h @ ridges.outer.T @ ridges.basis.T, -ridges.log_det(h)

    def _ridges(self) -> _Ridges:
        inner, outer = self.inner.diagonal().tanh(), self.outer.diagonal().tanh() * 0.99  # products stay above -1
        return _Ridges(
            torch.linalg.qr(self.basis)[0],
            self.outer.triu(1) + outer.diag(),
            self.inner.triu(1) + inner.diag(),
            inner * outer,
        )


class _Ridges(NamedTuple):
    r"""What :class:`Sylvester` is made of."""

    basis: Tensor  # Q
    outer: Tensor  # R
    inner: Tensor
    products: Tensor  # of the diagonals of both

    def coordinate(self, row: int, shift: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The map of one coordinate along the ridges, and its log-slope."""
        h = (self.inner[row, row] * value + shift).tanh()
        return value + self.outer[row, row] * h, _log_slope(self.products[row], h)

    def log_det(self, h: Tensor) -> Tensor:
        return _log_slope(self.products, h).sum(-1)


def _log_slope(gain: Tensor, h: Tensor) -> Tensor:
    """Of a ridge whose hyperbolic tangent is ``h``."""
    return (gain * (1 - h.square())).log1p()


def _radial_log_det(radius: Tensor, strength: Tensor, distance: Tensor, size: int) -> Tensor:
    share = strength / (radius + distance)
    along = share * radius / (radius + distance)
    return (size - 1) * share.log1p() + along.log1p()


def _norm(x: Tensor) -> Tensor:
    return (x.square().sum(-1) + torch.finfo(x.dtype).tiny).sqrt()
