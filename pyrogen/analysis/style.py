"""The style of all figures: few colours that colour-blind readers can tell apart, thin axes, no clutter.

Figures are made without pyplot, so nothing global changes and no window opens; ``figure.savefig(path)`` stores one, and
a notebook shows it by itself.

References:
    Okabe and Ito 2008, "Color universal design", https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
GREY, PALE, INK, MISSING = "#8C8C8C", "#E3E3E3", "#333333", "#A9CFE8"
GRADES = {"passed": BLUE, "doubtful": ORANGE, "failed": VERMILION, "noted": GREY}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, which arranges its parts by itself."""
    from .shown import ShownFigure

    return ShownFigure(figsize=(width, height), dpi=150, layout="constrained")


def tidy(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> Axes:
    """Axes with labels, without the frame's upper and right side."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=8, width=0.6)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    return axes


def legend(axes: Axes) -> None:
    """A legend without a frame, if there is anything to name: beside the axes, where it covers no curve."""
    if axes.get_legend_handles_labels()[1]:
        place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.0}
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, **place)


def legend_below(axes: Axes) -> None:
    """A legend without a frame, if there is anything to name: below the axes, which keep their width."""
    if axes.get_legend_handles_labels()[1]:
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.2), "borderaxespad": 0.0, "ncols": 2}
        axes.legend(frameon=False, fontsize=7.5, labelcolor=INK, handlelength=1.4, columnspacing=1.0, **place)


def legend_width(names: Iterable[str]) -> float:
    """How many inches a legend of these names needs."""
    return 0.7 + 0.08 * max(map(len, names), default=0)
