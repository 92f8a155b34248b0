"""One page on a learned posterior: its training, its calibration, and what it finds at the observed data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrogen.core.estimate import TestResult
from pyrogen.evaluation.calibration import Calibration
from pyrogen.evaluation.local import LocalCalibration
from pyrogen.evaluation.predictive import PredictiveCheck
from pyrogen.training.progress import Fit, History

from .pairs import DrawnCoordinate, draw_marginal, draw_pairs, read_coordinates
from .panels import draw_coverage, draw_ecdf, draw_history, draw_local, draw_null, draw_predictive, least
from .style import BLUE, GREY, INK, ORANGE, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_WIDTH = 8.27  # of a page of A4, in inches
_COLOURS = {"passed": BLUE, "doubtful": ORANGE, "failed": VERMILION, "noted": GREY}
_NO_COORDINATES = ("log_likelihood", "log_joint", "regression_score", "closeness")
_MOST_CURVES, _MOST_PAIRED = 8, 4
_DOUBTFUL, _FAILED = 0.05, 0.01
_HEIGHT = 2.6  # of a row of panels


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        grade: ``"passed"``, ``"doubtful"`` (p below 0.05), ``"failed"`` (p below 0.01), or ``"noted"`` where there is
            nothing to judge: a training, or a check that is too small to find anything.
        text: The same in a sentence.
    """

    grade: str
    text: str


def simulation_report(
    *,
    fit: Fit | History | None = None,
    calibration: Calibration | None = None,
    local: LocalCalibration | None = None,
    misspecification: TestResult | None = None,
    predictive: PredictiveCheck | None = None,
    draws: Mapping[str, Any] | None = None,
    truth: Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
    density: str = "log_posterior",
    title: str = "Simulation-based inference",
) -> Figure:
    """One page on a learned posterior, with a verdict in words.

    Every part is optional and takes its place where it is given.

    Args:
        fit: What ``pg.fit`` returned, or its history.
        calibration: What :func:`pyrogen.evaluation.simulation_based_calibration` found.
        local: What :func:`pyrogen.evaluation.local_calibration_test` found.
        misspecification: What :func:`pyrogen.evaluation.misspecification_test` found.
        predictive: What :func:`pyrogen.evaluation.predictive_check` found.
        draws: Posterior draws at the observed data, by site.
        truth: True values by site, where they are known.
        prior: Draws from the prior by site.
        density: Which of the quantities of ``calibration`` is the log-density of the posterior: its coverage is that of
            the regions of highest density.
        title: Of the page.

    Raises:
        TypeError: a part is something else.
        ValueError: nothing is given.

    Example:
        >>> ranks = {"mean": torch.randint(0, 100, (300,))}
        >>> figure = simulation_report(calibration=Calibration(ranks, 99), draws={"mean": torch.randn(500)})
    """
    parts = {
        "fit": (fit, Fit | History),
        "calibration": (calibration, Calibration),
        "local": (local, LocalCalibration),
        "misspecification": (misspecification, TestResult),
        "predictive": (predictive, PredictiveCheck),
    }
    for name, (part, kind) in parts.items():
        if part is not None and not isinstance(part, kind):
            raise TypeError(f"`{name}` must be what the check of that name gives, got {type(part).__name__}")
    if draws is None and not any(part is not None for part, _ in parts.values()):
        raise ValueError(f"`simulation_report` needs at least one of {[*parts, 'draws']}, got none")
    coordinates = read_coordinates(draws, truth, prior) if draws is not None else []
    verdicts = simulation_verdicts(
        fit=fit, calibration=calibration, local=local, misspecification=misspecification, predictive=predictive
    )
    panels = list(_panels(fit, calibration, local, misspecification, predictive, density))
    return _page(title, verdicts, panels, coordinates)


def simulation_verdicts(
    *,
    fit: Fit | History | None = None,
    calibration: Calibration | None = None,
    local: LocalCalibration | None = None,
    misspecification: TestResult | None = None,
    predictive: PredictiveCheck | None = None,
) -> list[Verdict]:
    """What the checks found, in words; arguments as for :func:`simulation_report`.

    Example:
        >>> simulation_verdicts(misspecification=TestResult(3.0, 0.001, "distance"))[0].grade
        'failed'
    """
    found = []
    if fit is not None:
        found.append(_of_training(fit))
    if calibration is not None:
        found.append(_of_calibration(calibration))
    if local is not None:
        found.append(_of_local(local))
    if misspecification is not None:
        found.append(_of_misspecification(misspecification))
    if predictive is not None:
        found.append(_of_predictive(predictive))
    return found


def _of_training(fit: Fit | History) -> Verdict:
    history = fit.history if isinstance(fit, Fit) else fit
    steps = f"{len(history.loss):,} steps" + (f", ended by {fit.reason}" if isinstance(fit, Fit) else "")
    unit = f" {history.unit}" if history.unit else ""
    if history.validation:
        best = min(history.validation.values())
        return Verdict("noted", f"Training: {steps}; best held-out loss {best:.4g}{unit}.")
    last = np.mean(history.loss[-max(1, len(history.loss) // 20) :]) if history.loss else float("nan")
    return Verdict("noted", f"Training: {steps}; last loss {last:.4g}{unit}, nothing held out.")


def _of_calibration(calibration: Calibration) -> Verdict:
    results = calibration.uniformity()
    worst = min(results, key=lambda name: (results[name].p_value, -results[name].statistic))
    p = min(1.0, results[worst].p_value * len(results))
    counts = f"{calibration.simulations} simulations, {len(results)} quantities"
    if p >= _DOUBTFUL:
        return Verdict("passed", f"Calibration over the prior: no fault found (p = {p:.2g}; {counts}).")
    failing = [name for name, result in results.items() if result.p_value * len(results) < _DOUBTFUL]
    words = "; ".join(_flaw(calibration.ranks[name], calibration.draws, name) for name in failing[:3])
    more = f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    return Verdict(_grade(p), f"Calibration over the prior: p = {p:.2g}: {words}{more} ({counts}).")


def _flaw(ranks: torch.Tensor, draws: int, name: str) -> str:
    """How ranks differ from uniform ones; in words of the posterior for its coordinates."""
    u = (ranks.double() + 0.5) / (draws + 1) - 0.5
    shift, spread = float(u.mean()) * 12**0.5, float(12 * u.square().mean())
    if name in (*_NO_COORDINATES, "log_posterior"):
        return f"ranks of {name} are not uniform"
    if abs(shift) > abs(spread - 1):
        return f"draws of {name} are too {'low' if shift > 0 else 'high'}"
    return f"draws of {name} are too {'narrow' if spread > 1 else 'wide'}"


def _of_local(local: LocalCalibration) -> Verdict:
    if (few := _too_few(local.test, "relabelings")) is not None:
        return few
    results, p = local.coordinates, local.p_value
    if p >= _DOUBTFUL:
        return Verdict("passed", f"Posterior at the observed data: no fault found (p = {p:.2g}).")
    failing = sorted((name for name in results if results[name].p_value < 0.01), key=lambda n: results[n].p_value)
    words = "; ".join(f"{name}: {local.reading(name)}" for name in failing[:3]) or "In no single coordinate"
    return Verdict(_grade(p), f"Posterior at the observed data: p = {p:.2g}. {words}.")


def _of_misspecification(result: TestResult) -> Verdict:
    if (few := _too_few(result, "simulations")) is not None:
        return few
    p = result.p_value
    if p >= _DOUBTFUL:
        return Verdict("passed", f"The observed data are like simulated ones ({result.name}, p = {p:.2g}).")
    text = f"The observed data are unlike simulated ones ({result.name}, p = {p:.2g}): the posterior extrapolates."
    return Verdict(_grade(p), text)


def _of_predictive(check: PredictiveCheck) -> Verdict:
    p_values = {
        f"{name}[{j}]" if p.numel() > 1 else name: float(value)
        for name, p in check.two_sided.items()
        for j, value in enumerate(p.flatten())
    }
    count, replications = len(p_values), len(next(iter(check.replicated.values())))
    if 2 * count >= _DOUBTFUL * (1 + replications):
        statistics = f"{count} statistic{'s' * (count != 1)}"
        return Verdict("noted", f"Not checked: {replications} replications are too few to judge {statistics}.")
    off = sorted((name for name, p in p_values.items() if p * count < _DOUBTFUL), key=lambda name: p_values[name])
    if not off:
        return Verdict("passed", f"Replicated data reproduce all {count} statistics of the observed ones.")
    shown = ", ".join(off[:4]) + (f" and {len(off) - 4} more" if len(off) > 4 else "")
    p = p_values[off[0]] * count
    return Verdict(_grade(p), f"Replicated data do not reproduce {shown} (p = {p:.2g}).")


def _too_few(result: TestResult, what: str) -> Verdict | None:
    """A remark where the p-value of a test could not be small."""
    if result.null is None or _DOUBTFUL * (1 + len(result.null)) > 1:
        return None
    return Verdict("noted", f"Not checked: {len(result.null)} {what} are too few for the test ({result.name}).")


def _grade(p: float) -> str:
    return "failed" if p < _FAILED else "doubtful" if p < _DOUBTFUL else "passed"


Panel = tuple[str, Callable[["Axes"], None]]


def _panels(
    fit: Fit | History | None,
    calibration: Calibration | None,
    local: LocalCalibration | None,
    misspecification: TestResult | None,
    predictive: PredictiveCheck | None,
    density: str,
) -> Iterator[Panel]:
    if fit is not None:
        yield "Training", lambda axes: draw_history(axes, fit)
    if calibration is not None:
        shown = {name: calibration.ranks[name] for name in _worst(calibration)}
        yield "Ranks of the truth", lambda axes: draw_ecdf(axes, shown, calibration.draws)
        curves = _coverage(calibration, density)
        if curves:
            yield "Coverage over the prior", lambda axes: draw_coverage(axes, curves, calibration.simulations)
    if local is not None:
        yield "At the observed data", lambda axes: draw_local(axes, local)
    if misspecification is not None and misspecification.null is not None:
        yield "Data among simulations", lambda axes: draw_null(axes, misspecification)
    if predictive is not None:
        yield "Data among replications", lambda axes: draw_predictive(axes, predictive)


def _worst(calibration: Calibration, names: Iterable[str] | None = None, most: int = _MOST_CURVES) -> list[str]:
    """The quantities that are least uniform, in their order."""
    results = calibration.uniformity()
    return least({name: results[name].p_value for name in (results if names is None else names)}, most)


def _coverage(calibration: Calibration, density: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    curves = {}
    if density in calibration.ranks:
        found = calibration.highest_coverage(density)
        curves["highest density"] = (found.levels.numpy(), found.coverage.numpy())
    others = [name for name in calibration.ranks if name not in _NO_COORDINATES and name != density]
    worst = _worst(calibration, others, _MOST_CURVES - len(curves))
    for name in worst:
        found = calibration.central_coverage(name)
        curves[name] = (found.levels.numpy(), found.coverage.numpy())
    return curves


def _page(title: str, verdicts: list[Verdict], panels: list[Panel], coordinates: list[DrawnCoordinate]) -> Figure:
    texts = [_wrapped(verdict.text) for verdict in verdicts]
    columns = min(3, len(panels)) or 1
    rows = ceil(len(panels) / columns)
    together = len(coordinates) <= _MOST_PAIRED
    below = (0.9 + 1.3 * len(coordinates) if together else 1.75 * ceil(len(coordinates) / 4)) * bool(coordinates)
    heights = [0.8 + 0.19 * sum(text.count("\n") + 1 for text in texts), *[_HEIGHT] * rows, *[below] * bool(below)]
    figure = new_figure(_WIDTH, sum(heights))
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, rect=(0.012, 0.005, 0.976, 0.99))
    strips = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights))
    _draw_head(strips[0], title, verdicts, texts, heights[0])
    for row in range(rows):
        cells = strips[1 + row].subplots(1, columns, squeeze=False)[0]
        shown = panels[columns * row : columns * (row + 1)]
        for axes, panel in zip(cells, shown, strict=False):
            _draw_panel(axes, *panel)
        for axes in cells[len(shown) :]:
            axes.set_axis_off()
    if coordinates:
        _draw_posterior(strips[-1], coordinates, together=together)
    return figure


def _draw_head(part: SubFigure, title: str, verdicts: list[Verdict], texts: list[str], height: float) -> None:
    axes = part.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(-height, 0))
    axes.text(0, -0.05, title, fontsize=14, color=INK, va="top", weight="bold")
    sentence, colour = _overall(verdicts)
    axes.text(0, -0.36, sentence, fontsize=10, color=colour, va="top", weight="bold")
    place = -0.66
    for verdict, text in zip(verdicts, texts, strict=True):
        axes.text(0.002, place, "\u25cf", fontsize=11, color=_COLOURS[verdict.grade], va="top")
        axes.text(0.026, place - 0.02, text, fontsize=9, color=INK, va="top", linespacing=1.35)
        place -= 0.19 * (text.count("\n") + 1)


def _overall(verdicts: list[Verdict]) -> tuple[str, str]:
    """All verdicts in one sentence, and its colour."""
    judged = [verdict.grade for verdict in verdicts if verdict.grade != "noted"]
    failed, doubtful = judged.count("failed"), judged.count("doubtful")
    checks = f"{len(judged)} check{'s' * (len(judged) != 1)}"
    if not judged:
        return "Nothing was checked.", GREY
    if failed:
        return f"Do not rely on this posterior: {failed} of {checks} failed.", VERMILION
    if doubtful:
        return f"Doubtful: {doubtful} of {checks} found a fault at the level of 5 %.", ORANGE
    return f"No fault found by {checks}.", BLUE


def _draw_panel(axes: Axes, title: str, draw: Callable[[Axes], None]) -> None:
    draw(axes)
    axes.set_title(title, fontsize=9, color=INK, loc="left", weight="bold", pad=8)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    axes.tick_params(labelsize=7)
    if axes.get_legend_handles_labels()[1]:
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.3), "borderaxespad": 0.0, "ncols": 2}
        axes.legend(frameon=False, fontsize=6.5, labelcolor=INK, handlelength=1.4, columnspacing=1.0, **place)


def _draw_posterior(part: SubFigure, coordinates: list[DrawnCoordinate], *, together: bool) -> None:
    part.suptitle("Posterior at the observed data", fontsize=9, color=INK, x=0.012, ha="left", weight="bold")
    if together:
        width = min(_WIDTH, 0.9 + 1.75 * len(coordinates))
        draw_pairs(part.subfigures(1, 2, width_ratios=[width, _WIDTH - width + 0.01])[0], coordinates)
        return
    columns = 4
    cells = part.subplots(ceil(len(coordinates) / columns), columns, squeeze=False).flat
    for axes, coordinate in zip(cells, coordinates, strict=False):
        draw_marginal(axes, coordinate)
        axes.set_xlabel(coordinate.name, fontsize=8, color=INK)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=3)
    for axes in list(cells):
        axes.set_axis_off()


def _wrapped(text: str) -> str:
    return fill(text, 122)
