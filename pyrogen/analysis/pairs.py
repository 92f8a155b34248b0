"""Posteriors of a few numbers: the density of each and the regions of each pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrogen.core.estimate import Estimate
from pyrogen.evaluation.simulated import coordinates_of

from .arrays import as_array, real_array
from .style import BLUE, GREY, INK, VERMILION, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_MOST = 8
_LEVELS = (0.9, 0.5)
_FILLS = ("#CFE3F1", "#7FB5D8")  # of the regions, from the widest
_CELLS = 80


def posterior_pairs(
    draws: Mapping[str, Any],
    *,
    truth: Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
) -> Figure:
    """The posterior of a few numbers: marginal densities on the diagonal, regions of pairs below it.

    The regions hold 50 % and 90 % of the draws where they are densest. Densities are smoothed histograms that are
    reflected where the draws end, so that none leaks over a bound of a support; integers are bars.

    Args:
        draws: Posterior draws by site, ``(draws, *shape)``.
        truth: The true values by site, of that shape without draws; sites may be missing.
        prior: Draws from the prior by site; sites may be missing. It is shown where the posterior is.

    Raises:
        TypeError: values are no arrays of numbers.
        ValueError: there are fewer than ten draws, more than eight numbers, a shape does not fit, or a number is NaN or
            infinite.

    Example:
        >>> draws = {"mean": torch.randn(500, 2), "scale": torch.randn(500).exp()}
        >>> figure = posterior_pairs(draws, truth={"mean": torch.zeros(2)})
    """
    coordinates = read_coordinates(draws, truth, prior)
    if len(coordinates) > _MOST:
        raise ValueError(
            f"`draws` must hold at most {_MOST} numbers, got {len(coordinates)}: {[c.name for c in coordinates]}; "
            "leave sites out, or take some of their entries"
        )
    figure = new_figure(1.3 + 1.45 * len(coordinates), 0.9 + 1.45 * len(coordinates))
    draw_pairs(figure, coordinates)
    return figure


@dataclass(frozen=True)
class DrawnCoordinate:
    """One number of a posterior: its draws, its truth and draws from its prior, where they are known."""

    name: str
    draws: np.ndarray
    truth: float | None
    prior: np.ndarray | None
    whole: bool

    @property
    def window(self) -> tuple[float, float]:
        """The range that is shown: of nearly all draws, no further than where the draws of a bounded number end."""
        known = self.draws if self.prior is None else np.concatenate([self.draws, self.prior])
        low, high = np.quantile(self.draws, [0.002, 0.998])
        margin = 0.1 * (high - low) or 0.5 * max(abs(low), 1e-3)
        low, high = max(low - margin, known.min()), min(high + margin, known.max())
        if self.whole:
            return np.floor(low) - 0.5, np.ceil(high) + 0.5
        if not low < high:
            return low - margin, high + margin
        return low, high

    @property
    def shown(self) -> tuple[float, float]:
        """The limits of axes: the window, wide enough for the truth, with a margin."""
        low, high = self.window
        if self.truth is not None:
            low, high = min(low, self.truth), max(high, self.truth)
        margin = 0.03 * (high - low)
        return float(low - margin), float(high + margin)

    def edges(self, cells: int = _CELLS) -> np.ndarray:
        """Of cells of the window; one for each integer."""
        low, high = self.window
        return np.arange(low, high + 0.75) if self.whole else np.linspace(low, high, cells + 1)

    def smoothing(self, power: float, values: np.ndarray | None = None) -> float:
        """Width of the smoothing of some values in cells: two thirds of Scott's rule, with a robust scale."""
        if self.whole:
            return 0.0
        values = self.draws if values is None else values
        low, high = np.quantile(values, [0.25, 0.75])
        scale = min(values.std(), (high - low) / 1.34 or np.inf)
        step = self.edges()[1] - self.edges()[0]
        return max(0.8, 2 / 3 * scale * len(values) ** power / step)


def read_coordinates(
    draws: Mapping[str, Any], truth: Mapping[str, Any] | None, prior: Mapping[str, Any] | None
) -> list[DrawnCoordinate]:
    """The numbers of sites, each with its draws.

    Raises:
        TypeError: values are no arrays of numbers.
        ValueError: there are fewer than ten draws, a shape does not fit, or a number is NaN or infinite.
    """
    for name, values in (("draws", draws), ("truth", truth or {}), ("prior", prior or {})):
        if not isinstance(values, Mapping) or (name == "draws" and not values):
            raise TypeError(f"`{name}` must be a dict by site, got {type(values).__name__}")
        unknown = [site for site in values if site not in draws]
        if unknown:
            raise ValueError(f"`{name}` must have sites of `draws` {list(draws)}, got {unknown}")
    found = []
    for site, values in draws.items():
        array = _rows(values, f"draws[{site!r}]", None)
        shape = array.shape[1:]
        points = None if site not in (truth or {}) else real_array(truth[site], f"truth[{site!r}]")
        if points is not None and points.shape != shape:
            raise ValueError(f"`truth[{site!r}]` must have shape {shape}, got {points.shape}")
        priors = None if site not in (prior or {}) else _rows(prior[site], f"prior[{site!r}]", shape)
        own, before = _split(site, array), {} if priors is None else _split(site, priors)
        true = {} if points is None else _split(site, points[None])
        for name, column in own.items():
            whole = bool((column == column.round()).all() and np.ptp(column) < _CELLS)
            whole &= array.dtype.kind in "biu" or len(np.unique(column)) < 50
            real = float(true[name][0]) if name in true else None
            found.append(DrawnCoordinate(name, column, real, before.get(name), whole))
    return found


def draw_pairs(figure: Figure | SubFigure, coordinates: list[DrawnCoordinate]) -> None:
    """Marginals on the diagonal, pairs below it, in a figure or a part of one."""
    count = len(coordinates)
    cells = figure.subplots(count, count, squeeze=False)
    for row, vertical in enumerate(coordinates):
        for column, horizontal in enumerate(coordinates):
            axes = cells[row, column]
            if column > row:
                axes.set_axis_off()
                continue
            if row == column:
                draw_marginal(axes, horizontal)
            else:
                _draw_pair(axes, horizontal, vertical)
            axes.tick_params(labelsize=7, labelbottom=row == count - 1, labelleft=row != column and column == 0)
            axes.locator_params(nbins=3)
            axes.set_xlabel(horizontal.name if row == count - 1 else "", fontsize=9, color=INK)
            axes.set_ylabel(vertical.name if row != column and column == 0 else "", fontsize=9, color=INK)
    figure.align_labels()
    _legend(cells, coordinates)


def draw_marginal(axes: Axes, coordinate: DrawnCoordinate) -> None:
    """The density of one number, with the prior's and the truth."""
    tidy(axes, title=Estimate(float(coordinate.draws.mean()), float(coordinate.draws.std())).rounded())
    axes.title.set_fontsize(8)
    edges = coordinate.edges()
    if coordinate.prior is not None:
        _draw_density(axes, edges, coordinate, coordinate.prior, GREY, filled=False)
    _draw_density(axes, edges, coordinate, coordinate.draws, BLUE, filled=True)
    if coordinate.truth is not None:
        axes.axvline(coordinate.truth, color=VERMILION, linewidth=1.3)
    axes.set_xlim(*coordinate.shown)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_density(
    axes: Axes, edges: np.ndarray, coordinate: DrawnCoordinate, values: np.ndarray, colour: str, *, filled: bool
) -> None:
    from scipy.ndimage import gaussian_filter1d

    counts, _ = np.histogram(values, edges)
    density = counts / (len(values) * np.diff(edges))
    if coordinate.whole:
        if filled:
            axes.bar((edges[:-1] + edges[1:]) / 2, density, width=0.8, color=colour, alpha=0.55)
        else:
            axes.stairs(density, edges, color=colour, linewidth=1.2)
        return
    density = gaussian_filter1d(density, coordinate.smoothing(-1 / 5, values), mode="reflect")
    places = np.concatenate([edges[:1], (edges[:-1] + edges[1:]) / 2, edges[-1:]])
    density = np.concatenate([density[:1], density, density[-1:]])
    if filled:
        axes.fill_between(places, density, color=_FILLS[0], linewidth=0)
    axes.plot(places, density, color=colour, linewidth=1.4 if filled else 1.1)


def _draw_pair(axes: Axes, horizontal: DrawnCoordinate, vertical: DrawnCoordinate) -> None:
    from scipy.ndimage import gaussian_filter

    tidy(axes)
    edges = horizontal.edges(), vertical.edges()
    counts, *_ = np.histogram2d(horizontal.draws, vertical.draws, edges)
    counts = gaussian_filter(counts, [c.smoothing(-1 / 6) for c in (horizontal, vertical)], mode="reflect")
    if horizontal.whole or vertical.whole:
        axes.pcolormesh(*edges, _shares(counts).T, cmap=_shades(), vmin=0, vmax=1, linewidth=0, rasterized=True)
    else:
        places = [np.concatenate([e[:1], (e[:-1] + e[1:]) / 2, e[-1:]]) for e in edges]
        padded = np.pad(counts, 1, mode="edge").T
        levels = [_level(counts, share) for share in _LEVELS]
        if levels[0] < levels[1] < padded.max():
            axes.contourf(*places, padded, [*levels, np.inf], colors=_FILLS)
            axes.contour(*places, padded, levels, colors=BLUE, linewidths=0.8)
    if horizontal.truth is not None and vertical.truth is not None:
        axes.plot(horizontal.truth, vertical.truth, "o", color=VERMILION, markersize=4.5, markeredgecolor="white")
    axes.set(xlim=horizontal.shown, ylim=vertical.shown)


def _level(density: np.ndarray, share: float) -> float:
    """The density above which a share of the mass lies."""
    ordered = np.sort(density, axis=None)[::-1]
    return float(ordered[np.searchsorted(ordered.cumsum(), share * ordered.sum())])


def _shares(counts: np.ndarray) -> np.ndarray:
    """For each cell, the share of the mass that lies in less dense ones: near one where it is densest."""
    order = np.argsort(counts, axis=None)
    shares = np.empty(counts.size)
    shares[order] = counts.ravel()[order].cumsum() / counts.sum()
    return np.where(counts > 0, shares.reshape(counts.shape), 0.0)


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("region", ["white", _FILLS[0], _FILLS[1], BLUE])


def _legend(cells: np.ndarray, coordinates: list[DrawnCoordinate]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=BLUE, linewidth=1.4, label="posterior")]
    if any(c.prior is not None for c in coordinates):
        handles.append(Line2D([], [], color=GREY, linewidth=1.1, label="prior"))
    if any(c.truth is not None for c in coordinates):
        handles.append(Line2D([], [], color=VERMILION, linewidth=1.3, label="truth"))
    if len(coordinates) == 1:
        cells[0, 0].legend(handles=handles, frameon=False, fontsize=8, labelcolor=INK)
        return
    handles += [Patch(color=fill, label=f"{level:.0%} region") for fill, level in zip(_FILLS, _LEVELS, strict=True)]
    place = {"loc": "upper right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.0}
    cells[0, -1].legend(handles=handles, frameon=False, fontsize=8, labelcolor=INK, **place)


def _rows(values: Any, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    array = real_array(values, name)
    if not array.ndim or len(array) < 10 or (shape is not None and array.shape[1:] != shape):
        wanted = "(draws, ...) with at least ten" if shape is None else f"(draws, {', '.join(map(str, shape))})"
        raise ValueError(f"`{name}` must have shape {wanted}, got {array.shape}")
    return array


def _split(site: str, values: np.ndarray) -> dict[str, np.ndarray]:
    found = coordinates_of(site, torch.as_tensor(np.ascontiguousarray(values)))
    return {name: as_array(value).astype(float) for name, value in found.items()}
