r"""The kernel distance between samples: their squared maximum mean discrepancy under a cubic polynomial kernel.

.. math::
    k(x, y) = \big( \tfrac1d \, x^\top y + 1 \big)^3, \qquad
    \mathrm{MMD}^2 = \mathrm{E}\,k(x, x') + \mathrm{E}\,k(y, y') - 2 \, \mathrm{E}\,k(x, y) .

It is zero where means, covariances and third moments agree. In the features of an Inception network it is the KID of
Bińkowski et al. 2018. The estimate leaves out pairs of a draw with itself and is unbiased at any number of draws, so it
may be negative. All pairs count, in blocks; averages over random subsets, as they are often reported, waste draws, and
their spread is that of a subset.

The standard error is that of the jackknife, from the estimates without one of the draws, which follow from the sums
over its pairs. It is never too small on average (Efron and Stein 1981), and for equal distributions too large by 1.4.

References:
    Bińkowski, Sutherland, Arbel and Gretton 2018, "Demystifying MMD GANs", https://arxiv.org/abs/1801.01401
    Efron and Stein 1981, "The jackknife estimate of variance", https://doi.org/10.1214/aos/1176345462
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate
from pyrogen.numerics.pairwise import BLOCK_ENTRIES

from .embedding import NamedEmbedding, embedded


@takes_arrays
def kernel_distance(x: Tensor, y: Tensor, *, embedding: NamedEmbedding | None = None) -> Estimate:
    """The unbiased kernel distance of two samples in an embedding.

    The kernel depends on origin and scale of the features: bring data that are compared in their own coordinates to
    order one first, by the same numbers for both samples.

    Args:
        x: Independent draws, at least three.
        y: Independent draws, not necessarily as many.
        embedding: In what they are compared; ``None`` for their own coordinates.

    Shape:
        ``x`` is ``(m, *event_shape)``, ``y`` is ``(n, *event_shape)``.

    Raises:
        TypeError: a sample is no tensor, one holds integers and the other not, or ``embedding`` is none.
        ValueError: there are fewer than three draws, the events differ in shape, or a draw is not finite.

    Example:
        >>> distance = kernel_distance(torch.randn(500, 1), 2.0 * torch.randn(500, 1))
        >>> distance.unit
        "squared MMD in the data's own coordinates"
        >>> abs(distance.value - 27.0) < 5 * distance.standard_error
        True
    """
    first, second, name = embedded(x, y, embedding, least=3)
    pairs = _Pairs(_sums_within(first), _sums_within(second), _sums(first, second), _sums(second, first))
    value = pairs.estimate()
    if not value.isfinite():
        raise ValueError(f"`x` and `y` have features too large for a cubic kernel in {name}: divide both by a scale")
    variance = sum(_jackknife(estimates) for estimates in pairs.without_one())
    return Estimate(float(value), float(variance.sqrt()), f"squared MMD in {name}", None)


class _Pairs(NamedTuple):
    """Sums of the kernel over the pairs of each draw: with others of its own sample, and with the other sample."""

    first: Tensor  # (m,)
    second: Tensor  # (n,)
    first_across: Tensor  # (m,)
    second_across: Tensor  # (n,)

    def estimate(self) -> Tensor:
        m, n = len(self.first), len(self.second)
        across = self.first_across.sum() / (m * n)
        return self.first.sum() / (m * (m - 1)) + self.second.sum() / (n * (n - 1)) - 2 * across

    def without_one(self) -> tuple[Tensor, Tensor]:
        """The estimates without each draw of the first, and of the second sample."""
        m, n = len(self.first), len(self.second)
        across, within = self.first_across.sum(), (self.first.sum() / (m * (m - 1)), self.second.sum() / (n * (n - 1)))
        first = (self.first.sum() - 2 * self.first) / ((m - 1) * (m - 2))
        second = (self.second.sum() - 2 * self.second) / ((n - 1) * (n - 2))
        return (
            first + within[1] - 2 * (across - self.first_across) / ((m - 1) * n),
            second + within[0] - 2 * (across - self.second_across) / (m * (n - 1)),
        )


def _jackknife(estimates: Tensor) -> Tensor:
    """The variance from estimates that each leave out one draw."""
    return (len(estimates) - 1) * estimates.var(correction=0)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """The kernel minus one, which the distance does not see, and which would hide small features."""
    product = (x @ y.mT).div_(x.shape[1])
    return product.add(3).mul_(product).add_(3).mul_(product)  # (1 + s)^3 - 1 = ((s + 3) s + 3) s


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """For each row of ``x`` the sum of the kernel over the rows of ``y``."""
    return torch.cat([_kernel(rows, y).sum(1) for rows in x.split(max(1, BLOCK_ENTRIES // len(y)))])


def _sums_within(x: Tensor) -> Tensor:
    """For each row the sum of the kernel over the other rows."""
    product = x.square().sum(1) / x.shape[1]
    return _sums(x, x) - ((product + 3) * product + 3) * product
