"""Events in a window of time as tensors of one shape: their layout, their support, and sequences of any lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyrogen.networks.statistics import RefusedDataError, listed


class EventTimes(Constraint):
    """Times of events, and their marks: strictly increasing within a window, then the window's end in all places.

    Args:
        window: Its length.
        marks: The constraint on a mark; ``None`` where events have none.
    """

    is_discrete = True  # how many events there are is: no map from real numbers has them as its image

    def __init__(self, window: float, marks: Constraint | None = None) -> None:
        self.window = window
        self.marks = marks
        super().__init__()

    @property
    def event_dim(self) -> int:
        return 1 if self.marks is None else 2

    def check(self, value: Tensor) -> Tensor:
        return (self.in_order(value) & self.marked(value)).all(-1)

    def in_order(self, value: Tensor) -> Tensor:
        """Whether each time lies in the window and after the one before it, ``(*batch, length)``."""
        times, before = self.times(value), self.before(value)
        return (times > before) & (times <= self.window) | (times == self.window) & (before == self.window)

    def marked(self, value: Tensor) -> Tensor:
        """Whether each event has a mark, and what is no event the mark zero, ``(*batch, length)``."""
        if self.marks is None:
            return torch.ones_like(value, dtype=torch.bool)
        marks = value[..., 1]
        return torch.where(value[..., 0] < self.window, self.marks.check(marks), marks == 0)

    def times(self, value: Tensor) -> Tensor:
        """The times, ``(*batch, length)``."""
        return value if self.marks is None else value[..., 0]

    def before(self, value: Tensor) -> Tensor:
        """The time before each, zero before the first, ``(*batch, length)``."""
        times = self.times(value)
        return torch.cat([torch.zeros_like(times[..., :1]), times[..., :-1]], -1)

    def empty(self, like: Tensor) -> Tensor:
        """What stands for no event at all, in the shape of ``like``."""
        if self.marks is None:
            return torch.full_like(like, self.window)
        return torch.stack([torch.full_like(like[..., 0], self.window), torch.zeros_like(like[..., 1])], -1)

    def __repr__(self) -> str:
        return f"EventTimes({self.window:g})" if self.marks is None else f"EventTimes({self.window:g}, {self.marks})"


def require_events(support: EventTimes, value: Tensor, name: str, *, missing: bool = True) -> None:
    """Refuses events that are out of order or out of the window, or marks that are none.

    Args:
        support: What events are.
        value: Events ``(*batch, *event)``.
        name: What errors call them.
        missing: Whether NaN is left to be scored; else it is refused as well.

    Raises:
        RefusedDataError: a row holds such.
    """
    present = ~value.isnan().flatten(value.dim() - support.event_dim).any(-1)
    if not missing and not bool(present.all()):
        raise RefusedDataError(f"`{name}` must hold no NaN", "NaN", (~present).reshape(-1).nonzero().flatten().tolist())
    for right, demand, shown in (
        (
            support.in_order(value),
            f"`{name}` must hold times that strictly increase, above 0 and below the window's end {support.window:g}, "
            "which stands in all places after the last event",
            _times_shown,
        ),
        (support.marked(value), f"`{name}` must hold marks within {support.marks}, and 0 after the last event", _mark),
    ):
        wrong = ~right & present.unsqueeze(-1)
        if bool(wrong.any()):
            *row, place = wrong.nonzero()[0].tolist()
            rows = wrong.any(-1).reshape(-1).nonzero().flatten().tolist()
            raise RefusedDataError(demand, shown(support, value[tuple(row)], place), rows)


def pack(
    sequences: Sequence[Tensor | Sequence[float]], support: EventTimes, length: int, name: str = "sequences"
) -> Tensor:
    """Sequences of any lengths as events of one shape, ``(N, length)``, or ``(N, length, 2)`` with marks.

    Args:
        sequences: For each row its times, or pairs of time and mark.
        support: What events are.
        length: How many places a row has.
        name: What errors call them.

    Raises:
        ValueError: there is none, or one has more events than places or another shape.
        RefusedDataError: times do not increase or lie outside the window, or a mark is none.
    """
    rows = [torch.as_tensor(sequence, dtype=torch.get_default_dtype()) for sequence in sequences]
    if not rows:
        raise ValueError(f"`{name}` must hold at least one sequence, got none")
    flat = [place for place, row in enumerate(rows) if not row.dim()]
    if flat:
        raise ValueError(f"`{name}` must hold sequences of events, got a number in {listed('row', flat)}")
    tail = () if support.marks is None else (2,)
    long = [place for place, row in enumerate(rows) if len(row) > length]
    if long:
        raise ValueError(
            f"`{name}` must have at most {length} events each, got {len(rows[long[0]])} in {listed('row', long)}"
        )
    packed = support.empty(torch.zeros(len(rows), length, *tail))
    for place, row in enumerate(rows):
        if row.isnan().any():
            raise RefusedDataError(f"`{name}` must hold no NaN", "NaN", [place])
        if len(row) and row.shape[1:] != tail:
            raise ValueError(f"`{name}` must hold events of shape {tail}, got {tuple(row.shape[1:])} in row {place}")
        packed[place, : len(row)] = row.reshape(-1, *tail)
        outside = (row[..., 0] if tail else row) >= support.window if len(row) else row.new_zeros(0).bool()
        if bool(outside.any()):
            raise RefusedDataError(
                f"`{name}` must lie before the window's end {support.window:g}", f"{row[outside].max():g}", [place]
            )
    require_events(support, packed, name)
    return packed


def _times_shown(support: EventTimes, row: Tensor, place: int) -> str:
    time, before = (_shown(part[place], support.window) for part in (support.times(row), support.before(row)))
    return f"{time} after {before} at place {place}"


def _shown(time: Tensor, window: float) -> str:
    """A time, with all digits where it looks like the window's end: it may be that in another precision."""
    return f"{time:.17g}" if f"{time:g}" == f"{window:g}" else f"{time:g}"


def _mark(support: EventTimes, row: Tensor, place: int) -> str:
    return f"{row[place, 1]:g} at place {place}"
