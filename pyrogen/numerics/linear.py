r"""Small linear algebra of Gaussian conditioning, over leading batch dimensions.

Covariances that come out of networks are symmetric and positive only up to rounding and to the network's errors, so the
factorisation here repairs what is slightly negative and says nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cholesky(covariance: Tensor, floor: Tensor) -> Tensor:
    """The lower Cholesky factor of ``floor + covariance``.

    ``floor`` is a covariance. Negative directions of the symmetric part of ``covariance`` count as zero.

    Args:
        covariance: Of shape ``(*batch, m, m)``, perhaps not symmetric, perhaps with negative directions.
        floor: A positive definite matrix that broadcasts with it.

    Shape:
        ``(*batch, m, m)``.
    """
    symmetric = 0.5 * (covariance + covariance.mT)
    factor, failed = torch.linalg.cholesky_ex(symmetric + floor)
    # A success may still have eaten into the floor: the smallest pivot must not fall below it.
    low = factor.diagonal(dim1=-2, dim2=-1).square().amin(-1) < 0.5 * floor.diagonal(dim1=-2, dim2=-1).amin(-1)
    bad = failed.bool() | low
    if not bad.any():
        return factor
    values, vectors = torch.linalg.eigh(symmetric[bad])
    repaired = (vectors * values.clamp_min(0).unsqueeze(-2)) @ vectors.mT
    factor[bad] = torch.linalg.cholesky(repaired + floor.expand_as(symmetric)[bad])
    return factor


def gaussian_log_prob(residual: Tensor, factor: Tensor) -> Tensor:
    r"""The log-density :math:`\log \mathcal{N}(r; 0, L L^\top)` in nats.

    Args:
        residual: Of shape ``(*batch, m)``.
        factor: The lower Cholesky factor, of shape ``(*batch, m, m)``.
    """
    white = torch.linalg.solve_triangular(factor, residual.unsqueeze(-1), upper=False).squeeze(-1)
    log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - log_scale - 0.5 * residual.shape[-1] * math.log(2 * math.pi)


def solve(factor: Tensor, right: Tensor) -> Tensor:
    r""":math:`(L L^\top)^{-1} r` for vectors ``right`` of shape ``(*batch, m)``."""
    return torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
