"""Real numbers to triangular and positive definite matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from .transform import Transform


class LowerCholesky(Transform):
    r"""A vector onto lower triangular matrices :math:`L` with a positive diagonal.

    The entries on and below the diagonal are the vector, row by row, those on it exponentials. The log-determinant is
    that of the map to these entries.

    Args:
        size: How many rows a matrix has.
    """

    def __init__(self, size: int) -> None:
        super().__init__(1)
        self.size = size

    def __repr__(self) -> str:
        return f"LowerCholesky({self.size})"

    @property
    def event_dims(self) -> tuple[int, int]:
        return 1, 2

    @property
    def codomain(self) -> constraints.Constraint:
        return constraints.lower_cholesky

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], self.size, self.size))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-2], self.size * (self.size + 1) // 2))

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = self._places(x)
        on = rows == columns
        entries = torch.where(on, torch.where(on, x, 0.0).exp(), x)
        flat = x.new_zeros(*x.shape[:-1], self.size**2).index_copy(-1, rows * self.size + columns, entries)
        return flat.unflatten(-1, (self.size, self.size)), x[..., on].sum(-1)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = self._places(y)
        on, entries = rows == columns, y[..., rows, columns]
        x = torch.where(on, torch.where(on, entries, 1.0).log(), entries)
        return x, -x[..., on].sum(-1)

    def _places(self, like: Tensor) -> Tensor:
        return torch.tril_indices(self.size, self.size, device=like.device)


class PositiveDefinite(LowerCholesky):
    r"""A vector onto positive definite matrices :math:`L L^\top`.

    The log-determinant is that of the map to the entries on and below the diagonal, in which the density of a Wishart
    distribution is written: :math:`\log \det \partial (L L^\top) / \partial L = n \log 2 + \sum_i (n - i) \log L_{ii}`,
    rows counted from zero.
    """

    @property
    def codomain(self) -> constraints.Constraint:
        return constraints.positive_definite

    def __repr__(self) -> str:
        return f"PositiveDefinite({self.size})"

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        root, log_det = super().forward_and_log_det(x)
        return root @ root.mT, log_det + self._squared(root)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        root, failed = torch.linalg.cholesky_ex(y)
        x, log_det = super().inverse_and_log_det(root)
        log_det = log_det - self._squared(root)
        return x, torch.where(failed == 0, log_det, torch.nan)

    def _squared(self, root: Tensor) -> Tensor:
        powers = torch.arange(self.size, 0, -1, dtype=root.dtype, device=root.device)
        logs = root.diagonal(dim1=-2, dim2=-1).log()
        return self.size * math.log(2) + (powers * logs).sum(-1)


def bijection_to(constraint: constraints.Constraint, shape: tuple[int, ...]) -> torch.distributions.Transform:
    """What maps real numbers onto a constraint, of matrices of that size too, of which torch has no bijection.

    Raises:
        NotImplementedError: there is none.
    """
    element = constraint
    while isinstance(element, constraints.independent):
        element = element.base_constraint
    if element is constraints.lower_cholesky:
        return LowerCholesky(shape[-1])
    return PositiveDefinite(shape[-1]) if element is constraints.positive_definite else biject_to(constraint)
