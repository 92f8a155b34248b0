"""Figures of inverse problems: restored images, an unknown number, and strokes that become an image.

Images have shape ``(height, width)``, ``(channels, height, width)`` with one or three channels, or ``(rows, channels,
height, width)`` for several of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributions import Distribution

from pyrogen.arguments import integer, number
from pyrogen.diffusion.editing import TradeOff

from .arrays import pair_of_limits, real_array
from .images import show
from .style import BLUE, GREY, INK, VERMILION, legend, legend_width, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = 1.25  # of a panel


def posterior_images(
    truth: Any,
    observation: Any,
    draws: Any,
    *,
    rows: Sequence[str] = (),
    shown: int = 3,
    unit: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A posterior over an image, or over several in rows: truth, observation, posterior mean, draws and spread.

    Args:
        truth: The image that was to be found, or ``None``.
        observation: What was observed of it, ``nan`` where nothing was; it may have another size and fewer channels.
        draws: Posterior draws of shape ``(draws, *shape of the truth)``.
        rows: Names of the rows.
        shown: How many draws to show.
        unit: Unit of the values. With it, grey images get a bar of their values.
        limits: Values shown as black and white in all panels but the standard deviation; those of the truth, or of the
            posterior mean, if not given.

    Raises:
        TypeError: an image is no array of numbers.
        ValueError: an image has not two to four dimensions or neither one nor three channels, the numbers of rows
            differ, there are no draws, or a value is infinite, or NaN elsewhere than in the observation.

    Example:
        >>> image = torch.rand(3, 8, 8)
        >>> figure = posterior_images(image, image.mean(0), image + 0.1 * torch.randn(50, 3, 8, 8))
    """
    draws = real_array(draws, "draws")
    integer(shown, "shown", least=0)
    if not draws.ndim or not len(draws):
        raise ValueError(f"`draws` must hold a draw, got shape {draws.shape}")
    draws = np.stack([_images(draw, "draws") for draw in draws])  # (draws, rows, channels, height, width)
    mean, deviation = draws.mean(0), np.sqrt(draws.var(0).mean(1))  # that of colours is their root mean square
    panels = {} if truth is None else {"truth": _images(truth, "truth")}
    panels |= {"observation": _images(observation, "observation", missing=True), "posterior mean": mean}
    picked = np.linspace(0, len(draws) - 1, shown).astype(int)
    panels |= {f"draw {number + 1}": draws[index] for number, index in enumerate(picked)}
    counts = {len(images) for images in (*panels.values(), *([rows] if rows else []))}
    if len(counts) != 1:
        raise ValueError(f"truth, observation, draws and `rows` must have equally many rows, got {sorted(counts)}")
    low, high = pair_of_limits(limits, panels.get("truth", mean))
    figure = new_figure(_INCHES * (len(panels) + 1) + 0.9, 1.05 * _INCHES * len(mean) + 0.4)
    cells = figure.subplots(len(mean), len(panels) + 1, squeeze=False)
    for column, (name, images) in zip(cells.T, panels.items(), strict=False):
        _show(column, [_coloured(image, low, high) for image in images], name)
        if np.isnan(images).any():
            column[-1].set_xlabel("blue: not observed", fontsize=8, color=INK)
    spread = _show(cells[:, -1], deviation, "std. deviation", cmap="magma", vmin=0.0, vmax=deviation.max())
    for axes, name in zip(cells[:, 0], rows, strict=False):
        axes.set_ylabel(name, fontsize=9, color=INK)
    if unit and mean.shape[1] == 1:
        _bar(figure, _greys(low, high), cells[:, :-1], unit)
    _bar(figure, spread, cells[:, -1:], unit)
    return figure


def posterior_histogram(draws: Any, *, prior: Any = None, truth: float | None = None, name: str = "") -> Figure:
    """The posterior of one number: a histogram of its draws, with the prior's density and the truth.

    Args:
        draws: Posterior draws, of any shape.
        prior: The prior, a distribution of one number.
        truth: The number that was to be found.
        name: Name and unit of the number.

    Raises:
        TypeError: ``prior`` is no distribution of one number, or ``truth`` no number.
        ValueError: there are no draws, or a number is NaN or infinite.

    Example:
        >>> prior = torch.distributions.LogNormal(-2.0, 1.0)
        >>> figure = posterior_histogram(prior.sample((100,)), prior=prior, truth=0.1, name="noise scale")
    """
    values = real_array(draws, "draws").astype(float).ravel()
    if not len(values):
        raise ValueError("`draws` must hold a draw, got none")
    if not np.isfinite(np.ptp(values)):
        raise ValueError(f"`draws` must span a finite range, got {values.min():g} to {values.max():g}")
    if prior is not None and not (isinstance(prior, Distribution) and not prior.event_shape and not prior.batch_shape):
        raise TypeError(f"`prior` must be a distribution of one number, got {prior!r}")
    figure = new_figure(4.2 + legend_width(["posterior"]), 2.6)
    axes = tidy(figure.subplots(), x=name, y="density")
    axes.hist(values, bins=max(10, round(len(values) ** 0.5)), density=True, color=BLUE, alpha=0.6, label="posterior")
    if prior is not None:
        low, high = axes.get_xlim()
        place = torch.linspace(low - 1.5 * (high - low), high + 1.5 * (high - low), 400)
        place = place[prior.support.check(place)]
        axes.plot(place, prior.log_prob(place).exp(), color=GREY, linewidth=1.2, label="prior")
    if truth is not None:
        axes.axvline(number(truth, "truth"), color=VERMILION, linewidth=1.4, label="truth")
    legend(axes)
    return figure


def edited_images(
    picture: Any,
    edits: Any,
    curve: Sequence[TradeOff],
    *,
    realism: str = "realism",
    real: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A picture of strokes and what comes of it with more and more noise, beside the curve of realism against distance.

    Args:
        picture: The strokes, one image.
        edits: What :func:`~pyrogen.diffusion.edit` made of them, ``(times, draws, channels, height, width)``.
        curve: What :func:`~pyrogen.diffusion.trade_off` found, at the same times.
        realism: Name and unit of the score of realism.
        real: The realism of data.
        limits: Values shown as black and white; those of the picture if not given.

    Raises:
        ValueError: ``edits`` has not one entry for each point of the curve.

    Example:
        >>> curve = [TradeOff(0.3, 0.1, -2.0), TradeOff(0.6, 0.3, -1.0)]
        >>> figure = edited_images(torch.rand(1, 8, 8), torch.rand(2, 4, 1, 8, 8), curve)
    """
    picture, columns = (
        _images(picture, "picture"),
        [_images(images, "edits") for images in real_array(edits, "edits")],
    )
    if len(columns) != len(curve) or not len(curve):
        raise ValueError(f"`edits` must have the {len(curve)} times of `curve`, got {len(columns)}")
    low, high = pair_of_limits(limits, picture)
    size, draws = 0.8 * _INCHES, len(columns[0])
    figure = new_figure(size * (len(curve) + 1) + 3.6 + legend_width(["data"]), max(1.1 * size * draws + 0.3, 2.6))
    left, right = figure.subfigures(1, 2, width_ratios=[size * (len(curve) + 1), 3.6 + legend_width(["data"])])
    cells = left.subplots(draws, len(curve) + 1, squeeze=False)
    _show(cells[:1, 0], [_coloured(picture[0], low, high)], "strokes")
    for axes in cells[1:, 0]:
        axes.set_axis_off()
    for column, images, point in zip(cells.T[1:], columns, curve, strict=True):
        _show(column, [_coloured(image, low, high) for image in images], f"t = {point.time:g}")
    axes = tidy(right.subplots(), x="distance to the strokes (data units)", y=realism)
    if real is not None:
        axes.axhline(real, color=GREY, linewidth=0.8, linestyle="--", label="data")
    _draw_curve(axes, curve)
    legend(axes)
    return figure


def _draw_curve(axes: Axes, curve: Sequence[TradeOff]) -> None:
    points = [(point.distance, point.realism) for point in curve]
    axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.4, marker="o", markersize=4)
    for point, place in zip(curve, points, strict=True):
        beside = {"xytext": (6, -10), "textcoords": "offset points"}
        axes.annotate(f"t = {point.time:g}", place, fontsize=8, color=INK, **beside)
    axes.margins(x=0.2, y=0.15)


def _show(column: Any, images: Iterable[np.ndarray], title: str, **scale: Any) -> Any:
    """One image in each cell of a column, with a title over the first. Gives the last."""
    for place, (axes, image) in enumerate(zip(column, images, strict=True)):
        shown = show(axes, image, "" if place else title, **scale)
    return shown


def _images(values: Any, name: str, *, missing: bool = False) -> np.ndarray:
    """One image or rows of images as ``(rows, channels, height, width)``."""
    images = given = real_array(values, name, missing=missing)
    if 2 <= images.ndim <= 4:
        images = images.reshape((1,) * (4 - images.ndim) + images.shape)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise ValueError(
            f"`{name}` must hold images of shape (height, width), (1 or 3, height, width) or (rows, 1 or 3, height, "
            f"width), got {given.shape}"
        )
    return images


def _coloured(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Red, green, blue and opacity between 0 and 1, ``(height, width, 4)``; nothing is seen where an image is nan."""
    shade = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    colours = np.broadcast_to(shade, (3, *shade.shape[1:]))
    seen = ~np.isnan(colours).any(0, keepdims=True)
    return np.concatenate([np.nan_to_num(colours), seen]).transpose(1, 2, 0)


def _greys(low: float, high: float) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(low, high), "gray")


def _bar(figure: Figure, image: Any, cells: np.ndarray, unit: str) -> None:
    bar = figure.colorbar(image, ax=list(cells.flat), shrink=0.75, pad=0.02, aspect=12 * len(cells))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, width=0.6, colors=INK)
    bar.set_label(unit, fontsize=8, color=INK)
