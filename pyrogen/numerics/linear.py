r"""Small linear algebra, over leading batch dimensions: determinants, and Gaussian conditioning in double precision.

There everything is in units of the noise: a measurement of covariance :math:`C` with independent noise of variance one
has the covariance :math:`I + C`. Its smallest eigenvalue is one and its largest may be :math:`10^{10}`, beyond single
precision. Covariances that come out of networks are symmetric and positive only up to rounding and to the network's
errors, so the factorization repairs what is slightly negative, without a warning.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .autograd import is_functional


def whitening(covariance: Tensor) -> Tensor:
    """The lower triangular factor :math:`L` of :math:`L L^T = I + C`, in double precision.

    Negative directions of the symmetric part of ``covariance`` count as zero. It does not fail: where an entry is no
    number, so is the factor.

    Args:
        covariance: Of shape ``(*batch, m, m)``, perhaps not symmetric, perhaps singular or with negative directions.

    Shape:
        ``(*batch, m, m)``.
    """
    covariance = covariance.double()
    symmetric = 0.5 * (covariance + covariance.mT)
    identity = torch.eye(covariance.shape[-1], dtype=torch.double, device=covariance.device)
    factor, failed = torch.linalg.cholesky_ex(symmetric + identity)
    # A success may still have eaten into the identity: no pivot may fall below it.
    low = factor.diagonal(dim1=-2, dim2=-1).square().amin(-1) < 0.5 if factor.numel() else failed.bool()
    bad = failed.bool() | low
    if not bad.any():
        return factor
    factor[bad] = _repaired(symmetric[bad], identity)
    return factor


def _repaired(symmetric: Tensor, identity: Tensor) -> Tensor:
    """The factor with negative directions taken for zero, by an orthogonal decomposition, which cannot fail."""
    finite = symmetric.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], symmetric, identity))
    root = values.clamp_min(0).add(1).sqrt().unsqueeze(-1) * vectors.mT
    upper = torch.linalg.qr(root).R
    upper = upper * torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-1)
    return upper.mT.masked_fill(~finite[..., None, None], torch.nan)


def white_log_density(residual: Tensor, factor: Tensor) -> Tensor:
    r""":math:`\log \mathcal{N}(r; 0, L L^\top)` in nats, but for :math:`\tfrac{m}{2} \log 2 \pi`.

    Args:
        residual: Of shape ``(*batch, m)``.
        factor: The lower Cholesky factor, of shape ``(*batch, m, m)``, or one for all along the first dimension.
    """
    white = _with_columns(
        lambda right, lower: torch.linalg.solve_triangular(lower, right, upper=False), residual, factor
    )
    return -0.5 * white.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def solve(factor: Tensor, right: Tensor) -> Tensor:
    r""":math:`(L L^\top)^{-1} r` for vectors ``right`` of shape ``(*batch, m)``."""
    return _with_columns(torch.cholesky_solve, right, factor)


def log_abs_det(matrix: Tensor) -> Tensor:
    r""":math:`\log |\det A|` of matrices ``(*batch, n, n)``, ``batch``.

    The forward derivative of ``torch.linalg.slogdet`` under nested ``torch.vmap``, as ``vmap(jacfwd(...))`` and
    ``vmap(hessian(...))`` nest it, is that of the first matrix for all of them; that of the factors is right.
    """
    return torch.linalg.lu_factor_ex(matrix)[0].diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    r""":math:`A^{-1} B` of matrices ``(*batch, n, n)`` and ``(*batch, n, m)``.

    By the inverse under transforms of ``torch.func``, where the derivative of ``torch.linalg.solve`` has the fault of
    :func:`log_abs_det`.
    """
    if is_functional((matrix, right)):
        return torch.linalg.inv_ex(matrix)[0] @ right
    return torch.linalg.solve(matrix, right)


def krylov_solve(apply: Callable[[Tensor], Tensor], right: Tensor, passes: int) -> Tensor:
    r"""Solutions of :math:`(I + C) x = b`, with :math:`C` known only by what it makes of vectors.

    They are those of least energy in the space of :math:`b, C b, C^2 b, \dots` (conjugate gradients, with all vectors
    kept orthogonal): exact after as many passes as there are numbers, and stable where :math:`C` is symmetric and
    positive up to errors only, since its negative directions count as zero.

    Args:
        apply: :math:`C` times vectors ``(*batch, m)``.
        right: The vectors :math:`b`, of shape ``(*batch, m)``.
        passes: How often :math:`C` is applied, at most; less often where it is accurate to 1e-6 before.

    Shape:
        ``(*batch, m)``, in double precision.

    References:
        Saad 2003, "Iterative methods for sparse linear systems", section 6.7, https://doi.org/10.1137/1.9780898718003
    """
    right = right.double()
    found, vector = torch.zeros_like(right), right
    basis, images = right.new_zeros(*right.shape, 0), right.new_zeros(*right.shape, 0)
    smallest = 1e-6 * right.norm(dim=-1, keepdim=True)
    for _ in range(min(passes, right.shape[-1])):
        size = vector.norm(dim=-1, keepdim=True)
        for _ in range(2):
            vector = vector - matvec(basis, matvec(basis.mT, vector))
        left = vector.norm(dim=-1, keepdim=True)
        new = torch.where(left > 1e-12 * size, vector / left, 0.0).nan_to_num(0.0)
        vector = apply(new).double()
        basis, images = torch.cat([basis, new.unsqueeze(-1)], -1), torch.cat([images, vector.unsqueeze(-1)], -1)
        found = matvec(basis, solve(whitening(basis.mT @ images), matvec(basis.mT, right)))
        missed = right - found - matvec(images, matvec(basis.mT, found))
        if not bool((missed.norm(dim=-1, keepdim=True) > smallest).any()):
            break
    return found


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices ``(..., m, n)`` times vectors ``(..., n)``."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _with_columns(solved: Callable[[Tensor, Tensor], Tensor], right: Tensor, factor: Tensor) -> Tensor:
    """Solves for vectors; those that share a matrix along the first dimension are its columns, and it is not copied."""
    right = right.to(factor)
    if right.dim() == factor.dim() - 1 and right.dim() > 1 and len(factor) == 1 < len(right):
        return solved(right.movedim(0, -1), factor[0]).movedim(-1, 0)
    return solved(right.unsqueeze(-1), factor).squeeze(-1)
