"""Spectra of sounds over time, one below the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyrogen.arguments import checked, positive

from .arrays import real_array
from .style import new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked(rate=positive)
def spectrograms(spectra: Mapping[str, Any], *, rate: float) -> Figure:
    """Spectra over time, all in the colours of the first, whose extremes are black and light.

    Args:
        spectra: By their titles, spectra of shape ``(frames, bands)``, such as logarithms of mels.
        rate: How many frames there are a second.

    Raises:
        TypeError: the spectra are no numbers.
        ValueError: there are none, or they have other shapes, or a value is NaN or infinite.

    Example:
        >>> figure = spectrograms({"recorded": torch.randn(200, 40), "drawn": torch.randn(150, 40)}, rate=100)
    """
    arrays = {title: real_array(values, f"spectra[{title!r}]") for title, values in spectra.items()}
    if not arrays:
        raise ValueError("`spectra` must hold at least one, got none")
    for title, array in arrays.items():
        if array.ndim != 2 or not array.size:
            raise ValueError(f"`spectra[{title!r}]` must have shape (frames, bands), got {array.shape}")
    first = next(iter(arrays.values()))
    figure = new_figure(9, 2 * len(arrays))
    every = figure.subplots(len(arrays), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, array) in zip(every, arrays.items(), strict=True):
        extent = 0, len(array) / rate, 0, array.shape[1]
        scale = {"vmin": first.min(), "vmax": first.max(), "cmap": "magma"}
        axes.imshow(array.T, origin="lower", aspect="auto", extent=extent, **scale)
        tidy(axes, y="band", title=title)
    every[-1].set_xlim(0, max(map(len, arrays.values())) / rate)
    tidy(every[-1], x="seconds", y="band", title=list(arrays)[-1])
    return figure
