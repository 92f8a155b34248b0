r"""Two-sample tests: could both samples come from one distribution?

For a kernel :math:`k` the squared maximum mean discrepancy between :math:`P` and :math:`Q` is

.. math:: \mathrm{MMD}^2 = E\,k(x, x') + E\,k(y, y') - 2 E\,k(x, y)

with independent :math:`x, x' \sim P` and :math:`y, y' \sim Q`. It is zero if and only if :math:`P = Q` (for the kernels
here). The unbiased estimate leaves out pairs of a point with itself, so it may be negative.

A p-value comes from permutations: under the hypothesis the labels "x" and "y" are exchangeable, so the estimate is
compared with those under random labels. With all pairs :math:`K` in one pass, the estimates of all permutations are one
product of :math:`K` with a matrix of labels, block after block of rows. The tests assume independent draws: thin the
draws of a Markov chain first.

References:
    Gretton, Borgwardt, Rasch, Schölkopf and Smola 2012, "A kernel two-sample test",
    https://jmlr.org/papers/v13/gretton12a.html
    Székely and Rizzo 2013, "Energy statistics", https://doi.org/10.1016/j.jspi.2013.03.018
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import anything, checked, numbers
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import TestResult, permutation_p_value
from pyrogen.numerics.kernels import DistanceKernel, GaussianKernel, Kernel
from pyrogen.numerics.pairwise import distance_blocks, median_distance


@takes_arrays
def squared_mmd(
    x: Tensor, y: Tensor, *, kernel: Kernel | None = None, generator: torch.Generator | None = None
) -> float:
    r"""The unbiased estimate of the squared maximum mean discrepancy.

    Args:
        x: Draws; dimensions after the first are flattened.
        y: Draws, not necessarily as many.
        kernel: How alike two points are; Gaussian with the median distance as bandwidth if ``None``.
        generator: Of the points whose median distance is taken (only if there are more than a thousand).

    Shape:
        ``x`` is ``(m, *event_shape)``, ``y`` is ``(n, *event_shape)``.

    Raises:
        TypeError: a sample is no tensor, or the kernel no kernel.
        ValueError: there are fewer than two draws, the events differ in shape, or a draw is not finite.
    """
    pooled, labels = _pool(x, y)
    return float(_estimates(pooled, labels, _fitted(kernel or GaussianKernel(), pooled, generator))[0])


@takes_arrays
def mmd_test(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel | None = None,
    permutations: int = 999,
    generator: torch.Generator | None = None,
) -> TestResult:
    r"""A permutation test of the hypothesis that both samples come from one distribution, by their squared MMD.

    The p-value is :math:`(1 + \#\{T_b \ge T\}) / (1 + B)`: at level :math:`\alpha` the test errs at most that often,
    whatever the distribution, the kernel and the sample sizes.

    Args:
        x: Independent draws; dimensions after the first are flattened.
        y: Independent draws, not necessarily as many.
        kernel: How alike two points are; Gaussian with the median distance as bandwidth if ``None``.
        permutations: How many random relabelings :math:`B`. Memory is ``permutations`` numbers for each draw.
        generator: Of the permutations.

    Raises:
        TypeError: a sample is no tensor, or the kernel no kernel.
        ValueError: there are fewer than two draws, the events differ in shape, or a draw is not finite.
    """
    pooled, labels = _pool(x, y)
    kernel = _fitted(kernel or GaussianKernel(), pooled, generator)
    shuffled = permuted(labels[:, 0], permutations, generator)
    estimates = _estimates(pooled, torch.cat([labels, shuffled], 1), kernel)
    statistic, null = float(estimates[0]), estimates[1:]
    return TestResult(statistic, permutation_p_value(statistic, null), "squared MMD", null)


@takes_arrays
def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""The unbiased estimate of the energy distance, :math:`2 E|x - y| - E|x - x'| - E|y - y'|`, in data units.

    In one dimension it is :math:`2 \int (F - G)^2` for the distribution functions :math:`F` and :math:`G`. The samples
    are as for :func:`squared_mmd`.
    """
    return squared_mmd(x, y, kernel=DistanceKernel())


@takes_arrays
def energy_test(
    x: Tensor, y: Tensor, *, permutations: int = 999, generator: torch.Generator | None = None
) -> TestResult:
    """A permutation test by the energy distance: nothing to tune, not invariant to the scale of single coordinates.

    Arguments and errors are those of :func:`mmd_test`.
    """
    result = mmd_test(x, y, kernel=DistanceKernel(), permutations=permutations, generator=generator)
    return TestResult(result.statistic, result.p_value, "energy distance", result.null)


def pool(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples as rows of one matrix, and a mask that says which rows are of the first.

    Raises:
        TypeError: a sample is no tensor.
        ValueError: there are fewer than two draws, the events are empty or differ in shape, or a draw is not finite.
    """
    for name, sample in (("x", x), ("y", y)):
        numbers(sample, name)
    if x.dim() < 1 or y.dim() < 1 or x.shape[1:] != y.shape[1:] or not x.shape[1:].numel():
        raise ValueError(
            f"`x` and `y` must have shapes (m, *event) and (n, *event), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.device != y.device:
        raise ValueError(f"`y` must be on the device of `x`, {x.device}, got {y.device}")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"`x` and `y` must hold at least two draws each, got {len(x)} and {len(y)}")
    pooled = torch.cat([x.detach().reshape(len(x), -1), y.detach().reshape(len(y), -1)])
    if not pooled.is_floating_point() or pooled.element_size() < 4:  # no distances in half precision
        pooled = pooled.to(torch.get_default_dtype())
    first = torch.zeros(len(pooled), dtype=torch.bool, device=pooled.device)
    first[: len(x)] = True
    return pooled, first


@checked
def permuted(labels: Tensor, permutations: int, generator: torch.Generator | None = None) -> Tensor:
    """Random orders of ``labels``.

    Args:
        labels: One number for each datum.
        permutations: How many.
        generator: Of the orders.

    Shape:
        ``(n,)`` to ``(n, permutations)``.

    Raises:
        TypeError: ``permutations`` is no integer.
        ValueError: ``permutations`` is not positive.
    """
    device = generator.device if generator is not None else labels.device
    order = torch.rand(permutations, len(labels), generator=generator, device=device).argsort(1)
    return labels[order.to(labels.device)].T


def _pool(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    pooled, first = pool(x, y)
    return pooled, first.to(pooled.dtype).unsqueeze(1)


@checked(kernel=anything)
def _fitted(kernel: Kernel, pooled: Tensor, generator: torch.Generator | None) -> Kernel:
    if not isinstance(kernel, Kernel):
        raise TypeError(f"`kernel` must be a kernel of `pyrogen.numerics.kernels`, got {kernel!r}")
    if not kernel.needs_median:
        return kernel
    try:
        return kernel.fitted(float(median_distance(pooled, generator=generator)))
    except ValueError as error:
        raise ValueError(f"`kernel` must have a `bandwidth`, for it cannot be fitted to `x` and `y`: {error}") from None


def _estimates(pooled: Tensor, labels: Tensor, kernel: Kernel) -> Tensor:
    """The unbiased squared MMD under each column of labels (1: first sample, 0: second), from one pass over the pairs.

    With K the kernel matrix without its diagonal and s a column, the sums over pairs are s'Ks, s'K(1 - s) and
    (1 - s)'K(1 - s).
    """
    within_first = torch.zeros(labels.shape[1], dtype=torch.double, device=labels.device)
    from_first, total = within_first.clone(), within_first.new_zeros(())
    for block, distance in distance_blocks(pooled, pooled):
        similarity = kernel(distance)
        similarity[torch.arange(len(similarity)), torch.arange(block.start, block.stop)] = 0
        rows = similarity.sum(1, dtype=torch.double)
        chosen = labels[block]
        within_first += (chosen * (similarity @ labels)).sum(0, dtype=torch.double)
        from_first += rows @ chosen.double()
        total += rows.sum()
    across = from_first - within_first
    within_second = total - 2 * from_first + within_first
    m, n = float(labels[:, 0].sum()), float((1 - labels[:, 0]).sum())
    estimates = within_first / (m * (m - 1)) + within_second / (n * (n - 1)) - 2 * across / (m * n)
    if not estimates.isfinite().all():
        raise ValueError(
            f"`x` and `y` have distances too large for {pooled.dtype}: divide both by a scale, or pass double precision"
        )
    return estimates
