"""Panels: drawings on given axes, of which figures and pages are composed."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrogen.core.estimate import TestResult
from pyrogen.evaluation.local import LocalCalibration
from pyrogen.evaluation.predictive import PredictiveCheck
from pyrogen.evaluation.ranks import EcdfNull
from pyrogen.training.progress import Fit, History

from .arrays import as_array
from .style import BLUE, COLOURS, GREY, INK, PALE, VERMILION, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOUBT = 0.01  # p-values below it are shown in red


def draw_history(axes: Axes, fit: Fit | History, *, unit: str | None = None) -> None:
    """Losses of a training run.

    Raises:
        TypeError: ``fit`` is no history.
    """
    history = fit.history if isinstance(fit, Fit) else fit
    if not isinstance(history, History):
        raise TypeError(f"`fit` must be what `pg.fit` returned, or its history, got {type(fit).__name__}")
    unit = history.unit if unit is None else unit
    tidy(axes, x="gradient step", y=f"loss ({unit})" if unit else "loss")
    for number, (colour, losses) in enumerate(zip(colours(history.losses), history.losses, strict=True)):
        name = "training" if len(history.losses) == 1 else f"turn {number + 1}"
        steps, values = 1 + np.arange(len(losses)), np.asarray(losses)
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.6)
        axes.plot(steps, running_mean(values, max(1, len(values) // 50)), color=colour, linewidth=1.4, label=name)
    if history.validation:
        steps, values = list(history.validation), list(history.validation.values())
        axes.plot(steps, values, color="black", linewidth=1.2, marker="o", markersize=2.5, label="held out")
    if isinstance(fit, Fit) and history.validation:
        axes.axvline(fit.best_step, color=GREY, linewidth=0.8, linestyle="--", label=f"best (step {fit.best_step})")
    _cut_the_start(axes, [*history.losses, list(history.validation.values())])


def draw_ecdf(axes: Axes, ranks: Mapping[str, Any], draws: int, *, level: float = 0.95) -> None:
    """Ranks as the difference of their distribution function from the uniform one, with the band of whole curves."""
    count = len(next(iter(ranks.values())))
    null = EcdfNull(count, draws)
    bands = {name: null.band(torch.as_tensor(values), level) for name, values in ranks.items()}
    tidy(axes, x="normalized rank", y="ECDF minus uniform")
    uniform = np.linspace(0, 1, draws + 2)
    band = next(iter(bands.values()))
    low, high = (_whole(bound) - uniform for bound in (band.lower, band.upper))
    axes.fill_between(uniform, low, high, color=PALE, linewidth=0, step="post", label=f"{level:.0%} band, whole curve")
    axes.axhline(0, color=GREY, linewidth=0.6)
    for colour, (name, band) in zip(colours(bands), bands.items(), strict=True):
        axes.step(uniform, _whole(band.ecdf) - uniform, where="post", color=colour, linewidth=1.3, label=name)
    axes.set_xlim(0, 1)


def draw_coverage(axes: Axes, curves: Mapping[str, tuple[Any, Any]], count: int, *, level: float = 0.95) -> None:
    """How often regions hold the truth against their level, with the band of single points.

    Args:
        axes: Where.
        curves: By name, levels and fractions.
        count: Of how many simulations.
        level: Probability of the band.
    """
    from scipy import stats

    tidy(axes, x="nominal level of the region", y="fraction that holds the truth")
    levels = np.unique(np.concatenate([np.asarray(levels, dtype=float) for levels, _ in curves.values()]))
    low, high = (bound / count for bound in stats.binom(count, levels).interval(level))
    axes.fill_between(levels, low, high, color=PALE, linewidth=0, label=f"{level:.0%} band, each point")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for colour, (name, (levels, values)) in zip(colours(curves), curves.items(), strict=True):
        axes.plot(levels, values, color=colour, linewidth=1.4, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")


def draw_local(axes: Axes, found: LocalCalibration, *, most: int = 12) -> None:
    """Where truths lie near the observed data: mean and deviation by coordinate, in units of the posterior's.

    Of many coordinates, those with the smallest p-values are drawn.
    """
    tidy(axes, x="truths near the data (posterior sd)")
    names = least({name: result.p_value for name, result in found.coordinates.items()}, most)
    axes.axvspan(-1, 1, color=PALE, linewidth=0, label="posterior, mean ± sd")
    axes.axvline(0, color=GREY, linewidth=0.8)
    reach = 1.6
    for place, name in enumerate(names):
        p = found.coordinates[name].p_value
        colour, shift, spread = VERMILION if p < _DOUBT else BLUE, found.shift[name], found.spread[name]
        label = None if place else "truths nearby, mean ± sd"
        axes.errorbar(
            shift, place, xerr=spread, fmt="o", color=colour, markersize=4, linewidth=1.6, capsize=2, label=label
        )
        axes.annotate(
            f"p = {p:.2g}", (1.0, place), xycoords=("axes fraction", "data"), xytext=(3, 0), va="center",
            textcoords="offset points", fontsize=7, color=colour if p < _DOUBT else INK,
        )  # fmt: skip
        reach = max(reach, abs(shift) + spread + 0.1)
    axes.set(xlim=(-reach, reach), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), labels=names)


def draw_null(axes: Axes, result: TestResult) -> None:
    """A statistic among those under the hypothesis."""
    tidy(axes, x=result.name)
    null = as_array(result.null).astype(float)
    colour = VERMILION if result.p_value < _DOUBT else BLUE
    axes.hist(
        null, bins=min(40, max(10, round(len(null) ** 0.5))), density=True, color=GREY, alpha=0.55, label="simulated"
    )
    axes.axvline(result.statistic, color=colour, linewidth=1.8, label="observed")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def draw_predictive(axes: Axes, check: PredictiveCheck, *, most: int = 10) -> None:
    """Statistics of observed data among the replicated: their middle 50 % and 90 %, in standard deviations.

    Of many statistics, those with the smallest two-sided p-values are drawn.
    """
    tidy(axes, x="statistic (sd of replications)")
    every = _statistics(check)
    shown = least({place: p for place, (*_, p) in enumerate(every)}, most)
    rows = [every[place] for place in shown]
    reach = 3.0
    for place, (_, replicated, observed, p) in enumerate(rows):
        median, scale = np.median(replicated), replicated.std() or 1.0
        low, first, third, high = (np.quantile(replicated, [0.05, 0.25, 0.75, 0.95]) - median) / scale
        wide, narrow, seen = (None, None, None) if place else ("replications, 90%", "50%", "observed")
        axes.barh(place, high - low, left=low, height=0.55, color=PALE, label=wide)
        axes.barh(place, third - first, left=first, height=0.55, color=BLUE, alpha=0.45, label=narrow)
        z, colour = (observed - median) / scale, VERMILION if p < _DOUBT else INK
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        axes.plot(np.clip(z, -6, 6), place, "o", color=colour, markersize=5, label=seen, **edge)
        reach = max(reach, min(abs(z), 6) + 0.4)
    axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), labels=[name for name, *_ in rows])


def _statistics(check: PredictiveCheck) -> list[tuple[str, np.ndarray, float, float]]:
    """Every number of every statistic: its name, replications, observed value and two-sided p-value."""
    rows = []
    for name, values in check.replicated.items():
        replicated = as_array(values).astype(float).reshape(len(values), -1)
        observed, p = (
            as_array(entry).astype(float).reshape(-1) for entry in (check.observed[name], check.two_sided[name])
        )
        single = replicated.shape[1] == 1
        rows += [(name if single else f"{name}[{j}]", replicated[:, j], observed[j], p[j]) for j in range(len(p))]
    return rows


def least(p_values: Mapping[Any, float], most: int) -> list[Any]:
    """The keys of the smallest p-values, in their order."""
    chosen = sorted(p_values, key=p_values.__getitem__)[:most]
    return [key for key in p_values if key in chosen]


def colours(curves: Sized) -> list[str]:
    """A colour for each curve."""
    return [COLOURS[number % len(COLOURS)] for number in range(len(curves))]


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the last ``width`` values, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    return (sums[last] - sums[first]) / (last - first)


def _cut_the_start(axes: Axes, curves: list) -> None:
    low, high = range_of(curves, 0.0, 0.98)
    margin = 0.05 * (high - low)
    axes.set_ylim(low - margin, high + margin)


def range_of(curves: list, low: float, high: float) -> tuple[float, float]:
    """Quantiles of all finite values, apart even where the values are equal or none is finite."""
    values = np.concatenate([np.asarray(curve, dtype=float) for curve in curves])
    finite = values[np.isfinite(values)]
    first, last = np.quantile(finite, [low, high]) if len(finite) else (0.0, 0.0)
    return (first, last) if last > first else (first - 0.5, last + 0.5)


def _whole(inside: torch.Tensor) -> np.ndarray:
    """A distribution function with its ends, 0 and 1."""
    return np.concatenate([[0.0], as_array(inside), [1.0]])
