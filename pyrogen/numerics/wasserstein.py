r"""Wasserstein distances of samples: exact on the line, averaged over lines elsewhere.

On the line the best coupling pairs quantiles, so for distribution functions :math:`F` and :math:`G`

.. math:: W_p^p(F, G) = \int_0^1 \left| F^{-1}(u) - G^{-1}(u) \right|^p du .

The quantile function of a sample is a step function of its sorted values, so the integral is a finite sum, whatever the
two sample sizes. In more dimensions the *sliced* distance averages that of the projections on all directions
:math:`\theta` of the sphere, and the *max-sliced* one takes the largest:

.. math:: SW_p^p(P, Q) = \mathbb{E}_\theta \, W_p^p(\theta^\top P, \theta^\top Q), \qquad
    \text{max-}SW_p^p(P, Q) = \max_\theta W_p^p(\theta^\top P, \theta^\top Q) .

References:
    Rabin, Peyré, Delon and Bernot 2012, "Wasserstein barycenter and its application to texture mixing",
    https://doi.org/10.1007/978-3-642-24785-9_37
    Bonneel, Rabin, Peyré and Pfister 2015, "Sliced and Radon Wasserstein barycenters of measures",
    https://doi.org/10.1007/s10851-014-0506-3
    Deshpande et al. 2019, "Max-sliced Wasserstein distance and its use for GANs", https://arxiv.org/abs/1904.05877
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def wasserstein_on_the_line(x: Tensor, y: Tensor, order: float = 2.0) -> Tensor:
    r"""The distance :math:`W_p^p` of samples of numbers, exact.

    Args:
        x: A sample.
        y: A sample, not necessarily as large.
        order: The power :math:`p`, at least 1.

    Shape:
        ``(*batch, m)`` and ``(*batch, n)`` to ``(*batch,)``.
    """
    x, y = x.sort(-1).values, y.sort(-1).values
    m, n = x.shape[-1], y.shape[-1]
    if m == n:
        return _power(x - y, order).mean(-1)
    ends = torch.cat([torch.arange(1, m + 1) * n, torch.arange(1, n + 1) * m]).unique()  # of steps, times m n
    widths = ends.diff(prepend=ends.new_zeros(1)).to(x) / (m * n)
    first, second = ((ends - 1) // n).to(x.device), ((ends - 1) // m).to(x.device)
    return _power(x[..., first] - y[..., second], order) @ widths


def directions(count: int, like: Tensor) -> Tensor:
    """Directions drawn uniformly from the sphere; on the line there is one.

    Args:
        count: How many.
        like: Points ``(n, d)``, whose dtype, device and dimension directions have.

    Shape:
        ``(count, d)``, or ``(1, 1)`` where ``d`` is one.
    """
    dimensions = like.shape[1]
    return like.new_ones(1, 1) if dimensions == 1 else normalize(like.new_empty(count, dimensions).normal_(), dim=1)


def along(lines: Tensor, x: Tensor, y: Tensor, order: float = 2.0) -> Tensor:
    r"""The distance :math:`W_p^p` of the projections on each direction.

    Shape:
        ``(l, d)``, ``(m, d)`` and ``(n, d)`` to ``(l,)``.
    """
    return wasserstein_on_the_line(lines @ x.T, lines @ y.T, order)


def ascended(lines: Tensor, x: Tensor, y: Tensor, order: float = 2.0, *, steps: int) -> Tensor:
    """Directions of larger distance, by steps to the normalized gradient.

    For ``order`` 2 and a fixed coupling a step is one of the power iteration, which never descends.
    """
    x, y = x.detach(), y.detach()
    for _ in range(steps):
        with torch.enable_grad():
            lines = lines.detach().requires_grad_()
            (slope,) = torch.autograd.grad(along(lines, x, y, order).sum(), lines)
        lines = normalize(slope, dim=1)
    return lines


def _power(difference: Tensor, order: float) -> Tensor:
    return difference.square() if order == 2 else difference.abs() ** order
