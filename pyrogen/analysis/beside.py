"""Samples beside data: what is drawn depends on what an event is."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from .images import mosaic, scaled, show
from .style import BLUE, GREY, legend_below, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SMALL = 4  # pixels: no picture is smaller
_SERIES = 24  # numbers: a longer vector is drawn as a curve
_PANELS = 12
_POINTS = 1500
_COLUMNS = 6
_CURVES = 4
_PAIRED = 5


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether an event of this shape is shown as a picture."""
    sized = len(shape) >= 2 and min(shape[-2:]) >= _SMALL
    return sized and (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)))


def pictures(images: np.ndarray, name: str, low: float, high: float) -> Figure:
    """Pictures ``(n, *event_shape)`` in a grid."""
    columns = min(_COLUMNS, len(images))
    rows = len(images) // columns
    grid = images[: rows * columns].reshape(rows, columns, *images.shape[1:])
    whole = mosaic(grid, name)
    figure = new_figure(4.4, 4.4 * whole.shape[0] / whole.shape[1] + 0.3)
    show(figure.subplots(), scaled(whole, low, high), name)
    return figure


def beside(data: np.ndarray, samples: np.ndarray, names: list[str]) -> Iterator[tuple[Figure, str]]:
    """Figures of vectors ``(n, numbers)`` of data and of samples, each with its caption.

    Args:
        data: The data.
        samples: The samples.
        names: Of the numbers.
    """
    count = data.shape[1]
    if count == 2:
        yield _planes(data, samples, names), "Data and samples, a point each, on the same axes, in data units."
    if 2 < count <= _PAIRED:
        yield _pairs(data, samples, names), "Data (grey) and samples (blue), a point each, pair by pair, in data units."
    if count >= _SERIES:
        yield _curves(data, samples), f"The first {_CURVES} data and samples as curves over their entries."
    chosen = _different(data, samples, min(count, _PANELS))
    caption = "The distribution of each number, in data units."
    if len(chosen) < count:
        caption = f"The {len(chosen)} of {count} numbers whose distributions differ most, in data units."
    yield _marginals(data[:, chosen], samples[:, chosen], [names[place] for place in chosen]), caption


def _planes(data: np.ndarray, samples: np.ndarray, names: list[str]) -> Figure:
    figure = new_figure(6.4, 3.1)
    cells = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, points, title, colour in zip(cells, (data, samples), ("data", "samples"), (GREY, BLUE), strict=True):
        tidy(axes, x=names[0], y=names[1] if axes is cells[0] else "", title=title)
        shown = points[:_POINTS]
        axes.scatter(*shown.T, s=6, color=colour, alpha=0.55, linewidth=0, rasterized=True)
    both = np.concatenate([data, samples])
    low, high = np.quantile(both, [0.002, 0.998], axis=0)
    margin = 0.15 * (high - low) + 1e-9
    cells[0].set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    return figure


def _pairs(data: np.ndarray, samples: np.ndarray, names: list[str]) -> Figure:
    count = len(names) - 1
    figure = new_figure(0.4 + 1.5 * count, 0.3 + 1.4 * count)
    cells = figure.subplots(count, count, squeeze=False, sharex="col", sharey="row")
    for row, column in np.ndindex(count, count):
        axes = cells[row, column]
        if column > row:
            axes.set_axis_off()
            continue
        tidy(axes, x=names[column] * (row == count - 1), y=names[row + 1] * (column == 0))
        for points, colour, size in ((data, GREY, 9), (samples, BLUE, 3)):
            shown = points[:_POINTS, [column, row + 1]]
            axes.scatter(*shown.T, s=size, color=colour, alpha=0.6, linewidth=0, rasterized=True)
        axes.locator_params(nbins=3)
    return figure


def _curves(data: np.ndarray, samples: np.ndarray) -> Figure:
    figure = new_figure(6.4, 2.4)
    cells = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, curves, title, colour in zip(cells, (data, samples), ("data", "samples"), (GREY, BLUE), strict=True):
        tidy(axes, x="entry", title=title)
        for curve in curves[:_CURVES]:
            axes.plot(curve, color=colour, linewidth=0.9, alpha=0.8)
    return figure


def _marginals(data: np.ndarray, samples: np.ndarray, names: list[str]) -> Figure:
    columns = min(4, len(names))
    rows = ceil(len(names) / columns)
    figure = new_figure(0.2 + 1.7 * columns, 0.5 + 1.4 * rows)
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, name, real, drawn in zip(cells, names, data.T, samples.T, strict=False):
        tidy(axes, title=name)
        edges = _edges(real, drawn)
        for values, colour, label in ((real, GREY, "data"), (drawn, BLUE, "samples")):
            clipped = np.clip(values, edges[0], edges[-1])
            filled = {"alpha": 0.45} if colour == GREY else {"histtype": "step", "linewidth": 1.3}
            axes.hist(clipped, edges, density=True, color=colour, label=label, **filled)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=3)
    for axes in cells[len(names) :]:
        axes.set_axis_off()
    legend_below(cells[(rows - 1) * columns])
    return figure


def _edges(data: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Of bars over nearly all values; one for each integer where there are few."""
    both = np.concatenate([data, samples])
    low, high = np.quantile(both, [0.002, 0.998])
    if (both == both.round()).all() and high - low < 40:
        return np.arange(low, high + 2) - 0.5
    return np.linspace(low, high, 31) if low < high else np.linspace(low - 0.5, low + 0.5, 31)


def _different(data: np.ndarray, samples: np.ndarray, most: int) -> list[int]:
    """The numbers whose distributions differ most, by the largest distance of their distribution functions."""
    from scipy.stats import ks_2samp

    if data.shape[1] <= most:
        return list(range(data.shape[1]))
    distances = [ks_2samp(real, drawn).statistic for real, drawn in zip(data.T, samples.T, strict=True)]
    return sorted(np.argsort(distances)[::-1][:most].tolist())
