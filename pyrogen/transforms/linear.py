"""Transforms that scale, reorder or mix the elements of an event."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.numerics.autograd import full
from pyrogen.numerics.linear import solved

from .transform import VectorTransform


class DiagonalAffine(VectorTransform):
    r"""The map :math:`y_i = \mu_i + e^{s_i} x_i` of each element.

    Args:
        loc: :math:`\mu`, shape ``(D,)``.
        log_scale: :math:`s`, shape ``(D,)``.
        event_shape: Shape of one event, of ``D`` elements.
    """

    monotone = True
    sign = 1

    def __init__(self, loc: Tensor, log_scale: Tensor, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)
        self.loc, self.log_scale = loc, log_scale

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._moved(x), self.log_scale.sum().expand(x.shape[:-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return (y - self.loc) * (-self.log_scale).exp(), -self.log_scale.sum().expand(y.shape[:-1])

    def _call(self, x: Tensor) -> Tensor:
        return self._shaped(self._moved(self._flat(full(x))))

    def _moved(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.loc, self.log_scale.exp(), x)


class LowerAffine(VectorTransform):
    r"""The map :math:`y = \mu + L x` with a location of each datum and one triangular matrix.

    Args:
        loc: :math:`\mu`, shape ``(*batch, D)``.
        lower: :math:`L`, lower triangular with a positive diagonal, shape ``(D, D)``.
        event_shape: Shape of one event, of ``D`` elements.
    """

    sign = 1

    def __init__(self, loc: Tensor, lower: Tensor, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape, loc.shape[:-1])
        self.loc, self.lower = loc, lower

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.loc + torch.nn.functional.linear(x, self.lower)
        return y, _log_det(self.lower).expand(y.shape[:-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        centred = y - self.loc
        columns = centred.reshape(-1, y.shape[-1]).T  # (D, N)
        x = torch.linalg.solve_triangular(self.lower, columns, upper=False).T.reshape(centred.shape)
        return x, -_log_det(self.lower).expand(x.shape[:-1])


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


class Cayley(Rotate):
    r"""The rotation :math:`Q = (I + S)^{-1} (I - S)` of a skew matrix :math:`S`, computed whenever it is used.

    Args:
        entries: The entries of :math:`S` below its diagonal, ``(D (D - 1) / 2,)``.
        places: Their rows and columns, ``(2, D (D - 1) / 2)``.
        event_shape: Shape of one event, of ``D`` elements.
    """

    def __init__(self, entries: Tensor, places: Tensor, event_shape: tuple[int, ...]) -> None:
        VectorTransform.__init__(self, event_shape)
        self.entries, self.places = entries, places

    @property
    def matrix(self) -> Tensor:
        """The rotation, ``(D, D)``."""
        size = self.event_shape.numel()
        lower = self.entries.new_zeros(size, size).index_put(tuple(self.places), self.entries)
        skew, identity = lower - lower.T, torch.eye(size, dtype=lower.dtype, device=lower.device)
        return solved(identity + skew, identity - skew)


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
        lower, upper = self.factors()
        return torch.nn.functional.linear(x, lower @ upper, self.bias), _log_det(upper).expand(x.shape[:-1])

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self.factors()
        columns = (y - self.bias).reshape(-1, y.shape[-1]).T  # (D, N)
        columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        columns = torch.linalg.solve_triangular(upper, columns, upper=True)
        return columns.T.reshape(y.shape), -_log_det(upper).expand(y.shape[:-1])

    def factors(self) -> tuple[Tensor, Tensor]:
        """Both triangles, ``(D, D)``."""
        return self.lower, self.upper


class Factored(Triangular):
    """A :class:`Triangular` map whose triangles are put together whenever it is used.

    Args:
        triangles: Both triangles in one matrix, their diagonals left out. Shape ``(D, D)``.
        log_diagonal: The logarithm of the diagonal of the upper triangle. Shape ``(D,)``.
        bias: Shape ``(D,)``.
        event_shape: Shape of one event, of ``D`` elements.
    """

    def __init__(self, triangles: Tensor, log_diagonal: Tensor, bias: Tensor, event_shape: tuple[int, ...]) -> None:
        VectorTransform.__init__(self, event_shape)
        self.triangles, self.log_diagonal, self.bias = triangles, log_diagonal, bias

    def factors(self) -> tuple[Tensor, Tensor]:
        """Both triangles, ``(D, D)``."""
        identity = torch.eye(len(self.bias), dtype=self.bias.dtype, device=self.bias.device)
        return self.triangles.tril(-1) + identity, self.triangles.triu(1) + self.log_diagonal.exp().diag()


def _log_det(upper: Tensor) -> Tensor:
    return upper.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
