r"""Convergence: whether chains have mixed, and how many independent draws theirs are worth.

Draws are of shape ``(chains, draws, *shape)``; each number of ``shape`` is judged by itself. Ranks of the draws, turned
into normal scores, stand for the draws, so that heavy tails do no harm; halves of a chain are compared like chains.

References:
    Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021, "Rank-normalization, folding, and localization: an improved
    R-hat for assessing convergence of MCMC", https://arxiv.org/abs/1903.08008
    Betancourt 2016, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo",
    https://arxiv.org/abs/1604.00695
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

_LEVELS = 64  # at most, at which chains are compared locally
_AT_ONCE = 2**22  # draws of single numbers


def _by_number(statistic: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A statistic of each number of ``(chains, draws, *shape)``, of some at a time: it takes many times their memory.

    It is NaN where a draw is.
    """

    @wraps(statistic)
    def of_all(draws: Tensor) -> Tensor:
        numbers = draws.flatten(2) if draws.dim() > 2 else draws.unsqueeze(2)
        parts = numbers.split(max(1, _AT_ONCE // max(1, draws.shape[0] * draws.shape[1])), 2)
        found = [statistic(part).where(~part.isnan().any(1).any(0), torch.nan) for part in parts]
        return torch.cat(found).reshape(draws.shape[2:])

    return of_all


@_by_number
def r_hat(draws: Tensor) -> Tensor:
    """The rank-normalized split R-hat, the larger of those of the draws and of their distances from the median.

    Args:
        draws: Of shape ``(chains, draws, *shape)``, at least four draws of each chain.

    Shape:
        ``shape``; NaN where the draws are all equal.
    """
    halves = _split(draws)
    folded = (halves - _quantile(halves, 0.5)).abs()
    return torch.maximum(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores(folded)))


@_by_number
def separate_effective_sample_size(draws: Tensor) -> Tensor:
    """The effective sample size of the halves of chains about means of their own: chains apart do not lower it.

    Args:
        draws: Of shape ``(chains, draws, *shape)``, at least four draws of each chain.

    Shape:
        ``shape``.
    """
    scores = _normal_scores(_split(draws))
    return effective_sample_size(scores - scores.mean(1, keepdim=True))


def r_hat_by_chance(chains: int, draws: int, worth: float, numbers: int, level: float = 0.05) -> float:
    r"""The R-hat that the largest of many exceeds with a probability of ``level`` where all chains have converged.

    Among the :math:`M` halves of the chains, of :math:`n` draws each, the variance of the means is then
    :math:`\sigma^2 M / S` times :math:`\chi^2_{M - 1} / (M - 1)`, with :math:`S` the effective sample size of all, so
    that by chance

    .. math:: \hat R^2 = 1 - \frac{1}{n} + \frac{M}{S} \, \frac{\chi^2_{M - 1}}{M - 1} .

    The quantile is taken at ``level`` over twice the numbers (Bonferroni): draws and folded draws are compared.

    Args:
        chains: How many chains.
        draws: Of each chain.
        worth: :math:`S`, as :func:`separate_effective_sample_size` gives it: chains apart lower any other one. It
            counts as at most all draws.
        numbers: How many R-hats there are.
        level: How often the largest may be larger.
    """
    from scipy.special import chdtri

    halves, n, worth = 2 * chains, draws // 2, min(worth, chains * draws)
    quantile = float(chdtri(halves - 1, level / (2 * numbers)))
    return (1 - 1 / n + halves / worth * quantile / (halves - 1)) ** 0.5


@_by_number
def local_r_hat(draws: Tensor) -> Tensor:
    r"""The largest R-hat of whether draws lie below a number, of all numbers between which shares of the chains lie.

    Whether a draw is below a number has a variance within chains and one between them, whatever the number. One or two
    chains of many that stay in a mode of their own hardly change a variance of the draws, and so the R-hat of these;
    but from a number between the modes the others all lie on one side, and nothing varies within chains: the local
    R-hat is infinite.

    Args:
        draws: Of shape ``(chains, draws, *shape)``, at least four draws of each chain.

    Shape:
        ``shape``; NaN where the draws are all equal.

    References:
        Moins, Arbel, Dutfoy and Girard 2023, "On the use of a local R-hat to improve MCMC convergence diagnostic",
        https://arxiv.org/abs/2205.06694
    """
    halves = _split(draws)
    n, levels = halves.shape[1], min(max(len(draws), 2), _LEVELS)
    ordered = _pooled(halves).sort(0).values  # (draws, numbers)
    places = torch.arange(1, levels, device=draws.device) * len(ordered) // levels - 1
    each = halves.movedim(1, 2).sort(-1).values.contiguous()  # (halves, numbers, n)
    limits = ordered[places].T.expand(len(each), -1, -1).contiguous()
    below = torch.searchsorted(each, limits, right=True).double() / n  # (halves, numbers, levels - 1)
    within, between = (below * (1 - below)).mean(0) * n / (n - 1), below.var(0)
    ratio = torch.where(between > 0, between / within, 0.0)  # where all are on one side, nothing is learned
    return torch.where(ordered[0] < ordered[-1], ((n - 1) / n + ratio).sqrt().amax(1), torch.nan)


@_by_number
def bulk_effective_sample_size(draws: Tensor) -> Tensor:
    """How many independent draws give the centre of the target as well: that of the normal scores.

    Args:
        draws: Of shape ``(chains, draws, *shape)``, at least four draws of each chain.

    Shape:
        ``shape``.
    """
    return effective_sample_size(_normal_scores(_split(draws)))


@_by_number
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
    """How much of the spread of energies in a chain one move covers: Betancourt's E-BFMI, of all chains together.

    Args:
        energy: Of the draws, ``(chains, draws)``.

    Returns:
        One number, of which below .3 is too little; NaN where no energy changes.
    """
    return energy.diff(dim=1).square().mean() / energy.var(1, correction=0).mean()


def _split(draws: Tensor) -> Tensor:
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, draws.shape[1] - half :]])


def _pooled(draws: Tensor) -> Tensor:
    """The draws of all chains, each number in a column."""
    return draws.flatten(0, 1)


def _quantile(draws: Tensor, level: float) -> Tensor:
    """Of the draws of all chains, linear between order statistics; ``torch.quantile`` refuses large tensors."""
    ordered = _pooled(draws).sort(0).values
    place = level * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below].lerp(ordered[above], place - below)


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
