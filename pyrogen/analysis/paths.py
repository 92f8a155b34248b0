"""Walks and trajectories in the plane, beside one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import real_array
from .style import BLUE, COLOURS, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Limits = tuple[tuple[float, float], tuple[float, float]]


def paths(
    points: Mapping[str, Any], *, groups: Mapping[str, Any] | None = None, limits: Limits | None = None
) -> Figure:
    """Paths in the plane, a panel for each title; all panels have one scale.

    Args:
        points: By title, paths of shape ``(n, steps, 2)``.
        groups: By the same titles, the number of the group of each path, ``(n,)``, which is its colour.
        limits: What is shown, ``((left, right), (bottom, top))``; everything if not given.

    Raises:
        TypeError: points or groups are no numbers.
        ValueError: there are no panels, shapes do not fit, or a group is no integer of at least zero.

    Example:
        >>> figure = paths({"experts": torch.randn(5, 20, 2).cumsum(1)}, groups={"experts": torch.arange(5)})
    """
    arrays = {title: real_array(values, f"points[{title!r}]") for title, values in points.items()}
    if not arrays:
        raise ValueError("`points` must hold the paths of at least one panel, got none")
    figure = new_figure(3 * len(arrays), 4)
    panels = figure.subplots(1, len(arrays), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, array) in zip(panels, arrays.items(), strict=True):
        if array.ndim != 3 or array.shape[2] != 2:
            raise ValueError(f"`points[{title!r}]` must have shape (n, steps, 2), got {array.shape}")
        for path, colour in zip(array, _colours(title, len(array), groups), strict=True):
            axes.plot(*path.T, color=colour, linewidth=0.6, alpha=0.6)
        tidy(axes, x="$x_1$", y="$x_2$" if axes is panels[0] else "", title=title).set_aspect("equal")
    if limits is not None:
        panels[0].set(xlim=limits[0], ylim=limits[1])
    return figure


def _colours(title: str, count: int, groups: Mapping[str, Any] | None) -> list[str]:
    """One for each path."""
    if groups is None:
        return [BLUE] * count
    if title not in groups:
        raise ValueError(f"`groups` must have the titles of `points`, got none of {title!r}")
    found = real_array(groups[title], f"groups[{title!r}]")
    if found.shape != (count,) or (found != np.abs(found).round()).any():
        raise ValueError(f"`groups[{title!r}]` must be {count} integers of at least zero, got {found}")
    return [COLOURS[int(group) % len(COLOURS)] for group in found]
