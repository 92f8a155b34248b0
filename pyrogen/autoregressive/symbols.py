"""Symbols: which there are, what stands where one is unknown or none, and errors that name the first wrong one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyrogen.numerics.supports import contains, point_inside

from .generation import Ending
from .given import like, whole
from .layout import SequenceLayout


@dataclass(frozen=True)
class SymbolSpace:
    """What the symbols of a sequence can be.

    Args:
        support: That of each element of an event.
        layout: The event as a sequence.

    Shape:
        Symbols are ``(*batch, L, *symbol)``, and what is said of each is ``(*batch, L)``.
    """

    support: Constraint
    layout: SequenceLayout

    def contains(self, symbols: Tensor) -> Tensor:
        """Whether each symbol is in the support."""
        inside = contains(self.support, symbols)
        if symbols.is_floating_point():
            inside = inside & symbols.isfinite()
        return whole(inside, self._places_dim(symbols))

    def missing(self, symbols: Tensor) -> Tensor:
        """Whether each symbol is NaN, in all its elements."""
        return whole(symbols.isnan(), self._places_dim(symbols))

    def filler(self, symbols: Tensor) -> Tensor:
        """A number of the support, of the dtype of symbols, that stands where one is unknown or bad."""
        return point_inside(self.support, symbols.new_zeros(())).detach()

    def kept(self, symbols: Tensor, places: Tensor) -> Tensor:
        """The symbols at some places, and a filler at all others."""
        return torch.where(like(places, self.layout.symbol_shape), symbols, self.filler(symbols))

    def require_inside(self, symbols: Tensor, inside: Tensor, name: str) -> None:
        """Raises a ValueError unless all symbols are inside."""
        if not bool(inside.all()):
            self.refuse(symbols, ~inside, f"`{name}` must hold symbols within {self.support}")

    def require_padding(self, symbols: Tensor, places: Tensor, ending: Ending) -> None:
        """Raises a ValueError unless at these places there is padding after the end, and none before."""
        ended = ending.ended(symbols.reshape(-1, self.layout.length)).reshape(places.shape)
        padding = symbols == ending.padding
        self.refuse(symbols, ended & places & ~padding, f"`values` must hold {ending.padding} after the end")
        if ending.padding != ending.end:
            self.refuse(symbols, ~ended & places & padding, "`values` must hold no padding before the end")

    def refuse(self, symbols: Tensor, wrong: Tensor, expected: str) -> None:
        """Raises a ValueError that names the first wrong symbol, by its row and its place in the event, if any is."""
        found = wrong.nonzero()
        if len(found):
            *row, place = found[0].tolist()
            got = f"got {symbols[(*row, place)].tolist()} at position {self.layout.position(place)}"
            raise ValueError(f"{expected}, {got}" + (f" of row {tuple(row)}" if row else ""))

    def _places_dim(self, symbols: Tensor) -> int:
        return symbols.dim() - len(self.layout.symbol_axes)
