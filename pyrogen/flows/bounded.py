"""Data that lie in an interval: pixels, probabilities, positive quantities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, Shape
from pyrogen.numerics.supports import End
from pyrogen.transforms.interval import GivenEnd, Interval, end_of


class Bounded(BijectionModule):
    """The last bijection of a flow on an open interval, its Jacobian counted; see :class:`Interval`.

    The density is zero at the ends and beyond. Data with numbers exactly at an end have no density there: where they
    are rounded (pixels of 0 and 255, say), give them the noise that rounding took away
    (:class:`~pyrogen.flows.dequantized.Dequantized`, :func:`pyrogen.data.dequantize`); else a ``margin`` widens the
    support, and the density, its draws included, reaches beyond the data.

    Args:
        event_shape: Shape of one event.
        low: Lower end: a number, or one for each element; ``None`` where there is none.
        high: Upper end, likewise.
        margin: By how much the support is wider than the interval: by ``(high - low) * margin / (1 - 2 * margin)`` on
            either side.

    Raises:
        ValueError: ``high`` is not above ``low``, an end does not broadcast to ``event_shape``, ``margin`` is out of
            range, or there is one where an end is infinite.
    """

    def __init__(self, event_shape: Shape, *, low: GivenEnd = 0.0, high: GivenEnd = 1.0, margin: float = 0.0) -> None:
        super().__init__(event_shape)
        low, high = end_of(low, -math.inf, "low"), end_of(high, math.inf, "high")
        made = Interval(low, high, margin=margin)
        self.register_buffer("ends", self._both(made.low, made.high))
        self._read: tuple[tuple, bool, list[float] | None] = ((), made.finite, None)

    def forward(self, context: Context = None) -> Interval:
        finite, pair = self._read_ends()
        low, high = self.ends if pair is None else pair
        return Interval(low, high, event_dim=len(self.event_shape), finite=finite)

    def _read_ends(self) -> tuple[bool, list[float] | None]:
        """Whether all ends are finite, and both of them if there are only two; read from the device once."""
        if torch.compiler.is_compiling():
            return self._read[1], None  # a graph holds no number that may change
        if self._read[0] != self._key():
            pair = self.ends.tolist() if self.ends.dim() == 1 else None
            self._read = self._key(), bool(self.ends.isfinite().all()), pair
        return self._read[1:]

    def _key(self) -> tuple:
        return id(self.ends), self.ends._version

    def _both(self, low: End, high: End) -> Tensor:
        """Both ends in one tensor: two numbers, or two for each element."""
        pair = [torch.as_tensor(end, dtype=torch.get_default_dtype()) for end in (low, high)]
        if all(end.dim() == 0 for end in pair):
            return torch.stack(pair)
        try:
            return torch.stack([end.expand(self.event_shape) for end in pair])
        except RuntimeError:
            shapes = " and ".join(str(tuple(end.shape)) for end in pair)
            raise ValueError(
                f"`low` and `high` must be numbers or broadcast to {self.event_shape}, got shapes {shapes}"
            ) from None
