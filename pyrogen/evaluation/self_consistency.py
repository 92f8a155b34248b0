r"""Self-consistency of a diffusion model: does noising and denoising leave its distribution as it is?

A denoiser gives at every noise level :math:`\rho` a law of the datum :math:`x` given a noisy one. If all of them are of
one prior :math:`p`, a move

.. math:: z = x + \rho \varepsilon, \qquad x' \sim p(x \mid z)

leaves :math:`p` as it is: from draws of :math:`p` it makes draws of :math:`p`, however often it is repeated. A network
that is trained level by level need not be of one prior at all, and then it has no posterior to be right about: what
samplers of posteriors make of it depends on their path. Here the move is repeated, from data or from draws of the
model, and what it does to the law is measured.

*Named statistics* are means :math:`E f(x)` of functions of a draw. Before and after, they are compared draw by draw, so
that the error of their difference is small.

The *two-sample test* compares all of the law, by the squared maximum mean discrepancy of pairs,

.. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} h_{ij}, \qquad h_{ij} = k(x_i, x_j) + k(x'_i, x'_j) - k(x_i, x'_j) -
    k(x'_i, x_j) .

If :math:`x'` is drawn from :math:`p(x \mid z)`, then :math:`(x, x')` and :math:`(x', x)` have one law: both are draws
given the same :math:`z`. So signs may be flipped pair by pair, :math:`h_{ij} \to s_i s_j h_{ij}`, and p-values of all
statistics under the same flips are exact at any number of draws. A probability flow puts :math:`x'` where :math:`z` has
sent it, and the p-values are those of the wild bootstrap: right for many draws.

References:
    Gretton, Borgwardt, Rasch, Schölkopf and Smola 2012, "A kernel two-sample test",
    https://jmlr.org/papers/v13/gretton12a.html
    Chwialkowski, Sejdinovic and Gretton 2014, "A wild bootstrap for degenerate kernel tests",
    https://arxiv.org/abs/1408.5404
    Daras, Dagan, Dimakis and Daskalakis 2023, "Consistent diffusion models", https://arxiv.org/abs/2302.09057
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import anything, checked, finite, integer, positive
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate, TestResult, permutation_p_value, smallest_p_value
from pyrogen.core.modes import evaluating
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context
from pyrogen.diffusion.denoiser import Denoiser
from pyrogen.diffusion.samplers.multistep import Multistep
from pyrogen.diffusion.samplers.sampler import Sampler
from pyrogen.distributions.abilities import abilities_of
from pyrogen.numerics.grids import Grid, LogSNRGrid
from pyrogen.numerics.kernels import GaussianKernel, Kernel
from pyrogen.numerics.pairwise import median_distance

from .table import aligned

_LEAST = 0.01  # the noise, in data units, from which the last step goes to the end

Denoise = Callable[[Tensor, float], Tensor]
Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Change:
    """What moves at one noise level have done to the law.

    Args:
        noise: Of the moves, in data units.
        moves: How many moves.
        before: The statistics of the draws at the start.
        change: By how much the moves have changed each.
        tests: One for each statistic, and the two-sample test.
    """

    noise: float
    moves: int
    before: Mapping[str, Estimate]
    change: Mapping[str, Estimate]
    tests: Sequence[TestResult]

    @property
    def p_value(self) -> float:
        """The p-value of the smallest p-value of all tests."""
        return smallest_p_value(self.tests)


@dataclass(frozen=True)
class SelfConsistency:
    """What :func:`self_consistency` found.

    Args:
        changes: By noise and number of moves.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyrogen.diffusion import CosineVP, Diffusion, GaussianMixtureDenoiser
        >>> model = Diffusion(GaussianMixtureDenoiser(Normal(torch.zeros(2), 1.0).to_event(1), CosineVP()))
        >>> found = self_consistency(model, torch.randn(200, 2), noises=(0.5,), moves=(1,))
        >>> found.changes[0].noise, sorted(found.changes[0].change)
        (0.5, ['mean', 'variance'])
    """

    changes: Sequence[Change]

    @property
    def p_values(self) -> dict[float, float]:
        """By noise, the p-value of no change: the smallest over the numbers of moves, times how many there are."""
        noises = dict.fromkeys(change.noise for change in self.changes)
        of_each = {noise: [each.p_value for each in self.changes if each.noise == noise] for noise in noises}
        return {noise: min(1.0, len(values) * min(values)) for noise, values in of_each.items()}

    @property
    def p_value(self) -> float:
        """The p-value of no change at any noise: the smallest over them, times how many there are."""
        return min(1.0, len(self.p_values) * min(self.p_values.values()))

    def changed_at(self, level: float = 0.05) -> list[float]:
        """The noises at which the law changes, at a level that holds for all of them together."""
        return [noise for noise, value in self.p_values.items() if len(self.p_values) * value < level]

    def __str__(self) -> str:
        names = list(self.changes[0].change)
        start = ["start", "", *(str(self.changes[0].before[name]) for name in names), "", ""]
        rows = [
            [f"{each.noise:g}", str(each.moves), *(f"{_signed(each.change[name])}" for name in names)]
            + [f"{each.tests[-1].statistic:.2g}", f"{each.p_value:.2g}"]
            for each in self.changes
        ]
        bad = ", ".join(f"{noise:g}" for noise in self.changed_at())
        verdict = f"the law changes at noise {bad}" if bad else "no change was found"
        head = ["noise", "moves", *names, self.changes[0].tests[-1].name, "p"]
        return aligned([head, start, *rows]) + f"\n{verdict} (p = {self.p_value:.2g})"


@takes_arrays
@checked(noises=anything, moves=anything, kernel=anything, statistics=anything)
def self_consistency(
    model: Any,
    start: Tensor | None = None,
    *,
    noises: Sequence[float] = (0.05, 0.2, 0.8),
    moves: Sequence[int] = (1, 5),
    statistics: Mapping[str, Statistic] | None = None,
    sampler: Callable[[Grid], Sampler] = Multistep,
    context: Context = None,
    draws: int = 500,
    steps: int = 20,
    kernel: Kernel | None = None,
    permutations: int = 999,
    batch_size: int = 1024,
    generator: torch.Generator | None = None,
) -> SelfConsistency:
    """Whether noising and denoising leave the distribution of a diffusion model as it is.

    From draws of the model, a change shows that its denoiser is not of one prior at all noise levels, or that its steps
    are too coarse. From data, it shows as well that the model's law is not that of the data.

    Args:
        model: A module or a distribution with a denoiser; or a function that draws data given noisy ones
            ``(n, *event)`` and the standard deviation of their noise.
        start: Independent draws to start from: data that the model was not trained on, or draws of the model. If
            ``None``, draws of the model.
        noises: The noise of the moves, in data units.
        moves: After how many moves to look.
        statistics: Functions of draws ``(n, *event)`` with one number for each ``(n,)``. If ``None``, the mean, the
            variance about the mean of each element, and of images the mean squared difference of neighbouring pixels.
        sampler: Makes the sampler of a grid that denoises data: along the probability flow if not given, or as
            methods for posteriors do by ``CovarianceAncestral``.
        context: What the data depend on, one for all draws.
        draws: How many draws of the model to start from.
        steps: How many steps the sampler takes.
        kernel: Of the two-sample test; Gaussian with the median distance as bandwidth if ``None``.
        permutations: How many random flips.
        batch_size: How many draws are denoised at once.
        generator: Of the flips.

    Raises:
        TypeError: ``start`` is no tensor of floating-point numbers.
        ValueError: the model has no denoiser and is no function, or one of integers; there are fewer than two draws; a
            noise or a number of moves is not positive; a statistic does not give one number for each draw.
    """
    levels, counts = [positive(noise, "noises") for noise in noises], sorted(integer(count, "moves") for count in moves)
    with evaluating(model) if isinstance(model, DistributionModule) else torch.no_grad(), torch.no_grad():
        denoise, first = _denoise(model, sampler, context, steps), start
        if first is None:
            first = _distribution(model, context).sample((draws,))
        if finite(first, "start").dim() < 1 or len(first) < 2:
            raise ValueError(f"`start` must hold at least two draws (n, *event), got shape {tuple(first.shape)}")
        signs = torch.randint(2, (permutations, len(first)), generator=generator).to(first.device, torch.double) * 2 - 1
        found = []
        for noise in levels:
            moved = first
            for count in range(1, counts[-1] + 1):
                noisy = moved + noise * torch.randn_like(moved)
                moved = torch.cat([denoise(part, noise) for part in noisy.split(batch_size)])
                if count in counts:
                    found.append(_change(noise, count, first, moved, statistics, kernel, signs))
    return SelfConsistency(found)


def denoised_by(
    denoiser: Denoiser, sampler: Callable[[Grid], Sampler] = Multistep, *, context: Context = None, steps: int = 20
) -> Denoise:
    """Data from noisy ones and the standard deviation of their noise, by a sampler that begins there.

    Its steps are uniform in the log-SNR down to a noise of 0.01 data units, or a fifth of the noise if that is less;
    the last one goes to the end.

    Args:
        denoiser: Of the data.
        sampler: Makes the sampler of a grid.
        context: What the data depend on.
        steps: How many steps it takes.
    """

    def denoise(noisy: Tensor, noise: float) -> Tensor:
        time = denoiser.schedule.time(torch.tensor(-2 * math.log(noise), dtype=torch.double)).clamp(0, 1).item()
        if time <= 0:
            return noisy  # less noise than the schedule has: nothing is left to do
        grid = LogSNRGrid(steps, start=time, minimum=min(_LEAST, noise / 5))
        return sampler(grid)(denoiser, noisy / noise, context)

    return denoise


def _denoise(model: Any, sampler: Callable[[Grid], Sampler], context: Context, steps: int) -> Denoise:
    if not isinstance(model, DistributionModule) and not isinstance(model, torch.distributions.Distribution):
        if callable(model):
            return model
        raise ValueError(f"`model` must have a denoiser or be a function, got {type(model).__name__}")
    distribution = _distribution(model, context)
    if not abilities_of(distribution).has_denoiser or distribution.support.is_discrete:
        raise ValueError(
            f"`model` must have a denoiser of real numbers, as Diffusion has, got {type(model).__name__} over "
            f"{distribution.support}"
        )
    abilities = abilities_of(distribution)
    return denoised_by(abilities.denoiser, sampler, context=abilities.context, steps=steps)


def _distribution(model: Any, context: Context) -> Any:
    if isinstance(model, torch.distributions.Distribution):
        return model
    if not isinstance(model, DistributionModule):
        raise ValueError("`start` must be given with a function, which has no draws of its own")
    return model(context)


def _change(
    noise: float,
    moves: int,
    first: Tensor,
    moved: Tensor,
    statistics: Mapping[str, Statistic] | None,
    kernel: Kernel | None,
    signs: Tensor,
) -> Change:
    if statistics is None:
        statistics = _standard(0.5 * (first.mean(0) + moved.mean(0)))
    before = {name: _values(name, statistic, first) for name, statistic in statistics.items()}
    change = {name: _values(name, statistic, moved) - before[name] for name, statistic in statistics.items()}
    tests = [_flipped(name, values, signs) for name, values in change.items()]
    tests.append(_paired_mmd(first, moved, kernel, signs))
    mean = partial(Estimate.of_mean, unit="", density=None)
    return Change(noise, moves, {n: mean(v) for n, v in before.items()}, {n: mean(v) for n, v in change.items()}, tests)


def _standard(centre: Tensor) -> dict[str, Statistic]:
    """The statistics if none are given; the variance is about one centre before and after."""
    found: dict[str, Statistic] = {
        "mean": lambda x: x.flatten(1).mean(1) if x.dim() > 1 else x,
        "variance": lambda x: (x - centre).square().reshape(len(x), -1).mean(1),
    }
    return found | ({"neighbours": neighbours} if centre.dim() == 3 and min(centre.shape[1:]) > 1 else {})


@takes_arrays
def neighbours(x: Tensor) -> Tensor:
    """The mean squared difference of neighbouring pixels of images ``(n, channels, height, width)``: ``(n,)``."""
    down, right = x.diff(dim=-2).square(), x.diff(dim=-1).square()
    return torch.cat([down.flatten(1), right.flatten(1)], 1).mean(1)


def _values(name: str, statistic: Statistic, x: Tensor) -> Tensor:
    values = statistic(x)
    if not isinstance(values, Tensor) or values.shape != (len(x),):
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"`statistics` must give one number for each draw, ({len(x)},), got {found} of {name!r}")
    return finite(values, f"statistics[{name!r}]").double()


def _flipped(name: str, change: Tensor, signs: Tensor) -> TestResult:
    """A test of a mean of zero: the mean in units of its spread, which no flip changes."""
    spread = change.square().mean().sqrt().clamp_min(torch.finfo(torch.double).tiny)
    null = (signs @ change).abs() / (spread * len(change) ** 0.5)
    statistic = float(change.sum().abs() / (spread * len(change) ** 0.5))
    return TestResult(statistic, permutation_p_value(statistic, null), name, null)


def _paired_mmd(first: Tensor, moved: Tensor, kernel: Kernel | None, signs: Tensor) -> TestResult:
    x, y = (value.reshape(len(value), -1).double() for value in (first, moved))
    kernel = kernel or GaussianKernel()
    if kernel.needs_median:
        kernel = kernel.fitted(float(median_distance(torch.cat([x, y]))))
    across = kernel(torch.cdist(x, y))
    pairs = kernel(torch.cdist(x, x)) + kernel(torch.cdist(y, y)) - across - across.mT
    pairs.fill_diagonal_(0)
    size = len(x) * (len(x) - 1)
    null, statistic = ((signs @ pairs) * signs).sum(1) / size, float(pairs.sum() / size)
    return TestResult(statistic, permutation_p_value(statistic, null), "squared MMD", null)


def _signed(estimate: Estimate) -> str:
    text = str(estimate)
    return text if text.startswith("-") else f"+{text}"
