r"""Planar, radial and Sylvester transforms, with inverses.

Each adds to :math:`x` a bounded function of few numbers, so its determinant is small and its inverse the root of
monotone functions of one number.

References:
    Rezende and Mohamed 2015, "Variational inference with normalizing flows", https://arxiv.org/abs/1505.05770
    van den Berg, Hasenclever, Tomczak and Welling 2018, "Sylvester normalizing flows for variational inference",
    https://arxiv.org/abs/1803.05649
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .monotone import invert
from .vector import VectorTransform


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
        product, square = weight @ direction, weight.square().sum()
        self.gain = softplus(product + 0.5413248546129181) - 1  # zero where the product is
        self.direction = direction + (self.gain - product) * weight / square.clamp_min(1e-12)
        self.weight, self.bias = weight, bias

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = (x @ self.weight + self.bias).tanh()
        return x + inner.unsqueeze(-1) * self.direction, self._log_slope(inner)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        def along(value: Tensor) -> tuple[Tensor, Tensor]:
            inner = (value + self.bias).tanh()
            return value + self.gain * inner, self._log_slope(inner)

        inner = (invert(along, y @ self.weight) + self.bias).tanh()
        return y - inner.unsqueeze(-1) * self.direction, -self._log_slope(inner)

    def _log_slope(self, inner: Tensor) -> Tensor:
        return (self.gain * (1 - inner.square())).log1p()


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
        self.center, self.radius = center, softplus(raw_radius)
        self.strength = softplus(raw_radius + raw_strength) - self.radius

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        distance = _norm(x - self.center)
        y = x + (self.strength / (self.radius + distance)).unsqueeze(-1) * (x - self.center)
        return y, self._log_det(distance, x.shape[-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        away = _norm(y - self.center)
        half = (self.radius + self.strength - away) / 2
        root = (half.square() + self.radius * away).sqrt()
        distance = torch.where(half > 0, self.radius * away / (half + root).clamp_min(1e-30), root - half)
        x = self.center + (y - self.center) / (1 + self.strength / (self.radius + distance)).unsqueeze(-1)
        return x, -self._log_det(distance, y.shape[-1])

    def _log_det(self, distance: Tensor, size: int) -> Tensor:
        share = self.strength / (self.radius + distance)
        along = share * self.radius / (self.radius + distance)
        return (size - 1) * share.log1p() + along.log1p()


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
        self.basis = torch.linalg.qr(basis)[0]
        diagonal = inner.diagonal().tanh(), outer.diagonal().tanh() * 0.99  # their products stay above -1
        self.inner = inner.triu(1) + diagonal[0].diag()
        self.outer = outer.triu(1) + diagonal[1].diag()
        self.products, self.bias = diagonal[0] * diagonal[1], bias

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = (x @ self.basis @ self.inner.T + self.bias).tanh()
        return x + h @ self.outer.T @ self.basis.T, self._log_det(h)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        target = y @ self.basis
        found: list[Tensor] = []  # from the last coordinate to the first
        units: list[Tensor] = []
        for row in reversed(range(len(self.bias))):
            later = slice(row + 1, None)
            shift, rest = self.bias[row].expand(target.shape[:-1]), target[..., row]
            if found:
                shift = shift + torch.stack(found[::-1], -1) @ self.inner[row, later]
                rest = rest - torch.stack(units[::-1], -1) @ self.outer[row, later]
            found.append(invert(self._coordinate(row, shift), rest))
            units.append((self.inner[row, row] * found[-1] + shift).tanh())
        h = torch.stack(units[::-1], -1)
        return y - h @ self.outer.T @ self.basis.T, -self._log_det(h)

    def _coordinate(self, row: int, shift: Tensor):  # noqa: ANN202
        inner, outer, product = self.inner[row, row], self.outer[row, row], self.products[row]

        def function(value: Tensor) -> tuple[Tensor, Tensor]:
            h = (inner * value + shift).tanh()
            return value + outer * h, (product * (1 - h.square())).log1p()

        return function

    def _log_det(self, h: Tensor) -> Tensor:
        return (self.products * (1 - h.square())).log1p().sum(-1)


def _norm(x: Tensor) -> Tensor:
    return (x.square().sum(-1) + torch.finfo(x.dtype).tiny).sqrt()
