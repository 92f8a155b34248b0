"""Where the numbers of an event are: sequences, images and videos as channels over places."""

from __future__ import annotations

from torch import Tensor

Shape = tuple[int, ...]

_CHANNELS = {1: None, 2: 1, 3: 0, 4: 1}
"""Which dimension of an event holds channels, by the number of its dimensions."""


def places_of(event_shape: Shape) -> Shape:
    """``(length,)`` of sequences and vectors, ``(rows, columns)`` of images, ``(frames, rows, columns)`` of videos.

    Raises:
        ValueError: events have no or more than four dimensions.
    """
    check_event(event_shape, least=1)
    return tuple(size for dim, size in enumerate(event_shape) if dim != _CHANNELS[len(event_shape)])


def channels_of(event_shape: Shape) -> int:
    """How many numbers there are at each place; one in a vector."""
    channels = _CHANNELS[len(event_shape)]
    return 1 if channels is None else event_shape[channels]


def channels_first(x: Tensor, event_dim: int) -> Tensor:
    """Events ``(N, *event_shape)`` as ``(N, channels, *places)``."""
    channels = _CHANNELS[event_dim]
    return x.unsqueeze(1) if channels is None else x.movedim(1 + channels, 1)


def channels_back(x: Tensor, event_dim: int) -> Tensor:
    """``(*batch, channels, *places)`` as ``(*batch, *event_shape)``: undoes :func:`channels_first`."""
    channels = _CHANNELS[event_dim]
    places = event_dim if channels is None else event_dim - 1
    return x.squeeze(-1 - places) if channels is None else x.movedim(-1 - places, channels - event_dim)


def check_event(event_shape: Shape, *, least: int) -> None:
    """Raises a ValueError unless events have from ``least`` to four dimensions."""
    if not least <= len(event_shape) <= 4:
        kinds = ["(size,)", "(length, features)", "(channels, rows, columns)", "(frames, channels, rows, columns)"]
        shown = ", ".join(kinds[least - 1 : 3]) + f" or {kinds[3]}"
        raise ValueError(f"`event_shape` must be {shown}, got {tuple(event_shape)}")
