r"""Convergence: whether chains have met, and how many independent draws theirs are worth.

Draws are of shape ``(chains, draws, *shape)``; each number of ``shape`` is judged by itself. Ranks of the draws, turned
into normal scores, stand for the draws, so that heavy tails do no harm; halves of a chain are compared like chains.

References:
    Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021, "Rank-normalization, folding, and localization: an improved
    R-hat for assessing convergence of MCMC", https://arxiv.org/abs/1903.08008
    Betancourt 2016, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo",
    https://arxiv.org/abs/1604.00695
"""

from __future__ import annotations

import torch
from torch import Tensor


def r_hat(draws: Tensor) -> Tensor:
    """The rank-normalised split R-hat, the larger of those of the draws and of their distances from the median.

    Args:
        draws: Of shape ``(chains, draws, *shape)``, at least four draws of each chain.

    Shape:
        ``shape``; NaN where the draws are all equal.
    """
    halves = _split(draws)
    folded = (halves - _quantile(halves, 0.5)).abs()
    return torch.maximum(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores(folded)))


def bulk_effective_sample_size(draws: Tensor) -> Tensor:
    """How many independent draws give the centre of the target as well: that of the normal scores.

    Args:
        draws: Of shape ``(chains, draws, *shape)``, at least four draws of each chain.

    Shape:
        ``shape``.
    """
    return effective_sample_size(_normal_scores(_split(draws)))


def tail_effective_sample_size(draws: Tensor) -> Tensor:
    """How many independent draws give the quantiles 5 % and 95 % as well: the smaller number of the two.

    Args:
        draws: Of shape ``(chains, draws, *shape)``, at least four draws of each chain.

    Shape:
        ``shape``.
    """
    halves = _split(draws)
    low, high = (effective_sample_size((halves <= _quantile(halves, level)).to(draws.dtype)) for level in (0.05, 0.95))
    return torch.minimum(low, high)


def effective_sample_size(draws: Tensor) -> Tensor:
    r"""How many independent draws give the mean as well, :math:`C N / \tau`, of draws as they are.

    The autocorrelation time :math:`\tau` is the sum of autocorrelations over lags, in pairs that are positive and fall
    (Geyer's initial monotone sequence); variance between chains lengthens it.

    Args:
        draws: Of shape ``(chains, draws, *shape)``.

    Shape:
        ``shape``.
    """
    chains, n = draws.shape[:2]
    covariance = _autocovariance(draws).mean(0)  # (n, *shape)
    within = covariance[0] * n / (n - 1)
    between = draws.mean(1).var(0) if chains > 1 else torch.zeros_like(within)
    total = covariance[0] + between
    correlation = 1 - (within - covariance) / total
    correlation[0] = 1.0
    even = n - n % 2
    pairs = correlation[:even].unflatten(0, (-1, 2)).sum(1)  # (n / 2, *shape)
    positive = (pairs > 0).cummin(0).values
    falling = torch.where(positive, pairs, 0.0).cummin(0).values
    time = (2 * falling.sum(0) - 1).clamp(min=1 / torch.tensor(float(chains * n)).log10())
    return torch.where(total > 0, chains * n / time, torch.nan)


def energy_mixing(energy: Tensor) -> Tensor:
    """How much of the spread of energies one move covers, by chain: Betancourt's E-BFMI; below .3 is too little.

    Args:
        energy: Of the draws, ``(chains, draws)``.
    """
    return energy.diff(dim=1).square().mean(1) / energy.var(1, correction=0)


def _split(draws: Tensor) -> Tensor:
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, draws.shape[1] - half :]])


def _pooled(draws: Tensor) -> Tensor:
    """The draws of all chains, each number in a column."""
    return draws.flatten(0, 1).reshape(draws.shape[0] * draws.shape[1], -1)


def _quantile(draws: Tensor, level: float) -> Tensor:
    """Of the draws of all chains, linear between order statistics; ``torch.quantile`` refuses large tensors."""
    ordered = _pooled(draws).sort(0).values
    place = level * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below].lerp(ordered[above], place - below).reshape(draws.shape[2:])


def _normal_scores(draws: Tensor) -> Tensor:
    """Normal quantiles of the ranks; equal draws share the mean of their ranks."""
    pooled = _pooled(draws).double()
    columns, values = pooled.sort(0).values.T.contiguous(), pooled.T.contiguous()
    below = torch.searchsorted(columns, values)
    upto = torch.searchsorted(columns, values, right=True)
    rank = (below + upto + 1).double() / 2
    scores = torch.special.ndtri((rank - 0.375) / (len(pooled) + 0.25))
    return scores.T.reshape(draws.shape)


def _r_hat(draws: Tensor) -> Tensor:
    n = draws.shape[1]
    within = draws.var(1).mean(0)
    between = draws.mean(1).var(0)
    return (((n - 1) / n * within + between) / within).sqrt()


def _autocovariance(draws: Tensor) -> Tensor:
    """Of every chain at all lags, ``(chains, draws, *shape)``; divided by the number of draws."""
    n = draws.shape[1]
    centred = (draws - draws.mean(1, keepdim=True)).double()
    spectrum = torch.fft.rfft(centred, 2 * n, dim=1)
    return torch.fft.irfft(spectrum.abs().square(), 2 * n, dim=1)[:, :n] / n
