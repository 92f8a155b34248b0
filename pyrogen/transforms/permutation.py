"""Transforms that reorder or mix the elements of an event linearly."""

from __future__ import annotations

import torch
from torch import Tensor

from .vector import VectorTransform


class Permute(VectorTransform):
    """The elements of a (flattened) event in another order; the log-determinant is zero.

    Args:
        order: A permutation of ``0 … D - 1``: element ``i`` of the output is element ``order[i]`` of the input.
        event_shape: Shape of one event, of ``D`` elements.
        inverse_order: The inverse permutation, if at hand.
    """

    def __init__(self, order: Tensor, event_shape: tuple[int, ...], *, inverse_order: Tensor | None = None) -> None:
        super().__init__(event_shape)
        self.order = order
        self.inverse_order = order.argsort() if inverse_order is None else inverse_order

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(-1, self.order), x.new_zeros(x.shape[:-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y.index_select(-1, self.inverse_order), y.new_zeros(y.shape[:-1])


class Flip(VectorTransform):
    """The elements of a (flattened) event in reverse order; its own inverse."""

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flip(-1), x.new_zeros(x.shape[:-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_vector(y)


class Rotate(VectorTransform):
    r"""The linear map :math:`y = Q x` with an orthogonal matrix; the log-determinant is zero, the inverse :math:`Q^T`.

    Args:
        matrix: :math:`Q`, shape ``(D, D)``.
        event_shape: Shape of one event, of ``D`` elements.
    """

    def __init__(self, matrix: Tensor, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)
        self.matrix = matrix

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ self.matrix.T, x.new_zeros(x.shape[:-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y @ self.matrix, y.new_zeros(y.shape[:-1])


class Triangular(VectorTransform):
    r"""The linear map :math:`y = L (U x) + b`, its determinant the product of the diagonal of :math:`U`.

    Args:
        lower: Lower triangle with ones on the diagonal. Shape ``(D, D)``.
        upper: Upper triangle with a diagonal without zeros. Shape ``(D, D)``.
        bias: Shape ``(D,)``.
        event_shape: Shape of one event, of ``D`` elements.

    References:
        Kingma and Dhariwal 2018, "Glow: Generative flow with invertible 1x1 convolutions",
        https://arxiv.org/abs/1807.03039, section 3.2
    """

    def __init__(self, lower: Tensor, upper: Tensor, bias: Tensor, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)
        self.lower, self.upper, self.bias = lower, upper, bias

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.nn.functional.linear(x, self.lower @ self.upper, self.bias)
        return y, self._log_det().expand(x.shape[:-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        columns = (y - self.bias).reshape(-1, y.shape[-1]).T  # (D, N)
        columns = torch.linalg.solve_triangular(self.lower, columns, upper=False, unitriangular=True)
        columns = torch.linalg.solve_triangular(self.upper, columns, upper=True)
        return columns.T.reshape(y.shape), -self._log_det().expand(y.shape[:-1])

    def _log_det(self) -> Tensor:
        return self.upper.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
