"""One page on a learned posterior: its training, its calibration, and what it finds at the observed data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrogen.core.estimate import TestResult
from pyrogen.evaluation.calibration import Calibration
from pyrogen.evaluation.local import LocalCalibration
from pyrogen.evaluation.predictive import PredictiveCheck
from pyrogen.training.progress import Fit, History

from .pairs import DrawnCoordinate, draw_marginal, draw_pairs, read_coordinates
from .panels import draw_coverage, draw_ecdf, draw_history, draw_local, draw_null, draw_predictive, least
from .style import GRADES, INK, new_figure
from .verdicts import NO_COORDINATES, Verdict, overall, simulation_verdicts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_WIDTH = 8.27  # of a page of A4, in inches
_MOST_CURVES, _MOST_PAIRED = 8, 4
_HEIGHT = 2.6  # of a row of panels


def simulation_checks(
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
        >>> figure = simulation_checks(calibration=Calibration(ranks, 99), draws={"mean": torch.randn(500)})
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
        raise ValueError(f"`simulation_checks` needs at least one of {[*parts, 'draws']}, got none")
    coordinates = read_coordinates(draws, truth, prior) if draws is not None else []
    verdicts = simulation_verdicts(
        fit=fit, calibration=calibration, local=local, misspecification=misspecification, predictive=predictive
    )
    panels = list(panels_of(fit, calibration, local, misspecification, predictive, density))
    return _page(title, verdicts, panels, coordinates)


Panel = tuple[str, Callable[["Axes"], None]]


def panels_of(
    fit: Fit | History | None,
    calibration: Calibration | None,
    local: LocalCalibration | None,
    misspecification: TestResult | None,
    predictive: PredictiveCheck | None,
    density: str,
) -> Iterator[Panel]:
    """The title and the drawing of each panel."""
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
    others = [name for name in calibration.ranks if name not in NO_COORDINATES and name != density]
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
    whole = overall(verdicts)
    axes.text(0, -0.36, whole.text, fontsize=10, color=GRADES[whole.grade], va="top", weight="bold")
    place = -0.66
    for verdict, text in zip(verdicts, texts, strict=True):
        axes.text(0.002, place, "\u25cf", fontsize=11, color=GRADES[verdict.grade], va="top")
        axes.text(0.026, place - 0.02, text, fontsize=9, color=INK, va="top", linespacing=1.35)
        place -= 0.19 * (text.count("\n") + 1)


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
    cells = list(part.subplots(ceil(len(coordinates) / columns), columns, squeeze=False).flat)
    for axes, coordinate in zip(cells, coordinates, strict=False):
        draw_marginal(axes, coordinate)
        axes.set_xlabel(coordinate.name, fontsize=8, color=INK)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=3)
    for axes in cells[len(coordinates) :]:
        axes.set_axis_off()


def _wrapped(text: str) -> str:
    return fill(text, 122)
