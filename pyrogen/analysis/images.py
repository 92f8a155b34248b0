"""Figures of images: data beside samples.

Images have shape ``(height, width)``, or ``(channels, height, width)`` with one or three channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import pair_of_limits, real_array
from .style import INK, MISSING, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def image_grid(
    data: Any,
    samples: Any,
    *,
    rows: Sequence[str] = (),
    names: tuple[str, str] = ("data", "samples"),
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Data beside samples, one row a class.

    Args:
        data: Images of shape ``(rows, columns, *image_shape)``; NaN is shown as nothing.
        samples: The same number of rows; there may be more or fewer columns.
        rows: Names of the rows.
        names: Titles of the two halves.
        limits: Values shown as black and white, for all images alike; those of the data if not given.

    Raises:
        TypeError: the images are no numbers.
        ValueError: the shapes are not those of image grids, the numbers of rows differ, or a value is infinite.

    Example:
        >>> figure = image_grid(torch.rand(2, 5, 8, 8), torch.rand(2, 5, 8, 8), rows=["zero", "one"])
    """
    data, samples = real_array(data, "data", missing=True), real_array(samples, "samples", missing=True)
    halves = [mosaic(data, "data"), mosaic(samples, "samples")]
    if len(samples) != len(data) or len(rows) not in (0, len(data)):
        raise ValueError(
            f"`samples` and `rows` must have the {len(data)} rows of `data`, got {len(samples)} and {len(rows)}"
        )
    low, high = pair_of_limits(limits, data)
    widths = [half.shape[1] for half in halves]
    inches = 0.55 * data.shape[1]
    figure = new_figure(inches * sum(widths) / widths[0] + 0.8, inches * halves[0].shape[0] / widths[0] + 0.35)
    for axes, half, name in zip(figure.subplots(1, 2, width_ratios=widths), halves, names, strict=True):
        show(axes, scaled(half, low, high), name)
    name_rows(figure.axes[0], rows, halves[0].shape[0])
    return figure


def mosaic(images: np.ndarray, name: str) -> np.ndarray:
    """Images of shape ``(rows, columns, *image_shape)`` as one, with gaps of ``nan``: ``(height, width[, 3])``."""
    if images.ndim == 4:
        images = images[:, :, None]
    if images.ndim != 5 or images.shape[2] not in (1, 3) or not images.size:
        raise ValueError(
            f"`{name}` must have shape (rows, columns, height, width) or (rows, columns, 1 or 3, height, width), "
            f"got {images.shape}"
        )
    gap = max(1, images.shape[-1] // 12)
    padded = np.pad(images.astype(float), [(0, 0)] * 3 + [(0, gap)] * 2, constant_values=np.nan)
    rows, columns, channels, height, width = padded.shape
    whole = padded.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)[:-gap, :-gap]
    return whole[..., 0] if channels == 1 else whole


def scaled(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Red, green and blue between 0 and 1, white where there is no image."""
    shade = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    colours = np.repeat(shade[..., None], 3, axis=-1) if shade.ndim == 2 else shade
    return np.where(np.isnan(colours), 1.0, colours)


def show(axes: Axes, image: np.ndarray, title: str, **scale: Any) -> Any:
    """One panel without ticks or frame."""
    axes.set_facecolor(MISSING)  # seen where an image is nan
    shown = axes.imshow(image, interpolation="nearest", **scale)
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return shown


def name_rows(axes: Axes, rows: Sequence[str], height: int) -> None:
    """Names beside the rows of a mosaic of so many pixels."""
    if rows:
        axes.set_yticks((np.arange(len(rows)) + 0.5) * height / len(rows) - 0.5, labels=list(rows))
        axes.tick_params(length=0, labelsize=8, labelcolor=INK)
