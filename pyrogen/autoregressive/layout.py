"""Layouts: in which order the elements of an event follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrogen.core.shapes import Shape


@dataclass(frozen=True)
class SequenceLayout:
    """An event as a sequence of symbols, and back.

    Args:
        event_shape: Shape of one event.
        symbol_axes: The axes of the event that together make one symbol: none for tokens and grey pixels, ``(0,)`` for
            images with channels first, ``(1,)`` for sequences of vectors. The other axes are places, row by row.
        order: Which place comes first, second, ...; row by row if ``None``.

    Raises:
        ValueError: the event has no place, an axis is missing or repeated, or ``order`` is not a permutation of the
            places.
    """

    event_shape: Shape
    symbol_axes: tuple[int, ...] = ()
    order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        axes = range(len(self.event_shape))
        if len(set(self.symbol_axes)) != len(self.symbol_axes) or not set(self.symbol_axes) <= set(axes):
            raise ValueError(f"`symbol_axes` must be distinct axes of {self.event_shape}, got {self.symbol_axes}")
        if not torch.Size(self.event_shape).numel():
            raise ValueError(f"`event_shape` must have at least one element, got {self.event_shape}")
        if self.order is not None:
            check_order(self.order, self.length)

    @property
    def symbol_shape(self) -> torch.Size:
        """Shape of one symbol."""
        return torch.Size(self.event_shape[axis] for axis in self.symbol_axes)

    @property
    def place_shape(self) -> torch.Size:
        """Shape of the places."""
        return torch.Size(size for axis, size in enumerate(self.event_shape) if axis not in self.symbol_axes)

    @property
    def length(self) -> int:
        """How many symbols an event has."""
        return self.place_shape.numel()

    def flatten(self, events: Tensor) -> Tensor:
        """``(*batch, *event)`` as ``(*batch, length, *symbol)``."""
        batch = events.shape[: events.dim() - len(self.event_shape)]
        if self.symbol_axes:
            axes = [len(batch) + axis for axis in self._axes]
            events = events.permute(*range(len(batch)), *axes)
        symbols = events.reshape(*batch, self.length, *self.symbol_shape)
        return symbols if self.order is None else symbols.index_select(len(batch), self._index(events))

    def unflatten(self, symbols: Tensor) -> Tensor:
        """``(*batch, length, *symbol)`` as ``(*batch, *event)``."""
        batch = symbols.shape[: symbols.dim() - 1 - len(self.symbol_axes)]
        if self.order is not None:
            symbols = symbols.index_select(len(batch), self._index(symbols).argsort())
        events = symbols.reshape(batch + self.place_shape + self.symbol_shape)
        if self.symbol_axes:
            axes = [len(batch) + self._axes.index(axis) for axis in range(len(self.event_shape))]
            events = events.permute(*range(len(batch)), *axes)
        return events

    def position(self, place: int) -> int | tuple[int, ...]:
        """Where a place of the sequence is in the event."""
        if self.order is not None:
            place = self.order[place]
        index = torch.unravel_index(torch.tensor(place), self.place_shape)
        return int(index[0]) if len(index) == 1 else tuple(map(int, index))

    @property
    def _axes(self) -> list[int]:
        return [axis for axis in range(len(self.event_shape)) if axis not in self.symbol_axes] + [*self.symbol_axes]

    def _index(self, like: Tensor) -> Tensor:
        return torch.tensor(self.order, device=like.device)


def check_order(order: Sequence[int], length: int) -> None:
    """Raises a ValueError unless ``order`` names each of ``length`` places once."""
    if sorted(order) != list(range(length)):
        raise ValueError(f"`order` must name each place from 0 to {length - 1} once, got {tuple(order)}")
