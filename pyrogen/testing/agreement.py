r"""Whether ``sample`` and ``log_prob`` belong to one distribution.

*Normalization*: :math:`Z = \int \exp(\text{log\_prob}(x)) \, dx` is 1. Few discrete states are summed; one and two real
dimensions are integrated; above, :math:`\log Z` comes from Bennett's acceptance ratio between the samples and a simple
distribution fitted to half of them.

*Samples*: one step of a Metropolis sampler with target ``log_prob`` must leave the distribution of the samples as it
is. This needs no normalizer and no smoothness.

References:
    Bennett 1976, "Efficient estimation of free energy differences from Monte Carlo data",
    https://doi.org/10.1016/0021-9991(76)90078-4
    Geweke 2004, "Getting it right: joint distribution tests of posterior simulators",
    https://doi.org/10.1198/016214504000001132
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from .coordinates import DiscreteRow, RealRow, Row, robust_spread, row_of
from .report import NotApplicableError, require
from .subject import DistributionSubject, is_repeatable, require_log_prob

DEVIATIONS = 5.5
"""Standard errors at which a check fails: by chance once in 26 million tests of one number."""

INCONCLUSIVE = 0.3
"""The largest standard error (nats) at which an estimate of log Z is conclusive."""


def normalization(subject: DistributionSubject) -> str:
    """``exp(log_prob)`` sums or integrates to one; that of a lower bound to at most one."""
    module, _ = subject.doubled()
    require_log_prob(subject, module)
    density = subject.density(module)
    if density == "unnormalized":
        raise NotApplicableError("the density is 'unnormalized'")
    row = row_of(subject, module)
    if density == "lower bound":
        return _bound(row, 4000 if subject.slow else 1000)
    slack = 1e-3 if density == "exact" else 0.05
    noisy = _is_noisy(subject, module)
    if not noisy:
        states = _states(row, 65_536 if subject.slow else 4096)
        if states is not None:
            return _check_sum(row, states, slack)
        if isinstance(row, RealRow) and row.coordinates <= 2:
            found = _check_integral(row, subject.slow, slack)
            if found:
                return found
    return _check_bridge(row, _draws(subject, row), slack, noisy)


def samples_follow_log_prob(subject: DistributionSubject) -> str:
    """A Metropolis sampler of ``log_prob`` leaves samples as they are; few discrete states occur as often as said."""
    module, _ = subject.doubled()
    require_log_prob(subject, module)
    density = subject.density(module)
    if density == "lower bound":
        raise NotApplicableError("the density is 'lower bound': log_prob is not that of the samples")
    if _is_noisy(subject, module):
        raise NotApplicableError("the log_prob is noisy: only its expectation belongs to the samples")
    row = row_of(subject, module)
    states = _states(row, 4096)
    if states is not None:
        return _check_frequencies(row, states, 20_000 if subject.slow else 4000)
    smallest = 0.0 if density == "exact" else 0.1
    return _check_metropolis(row, _draws(subject, row), 10 if subject.slow else 3, smallest)


def _draws(subject: DistributionSubject, row: Row) -> int:
    if subject.slow:
        return 20_000
    return 2000 if row.coordinates <= 16 else 1000


def _is_noisy(subject: DistributionSubject, module: nn.Module) -> bool:
    return not is_repeatable(subject, module, subject.inputs(module))


def _states(row: Row, most: int) -> Tensor | None:
    """All states of a discrete row (those that matter if they are infinitely many), or None if they are too many."""
    if not isinstance(row, DiscreteRow) or len(row.symbols) ** row.coordinates > most:
        return None
    return torch.cartesian_prod(*[row.symbols] * row.coordinates).reshape(-1, row.coordinates)


def _check_sum(row: DiscreteRow, states: Tensor, slack: float) -> str:
    total = row.log_density(states).logsumexp(0).exp().item()
    slack = slack if row.bounded else max(slack, 1e-2)
    require(abs(total - 1) <= slack, f"the probabilities of all {len(states)} states sum to {total:.4f}, not 1")
    return f"the probabilities of {len(states)} states sum to {total:.5f}"


def _check_integral(row: RealRow, slow: bool, slack: float) -> str | None:
    points = row.sample(2000)
    centre, spread = points.median(0).values, robust_spread(points)
    sizes = {1: 4001, 2: 321 if slow else 121}
    fine, coarse = _integral(row, centre, spread, sizes[row.coordinates])
    error = abs(fine - coarse)
    if error > 0.05 * max(fine, coarse):
        return None
    require(
        abs(fine - 1) <= slack + 3 * error,
        f"exp(log_prob) integrates to {fine:.4f}, not 1 (integration error {error:.1e})",
    )
    return f"exp(log_prob) integrates to {fine:.5f} (integration error {error:.1e})"


def _integral(row: RealRow, centre: Tensor, spread: Tensor, size: int) -> tuple[float, float]:
    r"""Trapezoidal sums on a grid and on half of its lines, with :math:`u = c + s \sinh v` in each coordinate."""
    v = torch.linspace(-8, 8, size, dtype=torch.float64)
    axis = v.sinh()
    log_width = (v.cosh() * (v[1] - v[0])).log()
    index = torch.cartesian_prod(*[torch.arange(size)] * row.coordinates).reshape(-1, row.coordinates)
    logs = row.log_density(centre + spread * axis[index]) + (log_width[index] + spread.log()).sum(-1)
    second = (index % 2 == 0).all(-1)
    coarse = logs[second].logsumexp(0) + row.coordinates * math.log(2)
    return logs.logsumexp(0).exp().item(), coarse.exp().item()


def _check_bridge(row: Row, draws: int, slack: float, noisy: bool) -> str:
    log_z, error, low, high = _bridge(row, draws)
    where = f"log Z = {log_z:.3f} +- {error:.3f} nats by bridge sampling in {row.coordinates} dimensions"
    for bound, side in ((low, 1), (-high, -1)):
        value, deviation = bound.mean().item(), (bound.std() / math.sqrt(draws)).item()
        require(
            not value > slack + DEVIATIONS * deviation,
            f"log Z is {'above' if side > 0 else 'below'} {side * value:.3f} +- {deviation:.3f} nats, not 0",
        )
    if noisy:  # the bounds hold for the mean of log_prob; bridge sampling would be biased by the noise
        return f"log Z lies between {low.mean():.2f} and {high.mean():.2f} nats, which are bounds for a noisy log_prob"
    if not error < INCONCLUSIVE:
        raise NotApplicableError(f"inconclusive: {where}")
    require(abs(log_z) <= slack + DEVIATIONS * error, f"{where}, not 0")
    return where


def _bridge(row: Row, draws: int) -> tuple[float, float, Tensor, Tensor]:
    """The estimate of log Z, its standard error, and log-ratios whose means bound log Z from below and above."""
    points = row.sample(2 * draws)
    simple = row.approximation(points[:draws])
    ours, theirs = points[draws:], simple.sample(draws)
    ratio = row.log_density(ours) - simple.log_density(ours)
    other = row.log_density(theirs) - simple.log_density(theirs)
    low, high = -100.0, 100.0
    for _ in range(60):
        log_z = (low + high) / 2
        more = torch.sigmoid(other - log_z).sum() > torch.sigmoid(log_z - ratio).sum()
        low, high = (log_z, high) if more else (low, log_z)
    a, b = torch.sigmoid(log_z - ratio), torch.sigmoid(other - log_z)
    variance = a.var() / (draws * a.mean() ** 2) + b.var() / (draws * b.mean() ** 2)
    return log_z, variance.sqrt().item(), other, ratio


def _bound(row: Row, draws: int) -> str:
    r"""Checks :math:`\int \exp(\mathbb{E}[\text{bound}]) \le 1` by importance sampling, averaging the noise."""
    repeats = 8
    points = row.sample(draws)
    simple = row.approximation(points)
    proposals = simple.sample(draws)
    bounds = torch.stack([row.log_density(proposals) for _ in range(repeats)])  # (repeats, draws)
    inflation = (bounds.var(0) / (2 * repeats)).nan_to_num(0.0)
    weights = (bounds.mean(0) - inflation - simple.log_density(proposals)).exp()
    total, error = weights.mean().item(), (weights.std() / math.sqrt(draws)).item()
    found = f"exp of the bound integrates to {total:.3f} +- {error:.3f}"
    require(total <= 1 + 0.02 + DEVIATIONS * error, f"{found}, above 1")
    return f"{found}, at most 1"


def _check_frequencies(row: DiscreteRow, states: Tensor, draws: int) -> str:
    expected = row.log_density(states).softmax(0) * draws  # which an unknown constant leaves as it is
    samples = torch.searchsorted(row.symbols, row.sample(draws).contiguous())
    base = len(row.symbols) ** torch.arange(row.coordinates - 1, -1, -1)
    counts = torch.bincount((samples * base).sum(-1).clamp(max=len(states) - 1), minlength=len(states))
    order = expected.argsort(descending=True)
    groups = _pooled(expected[order], counts[order].double())
    chi_square = sum((seen - said) ** 2 / said for said, seen in groups)
    degrees = max(len(groups) - 1, 1)
    z = ((chi_square / degrees) ** (1 / 3) - 1 + 2 / (9 * degrees)) / math.sqrt(2 / (9 * degrees))
    require(z < DEVIATIONS, f"{draws} samples do not occur as often as log_prob says (chi-square z = {z:.1f})")
    return f"{draws} samples occur as often as log_prob says (chi-square z = {z:.1f})"


def _pooled(expected: Tensor, counts: Tensor) -> list[tuple[float, float]]:
    """Neighbouring states together until each group expects ten samples."""
    edges = [0]
    sums = expected.cumsum(0)
    while edges[-1] < len(expected):
        before = sums[edges[-1] - 1].item() if edges[-1] else 0.0
        edges.append(min(int(torch.searchsorted(sums, before + 10.0).item()) + 1, len(expected)))
    groups = [(expected[a:b].sum().item(), counts[a:b].sum().item()) for a, b in pairwise(edges)]
    while len(groups) > 1 and groups[-1][0] < 10:
        (said, seen), (more_said, more_seen) = groups[-2:]
        groups[-2:] = [(said + more_said, seen + more_seen)]
    return groups


def _check_metropolis(row: Row, draws: int, steps: int, smallest: float) -> str:
    start = row.sample(draws)
    centre, spread = start.median(0).values, robust_spread(start)
    points, score = start, row.log_density(start)
    require(bool(score.isfinite().all()), "log_prob of samples is not finite")
    first = score
    for _ in range(steps):
        proposal = row.propose(points, spread)
        proposed = row.log_density(proposal)
        accept = torch.rand_like(score).log() < proposed - score
        points, score = torch.where(accept[:, None], proposal, points), torch.where(accept, proposed, score)
    before, after = _features(start, first, centre, spread), _features(points, score, centre, spread)
    z, moved = _paired(before, after)
    worst = z.abs() * (moved > smallest)
    require(
        worst.max().item() < DEVIATIONS,
        f"samples do not follow log_prob: {steps} Metropolis steps move them by {z.abs().max():.1f} standard errors",
    )
    return f"{draws} samples follow log_prob: Metropolis steps move them by {z.abs().max():.1f} standard errors at most"


def _features(points: Tensor, score: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    """Bounded functions of the points, and the log-density itself, ``(points, features)``."""
    standard = (points - centre) / spread
    noise = torch.Generator().manual_seed(0)
    mixing = torch.randn(points.shape[1], 4, dtype=torch.float64, generator=noise) / points.shape[1] ** 0.5
    projected = torch.cat([standard[:, :4], standard.tanh() @ mixing], -1)
    size = standard.square().clamp(max=9).mean(-1, keepdim=True)
    return torch.cat([score[:, None], size, projected.tanh(), (projected.abs() - 0.7).tanh()], -1)


def _paired(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Standard errors by which each feature moved, and its move relative to its spread."""
    difference = after - before
    error = difference.std(0) / math.sqrt(len(before))
    mean = difference.mean(0)
    return mean / error.clamp(min=1e-12), mean.abs() / before.std(0).clamp(min=1e-12)
