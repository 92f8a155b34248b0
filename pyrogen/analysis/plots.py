"""Figures of training, calibration and outliers.

Each function takes arrays and returns a matplotlib ``Figure``.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrogen.arguments import anything, checked, instance_of, integer
from pyrogen.core.estimate import Estimate, normal_quantile
from pyrogen.evaluation.comparison import Comparison
from pyrogen.evaluation.local import LocalCalibration
from pyrogen.evaluation.predictive import PredictiveCheck
from pyrogen.evaluation.ranks import checked_ranks
from pyrogen.evaluation.reliability import Reliability
from pyrogen.training.progress import Fit, History

from .arrays import real_array
from .panels import (
    colours,
    draw_coverage,
    draw_ecdf,
    draw_history,
    draw_local,
    draw_predictive,
    range_of,
)
from .style import BLUE, GREY, INK, legend, legend_below, legend_width, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training_history(fit: Fit | History, *, unit: str | None = None) -> Figure:
    """Loss and held-out loss over the steps of a training run.

    Every step's loss is shown pale, their running mean (over a fiftieth of the run) dark. The axis leaves out the
    largest 2 % of the losses, which the first steps make.

    Args:
        fit: What ``fit`` returned, or its history.
        unit: Unit of the loss; that of the objective if ``None``.

    Example:
        >>> figure = training_history(History(losses=[[2.0, 1.5, 1.2]], gradient_norms=[[]], validation={3: 1.3}))
    """
    figure = new_figure(5.5 + legend_width(["best (step 1000)"]), 3.2)
    axes = figure.subplots()
    draw_history(axes, fit, unit=unit)
    legend(axes)
    return figure


@checked(bins=integer)
def rank_histogram(ranks: Mapping[str, Any], draws: int, *, bins: int = 20, level: float = 0.95) -> Figure:
    """Ranks of simulation-based calibration: flat, up to noise, where the posterior is right.

    A hump means posteriors that are too wide, a valley too narrow ones, a slope biased ones. The band holds each bar
    with the given probability, so about one bar in twenty lies outside it by chance.

    Args:
        ranks: For each test quantity, how many of the posterior draws lie below the true value, over simulations.
        draws: How many posterior draws there were: ranks go from 0 to ``draws``.
        bins: How many bars; lowered so that each holds equally many ranks, where that is possible.
        level: Probability of the band.

    Raises:
        ValueError: there are no ranks, or one is out of range.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman 2018, "Validating Bayesian inference algorithms with
        simulation-based calibration", https://arxiv.org/abs/1804.06788

    Example:
        >>> figure = rank_histogram({"mean": torch.randint(0, 100, (500,))}, draws=99)
    """
    from scipy import stats

    ranks = _checked_ranks(ranks, draws)
    bins = next(count for count in range(min(bins, draws + 1), 0, -1) if (draws + 1) % count == 0 or count == 2)
    edges = np.linspace(-0.5, draws + 0.5, bins + 1)
    columns = min(len(ranks), 4)
    rows = ceil(len(ranks) / columns)
    figure = new_figure(2.6 * columns + 0.4, 2.4 * rows)
    for place, (name, values) in enumerate(ranks.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        tidy(axes, x=f"rank among {draws} draws", title=name)
        low, high = stats.binom(len(values), 1 / bins).interval(level)
        axes.hist(values, edges, color=BLUE, alpha=0.85, rwidth=0.9)
        axes.axhspan(low, high, color=GREY, alpha=0.45, zorder=3, linewidth=0)
        axes.axhline(len(values) / bins, color=INK, linewidth=0.8, zorder=4)
        axes.set_xlim(edges[0], edges[-1])
        if place % columns == 1 or columns == 1:
            axes.set_ylabel(f"simulations (band: {level:.0%} each)", fontsize=9, color=INK)
    return figure


@checked
def rank_ecdf(ranks: Mapping[str, Any], draws: int, *, level: float = 0.95) -> Figure:
    """Ranks of simulation-based calibration as the difference of their distribution function from the uniform one.

    The band holds the *whole* curve of a right posterior with the given probability; a curve above it in the left half
    and below it in the right belongs to posteriors that are too narrow.

    Args:
        ranks: As for :func:`rank_histogram`.
        draws: How many posterior draws there were.
        level: Probability that the band holds the whole curve, found by simulation.

    Raises:
        ValueError: there are no ranks, one is out of range, or the quantities differ in their numbers of ranks.

    References:
        Säilynoja, Bürkner and Vehtari 2022, "Graphical test for discrete uniformity and its applications in goodness of
        fit evaluation and multiple sample comparison", https://arxiv.org/abs/2103.10522

    Example:
        >>> figure = rank_ecdf({"mean": torch.randint(0, 100, (500,))}, draws=99)
    """
    ranks = _checked_ranks(ranks, draws)
    figure = new_figure(4.6 + legend_width([f"{level:.0%} band, whole curve", *ranks]), 3.0)
    axes = figure.subplots()
    draw_ecdf(axes, ranks, draws, level=level)
    legend(axes)
    return figure


@checked(levels=anything)
def coverage_curve(levels: Any, coverage: Mapping[str, Any], count: int, *, level: float = 0.95) -> Figure:
    """How often credible regions hold the truth, against how often they say they do.

    A curve below the diagonal belongs to regions that are too small. The band holds each point of a right posterior
    with the given probability.

    Args:
        levels: Nominal levels of the regions, between 0 and 1.
        coverage: For each posterior the fraction of simulations whose region holds the truth, at each level.
        count: How many simulations.
        level: Probability of the band.

    Raises:
        ValueError: a level is not between 0 and 1, or a posterior has not one fraction for each.

    Example:
        >>> levels = np.linspace(0, 1, 11)
        >>> figure = coverage_curve(levels, {"guide": levels**1.5}, 300)
    """
    levels = real_array(levels, "levels")
    if not isinstance(coverage, Mapping):
        raise TypeError(f"`coverage` must be a dict of fractions, got {type(coverage).__name__}")
    coverage = {name: real_array(values, f"coverage[{name!r}]") for name, values in coverage.items()}
    if levels.ndim != 1 or not levels.size or not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(f"`levels` must be numbers between 0 and 1, got {levels}")
    for name, values in coverage.items():
        if values.shape != levels.shape:
            raise ValueError(f"`coverage[{name!r}]` must have shape {levels.shape}, got {values.shape}")
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"`coverage[{name!r}]` must hold fractions between 0 and 1, got {values}")
    figure = new_figure(3.6 + legend_width([f"{level:.0%} band, each point", *coverage]), 3.4)
    axes = figure.subplots()
    draw_coverage(axes, {name: (levels, values) for name, values in coverage.items()}, count, level=level)
    legend(axes)
    return figure


def reliability_diagram(found: Mapping[str, Reliability], *, level: float = 0.95) -> Figure:
    """How often things happened, against how probable they were said to be: on the diagonal where that was right.

    Below it lie probabilities that are too high. Bars hold each share with the given probability.

    Args:
        found: What :func:`pyrogen.evaluation.reliability` found, by name.
        level: Of the bars.

    Raises:
        ValueError: there are none.

    Example:
        >>> from pyrogen.evaluation import reliability
        >>> stated = torch.rand(500)
        >>> figure = reliability_diagram({"right": reliability(stated, torch.rand(500) < stated)})
    """
    if not isinstance(found, Mapping) or not all(isinstance(entry, Reliability) for entry in found.values()):
        raise TypeError("`found` must be a dict of what `pyrogen.evaluation.reliability` found")
    if not found:
        raise ValueError("`found` must hold at least one entry, got none")
    quantile = normal_quantile(level)
    figure = new_figure(3.6 + legend_width(found), 3.4)
    axes = tidy(figure.subplots(), x="stated probability", y="share that happened")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for colour, (name, entry) in zip(colours(found), found.items(), strict=True):
        shares, bars = entry.found.cpu().numpy(), quantile * entry.errors.cpu().numpy()
        settings = {"fmt": "o-", "markersize": 3, "linewidth": 1.2, "elinewidth": 0.8, "color": colour}
        axes.errorbar(entry.stated.cpu().numpy(), shares, yerr=bars, label=name, **settings)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    legend(axes)
    return figure


@checked(found=instance_of(LocalCalibration))
def local_shifts(found: LocalCalibration) -> Figure:
    """Where truths lie near the observed data, by coordinate: mean and standard deviation in units of the posterior's.

    The grey strip is the posterior's own standard deviation. A bar that leaves it on one side belongs to a posterior
    that is shifted, one longer than it to a posterior that is too narrow. Bars with a p-value below 0.01 are red.

    Args:
        found: What :func:`pyrogen.evaluation.local_calibration_test` found.

    Example:
        >>> from pyrogen.evaluation import TestResult
        >>> result, draws = TestResult(0.1, 0.5), {"mean": torch.randn(10)}
        >>> found = LocalCalibration(result, {"mean": result}, {"mean": 0.1}, {"mean": 1.0}, draws, draws)
        >>> figure = local_shifts(found)
    """
    figure = new_figure(4.6, 1.5 + 0.3 * len(found.coordinates))
    draw_local(figure.subplots(), found, most=len(found.coordinates))
    legend_below(figure.axes[0])
    return figure


@checked(check=instance_of(PredictiveCheck))
def predictive_statistics(check: PredictiveCheck) -> Figure:
    """Statistics of the observed data among those of replicated data: a point beside their middle 50 % and 90 %.

    Args:
        check: What :func:`pyrogen.evaluation.predictive_check` found.

    Example:
        >>> from pyrogen.evaluation import predictive_check
        >>> figure = predictive_statistics(predictive_check({"x": torch.randn(200, 10)}, torch.randn(10)))
    """
    count = sum(observed.numel() for observed in check.observed.values())
    figure = new_figure(5.2, 1.3 + 0.3 * count)
    draw_predictive(figure.subplots(), check, most=count)
    legend_below(figure.axes[0])
    return figure


def model_comparison(comparison: Comparison, *, level: float = 0.95) -> Figure:
    """Log-likelihoods of models on the same data, and their paired differences from the baseline.

    The differences are what to read: overlapping intervals of the log-likelihoods do not mean that models are equal.
    Hollow points are bounds, of which only the label says on which side the truth lies.

    Args:
        comparison: What :func:`pyrogen.evaluation.compare` found.
        level: Of the intervals.

    Raises:
        TypeError: ``comparison`` is something else.
        ValueError: ``level`` is not between 0 and 1.

    Example:
        >>> from pyrogen.evaluation import compare
        >>> models = {f"scale {scale}": torch.distributions.Normal(0.0, scale) for scale in (1.0, 2.0)}
        >>> figure = model_comparison(compare(models, torch.randn(100)))
    """
    if not isinstance(comparison, Comparison):
        raise TypeError(f"`comparison` must be what `compare` found, got {type(comparison).__name__}")
    quantile = normal_quantile(level)
    names = list(comparison.log_probs)
    means = {name: comparison.log_likelihood(name) for name in names}
    others = [name for name in names if name != comparison.baseline and comparison.baseline is not None]
    differences = {name: comparison.difference(name, comparison.baseline) for name in others}
    panels = [("log-likelihood (nats per datum)", means)]
    panels += [(f"minus {comparison.baseline} (nats per datum)", differences)] if differences else []
    width = 3.0 * len(panels) + legend_width(f"{name} ({mean.label})" for name, mean in means.items())
    figure = new_figure(width, 0.9 + 0.32 * len(names))
    cells = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (label, estimates) in zip(cells, panels, strict=True):
        tidy(axes, x=label)
        for place, name in enumerate(names):
            if name in estimates and np.isfinite(estimates[name].value):
                _draw_interval(axes, place, estimates[name], quantile)
    if differences:
        cells[1].axvline(0, color=GREY, linewidth=0.8)
    cells[0].set_yticks(range(len(names)), labels=[f"{name} ({means[name].label})" for name in names])
    cells[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _draw_interval(axes: Axes, place: int, estimate: Estimate, quantile: float) -> None:
    bound = estimate.density == "lower bound"
    error = quantile * estimate.standard_error
    width = None if np.isnan(error) else error  # one datum has no known error
    face = "white" if bound else BLUE
    axes.errorbar(estimate.value, place, xerr=width, fmt="o", color=BLUE, markerfacecolor=face, markersize=4)


@checked(bins=integer)
def outlier_scores(inliers: Any, outliers: Mapping[str, Any], *, score: str = "score (nats)", bins: int = 40) -> Figure:
    """Scores of ordinary data and of outliers, and how well they separate them: histograms and ROC curves.

    Scores far beyond those of ordinary data are counted in the histogram's last bar.

    Args:
        inliers: Scores of held-out ordinary data; larger means less ordinary.
        outliers: Scores of each kind of outlier.
        score: Name and unit of the score.
        bins: How many bars in a histogram.

    Raises:
        ValueError: there are no scores of a kind, or one is NaN.

    Example:
        >>> figure = outlier_scores(torch.randn(100), {"noise": 2 + torch.randn(100)})
    """
    from scipy.stats import rankdata
    from sklearn.metrics import auc, roc_curve

    ordinary = _checked_scores("inliers", inliers)
    if not isinstance(outliers, Mapping) or not outliers:
        raise ValueError("`outliers` must be a dict that holds at least one kind")
    kinds = {name: _checked_scores(f"outliers[{name!r}]", values) for name, values in outliers.items()}
    figure = new_figure(7.4 + legend_width(["ordinary data", *(f"{name}: AUROC 0.123" for name in kinds)]), 3.1)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    tidy(left, x=score, y="density")
    tidy(right, x="false alarms (fraction of ordinary data)", y="outliers found (fraction)")
    edges = np.linspace(*_shown_scores(ordinary, list(kinds.values())), bins + 1)
    left.hist(np.clip(ordinary, edges[0], edges[-1]), edges, density=True, color=GREY, alpha=0.6)
    right.fill_between([], [], [], color=GREY, alpha=0.6, label="ordinary data")  # one legend for both panels
    right.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for colour, (name, values) in zip(colours(kinds), kinds.items(), strict=True):
        clipped = np.clip(values, edges[0], edges[-1])
        left.hist(clipped, edges, density=True, histtype="step", color=colour, linewidth=1.4)
        labels = np.repeat([0, 1], [len(ordinary), len(values)])
        order = rankdata(np.concatenate([ordinary, values]))  # infinite scores have ranks like all others
        false, true, _ = roc_curve(labels, order)
        right.plot(false, true, color=colour, linewidth=1.4, label=f"{name}: AUROC {auc(false, true):.3f}")
    right.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    legend(right)
    return figure


def _shown_scores(ordinary: np.ndarray, others: list[np.ndarray], widths: float = 2.0) -> tuple[float, float]:
    """Nearly all scores, but at most so many times the range of ordinary ones beyond these: the rest joins the ends."""
    low, high = range_of([ordinary], 0.005, 0.995)
    least, most = range_of([ordinary, *others], 0.005, 0.995)
    beyond = widths * (high - low)
    return max(least, low - beyond), min(most, high + beyond)


def _checked_ranks(ranks: Mapping[str, Any], draws: int) -> dict[str, np.ndarray]:
    if not isinstance(ranks, Mapping):
        raise TypeError(f"`ranks` must be a dict of ranks, got {type(ranks).__name__}")
    if not ranks:
        raise ValueError("`ranks` must hold at least one quantity, got none")
    arrays = {f"ranks[{name!r}]": real_array(values, f"ranks[{name!r}]").ravel() for name, values in ranks.items()}
    found = [checked_ranks(torch.as_tensor(array), draws, name) for name, array in arrays.items()]
    return dict(zip(ranks, found, strict=True))


def _checked_scores(name: str, values: Any) -> np.ndarray:
    scores = real_array(values, name, infinite=True).ravel()
    if not len(scores):
        raise ValueError(f"`{name}` must hold numbers, got 0 NaN among 0")
    return scores
