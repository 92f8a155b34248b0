"""Data that lie in an interval: pixels, probabilities, angles."""

from __future__ import annotations

from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, Shape
from pyrogen.transforms.interval import Interval


class Bounded(BijectionModule):
    """The last bijection of a flow on an interval: a scaled logistic, its Jacobian counted.

    Args:
        event_shape: Shape of one event.
        low: Lower end of the data.
        high: Upper end of the data.
        margin: How far from saturation the ends of the interval map to; see :class:`Interval`.

    Raises:
        ValueError: ``high`` is not above ``low``, or ``margin`` is out of range.
    """

    def __init__(self, event_shape: Shape, *, low: float = 0.0, high: float = 1.0, margin: float = 0.05) -> None:
        super().__init__(event_shape)
        self.low = low
        self.high = high
        self.margin = margin
        Interval(low, high, margin=margin)

    def forward(self, context: Context = None) -> Interval:
        return Interval(self.low, self.high, margin=self.margin, event_dim=len(self.event_shape))
