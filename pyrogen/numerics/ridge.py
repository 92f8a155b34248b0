r"""Ridge regression from moments, each output with a ridge of its own.

With the covariances :math:`C_{cc}` of the inputs and :math:`C_{cx}` of inputs and outputs, the weights of ridge
:math:`\lambda` are :math:`(C_{cc} + \lambda I)^{-1} C_{cx}`. The ridge of each output has the least error in
generalized cross-validation: the mean squared residual over :math:`(1 - \text{df} / n)^2`, an estimate of the error on
held-out data.

References:
    Golub, Heath and Wahba 1979, "Generalized cross-validation as a method for choosing a good ridge parameter",
    https://doi.org/10.1080/00401706.1979.10489751
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_RIDGES = torch.logspace(-8, 4, 61, dtype=torch.float64)
"""Ridges that are tried, in units of the largest variance of the inputs."""
_FREE = 0.05
"""The least share of the data that a regression must leave free."""


class Ridge(NamedTuple):
    """What a regression of ``D`` outputs on ``C`` inputs found.

    Attributes:
        weight: ``(D, C)``.
        error: The variance of each output that it is expected to leave on held-out data, ``(D,)``.
        free: Which share of the data each regression leaves free, ``(D,)``.
    """

    weight: Tensor
    error: Tensor
    free: Tensor


def ridge(covariance: Tensor, count: int, outputs: int) -> Ridge:
    """The regression of the first features on the others.

    Args:
        covariance: Of outputs and inputs, side by side, in double precision.
        count: Of how many rows.
        outputs: How many outputs there are.

    Example:
        >>> x = torch.randn(500, 2, dtype=torch.double)
        >>> rows = torch.cat([x @ torch.tensor([[3.0], [-1.0]], dtype=torch.double), x], 1)
        >>> [round(weight, 3) for weight in ridge(torch.cov(rows.T), 500, 1).weight[0].tolist()]
        [3.0, -1.0]
    """
    cross, variance = covariance[outputs:, :outputs], covariance.diagonal()[:outputs]
    spectrum, axes = torch.linalg.eigh(covariance[outputs:, outputs:])
    spectrum, along = spectrum.clamp(min=0), axes.T @ cross  # (C,), (C, D)
    largest = spectrum.max().clamp(min=torch.finfo(torch.float32).tiny)  # constant inputs explain nothing
    inverse = 1 / (spectrum + largest * _RIDGES.to(spectrum).unsqueeze(-1))  # (ridges, C)
    explained = (2 * inverse - spectrum * inverse.square()) @ along.square()  # (ridges, D)
    free = (1 - (1 + (spectrum * inverse).sum(-1)) / count).unsqueeze(-1)  # 1 - df / n
    error = (variance - explained).clamp(min=0) / free.clamp(min=_FREE).square()
    error, best = error.masked_fill(free < _FREE, torch.inf).min(0)  # (D,)
    return Ridge((axes @ (inverse[best].T * along)).T, error, free[best, 0].clamp(min=_FREE))
