"""Events cut into tokens: images and frames into patches, sequences into their members, vectors into their numbers."""

from __future__ import annotations

from math import ceil, prod

from torch import Tensor
from torch.nn.functional import pad

from .places import Shape, channels_back, channels_first, channels_of, check_event, places_of


class Patches:
    """How events are cut into tokens, and put together again; sides are padded to a multiple of the patches'.

    Args:
        event_shape: ``(size,)``, ``(length, features)``, ``(channels, rows, columns)`` or ``(frames, channels, rows,
            columns)``.
        patch: Side of the patches of images and frames.

    Raises:
        ValueError: events have no or more than four dimensions.
    """

    def __init__(self, event_shape: Shape, patch: int) -> None:
        check_event(event_shape, least=1)
        self.event_shape, self.sides = tuple(event_shape), places_of(tuple(event_shape))
        self.patches = (1,) * (len(self.sides) % 2) + (patch,) * (len(self.sides) // 2 * 2)
        self.grid = tuple(ceil(side / patch) for side, patch in zip(self.sides, self.patches, strict=True))

    @property
    def length(self) -> int:
        """How many tokens an event has."""
        return prod(self.grid)

    @property
    def places(self) -> int:
        """How many places a token covers."""
        return prod(self.patches)

    @property
    def features(self) -> int:
        """How many elements of an event a token holds."""
        return channels_of(self.event_shape) * self.places

    def first(self, x: Tensor) -> Tensor:
        """Events ``(N, *event)`` as ``(N, channels, *places)``."""
        return channels_first(x, len(self.event_shape))

    def cut(self, x: Tensor, outside: float = 0.0) -> Tensor:
        """``(N, channels, *places)`` as tokens ``(N, length, channels * places)``."""
        count, channels, sides = len(x), x.shape[1], len(self.grid)
        missing = [-size % patch for size, patch in zip(x.shape[2:], self.patches, strict=True)]
        x = pad(x, [end for size in reversed(missing) for end in (0, size)], value=outside)
        cut = [size for pair in zip(self.grid, self.patches, strict=True) for size in pair]
        x = x.reshape(count, channels, *cut)
        x = x.permute(0, *range(2, 2 + 2 * sides, 2), 1, *range(3, 3 + 2 * sides, 2))
        return x.reshape(count, self.length, channels * self.places)

    def joined(self, tokens: Tensor) -> Tensor:
        """Tokens ``(N, length, numbers * features)`` as events ``(N, numbers, *event)``."""
        count, sides, channels = len(tokens), len(self.grid), channels_of(self.event_shape)
        numbers = tokens.shape[-1] // self.features
        x = tokens.reshape(count, *self.grid, numbers * channels, *self.patches)
        x = x.permute(0, 1 + sides, *(dim for side in range(sides) for dim in (1 + side, 2 + sides + side)))
        x = x.reshape(count, numbers, channels, *(n * p for n, p in zip(self.grid, self.patches, strict=True)))
        for place, side in enumerate(self.sides, start=3):
            x = x.narrow(place, 0, side)
        return channels_back(x, len(self.event_shape))

    def shown(self, places: Tensor | None) -> Tensor | None:
        """Which tokens are there, ``(N, length)``, if not all places are, ``(N, *places)``."""
        if places is None:
            return None
        everywhere = places.expand(len(places), *self.sides).unsqueeze(1)
        return self.cut(everywhere.float()).amax(-1) > 0
