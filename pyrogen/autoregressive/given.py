"""What is given: masks over events as masks over places, what a mask must be, and prompts of unequal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .layout import SequenceLayout

_SCALAR = torch.Size()


@dataclass(frozen=True)
class Known:
    """A part of a sequence that is given: symbols ``(*batch, L, *symbol)`` and where they count, ``(*batch, L)``."""

    symbols: Tensor
    mask: Tensor

    def common(self) -> int:
        """How many symbols are known from the start in every row."""
        return int((~self.mask).cumsum(-1).eq(0).sum(-1).min()) if len(self.mask) else 0

    def differs(self, symbols: Tensor) -> Tensor:
        """Where symbols are not what is known, ``(*batch, L)``."""
        return self.mask & whole(symbols == self.symbols, self.mask.dim()).logical_not()


def places_of(mask: Tensor, layout: SequenceLayout, name: str) -> Tensor:
    """A mask over events, or one that broadcasts to them, as one over places, ``(*batch, L)``.

    Raises:
        ValueError: the mask is not boolean, does not broadcast to events, or is true for some elements of a symbol
            only.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"`{name}` must be boolean, got {mask.dtype}")
    event_shape = layout.event_shape
    batch = mask.shape[: max(mask.dim() - len(event_shape), 0)]
    ends = zip(mask.shape[::-1], event_shape[::-1], strict=False)
    if not all(size in (1, whole_size) for size, whole_size in ends):
        raise ValueError(f"`{name}` must end in shape {event_shape} or broadcast to it, got {tuple(mask.shape)}")
    elements = layout.flatten(mask.expand(*batch, *event_shape))
    places = whole(elements, len(batch) + 1)
    if layout.symbol_axes and bool((places != ~whole(~elements, len(batch) + 1)).any()):
        raise ValueError(f"`{name}` must be the same for all elements of a symbol, got symbols known in part")
    return places


def event_of(places: Tensor, layout: SequenceLayout) -> Tensor:
    """A mask over places as one over events."""
    return layout.unflatten(like(places, layout.symbol_shape).expand(*places.shape, *layout.symbol_shape))


def require_first(places: Tensor, name: str) -> None:
    """Raises a ValueError unless what is true comes first, in each row for itself."""
    gaps = (places[..., 1:] & ~places[..., :-1]).nonzero()
    if len(gaps):
        *row, place = gaps[0].tolist()
        raise ValueError(
            f"`{name}` must come first in the order of the model, got a true element at position {place + 1} after a "
            f"false one at position {place}{f' in row {tuple(row)}' if row else ''}; `any_order` models take any part"
        )


def aligned(
    prompts: Sequence[Tensor | Sequence[int]], length: int, symbol_shape: torch.Size = _SCALAR
) -> tuple[Tensor, Tensor]:
    """Prompts as symbols ``(N, length, *symbol_shape)`` and a mask ``(N, length)`` of what is known.

    Args:
        prompts: One sequence of symbols a row, of any lengths from zero to ``length``.
        length: How many symbols a whole sequence has.
        symbol_shape: Shape of one symbol.

    Raises:
        ValueError: there is no prompt, or one is no sequence, too long, or has symbols of another shape.

    Example:
        >>> symbols, mask = aligned([[3, 1], [2], []], 4)
        >>> symbols.tolist(), mask.sum(-1).tolist()
        ([[3, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]], [2, 1, 0])
    """
    rows = [torch.as_tensor(prompt) for prompt in prompts]
    if not rows:
        raise ValueError("`prompts` must hold at least one prompt, got none")
    for place, row in enumerate(rows):
        _check_prompt(row, place, length, symbol_shape)
    # An empty list has a dtype of its own (float), which has nothing to do with symbols.
    dtype = reduce(torch.promote_types, (row.dtype for row in rows if len(row)), torch.uint8)
    device = next((row.device for row in rows if len(row)), None)
    symbols = torch.zeros(len(rows), length, *symbol_shape, dtype=dtype, device=device)
    for place, row in enumerate(rows):
        if len(row):
            symbols[place, : len(row)] = row
    counts = torch.tensor([len(row) for row in rows], device=symbols.device)
    return symbols, torch.arange(length, device=symbols.device) < counts.unsqueeze(1)


def whole(elements: Tensor, dim: int) -> Tensor:
    """Whether all elements of a symbol are true, ``(*batch, L)`` of ``dim`` dimensions."""
    return elements.flatten(dim).all(-1) if elements.dim() > dim else elements


def like(mask: Tensor, symbol_shape: tuple[int, ...]) -> Tensor:
    """A mask over places that broadcasts over the elements of symbols."""
    return mask.reshape(*mask.shape, *(1,) * len(symbol_shape))


def _check_prompt(row: Tensor, place: int, length: int, symbol_shape: torch.Size) -> None:
    if not row.dim():
        raise ValueError(
            f"`prompts` must be sequences of symbols, got the single symbol {row.item()} at position {place}"
        )
    if len(row) > length:
        raise ValueError(
            f"`prompts` must have at most {length} symbols each, got {len(row)} symbols at position {place}"
        )
    if len(row) and row.shape[1:] != symbol_shape:
        expected, got = tuple(symbol_shape), tuple(row.shape[1:])
        raise ValueError(f"`prompts` must hold symbols of shape {expected}, got {got} at position {place}")
