"""What a point process reads of its history: events as vectors, and the excitation of a Hawkes process."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyrogen.networks.noise_level import zeroed
from pyrogen.networks.sequence import SequenceNetwork, State
from pyrogen.networks.statistics import Standardizer

_BOUND = 20.0
"""Bound of the logarithms of rates, far from all data, so that contexts far from training give finite ones."""


class EventVectors(nn.Module):
    """Events as vectors, of their time, the logarithm of the time since the one before, and their kind.

    Args:
        width: Size of the vectors.
        window: The length of time in which times are stated.
        log_gaps: Mean and scale of the logarithms of the times between events.
        marks: How many kinds of events there are; ``None`` for one.

    Shape:
        Time, time since the event before and mark, ``(*shape, 2)`` or ``(*shape, 3)``, to ``(*shape, width)``.
    """

    def __init__(self, width: int, window: float, log_gaps: Standardizer, *, marks: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.log_gaps = log_gaps
        self.linear = nn.Linear(2, width)
        self.kinds = None if marks is None else nn.Parameter(torch.randn(marks, width))

    def forward(self, events: Tensor) -> Tensor:
        events = events.to(self.linear.weight.dtype)
        time, gap = events[..., 0] / self.window, self.log_gaps(events[..., 1].log())
        vectors = self.linear(torch.stack([time, gap], -1))
        return vectors if self.kinds is None else vectors + nn.functional.embedding(events[..., 2].long(), self.kinds)


@dataclass
class Excitation(State):
    """What is left of the excitation just after the last event, and the numbers of each row."""

    excess: Tensor
    numbers: Tensor


class Exciting(SequenceNetwork):
    r"""The history of a Hawkes process with an exponential kernel, as the excess of its intensity after each event.

    .. math:: \lambda(t) = \mu + \sum_{t_j < t} \alpha \beta e^{-\beta (t - t_j)}

    Outputs are :math:`\log \mu`, the sum just after the last event, and :math:`\log \beta`.

    Args:
        rate: Where :math:`\mu` and :math:`\beta` start, per unit of time.
        context: Size of the context vector that moves the logarithms of all three numbers, zero for none.
    """

    def __init__(self, rate: float, *, context: int = 0) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor([math.log(rate), math.log(0.3), math.log(rate)]))
        self.linear = zeroed(nn.Linear(context, 3, bias=False)) if context else None

    def forward(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        numbers = self._of(context, len(symbols))
        _, log_branching, log_decay = numbers.unbind(-1)
        times = symbols[..., 0]
        since = (times[:, :, None] - times[:, None, :]).tril()  # (N, L, L)
        lasting = (-log_decay.exp()[:, None, None] * since).exp().tril()
        after = (log_branching + log_decay).exp()[:, None] * lasting.sum(-1)
        before = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1)
        return self._outputs(numbers[:, None], before)

    def start(self, batch_shape: tuple[int, ...], context: Tensor | None = None) -> Excitation:
        numbers = self._of(context, math.prod(batch_shape))
        return Excitation(numbers.new_zeros(len(numbers)), numbers)

    def step(self, symbol: Tensor | None, state: Excitation) -> tuple[Tensor, Excitation]:
        if symbol is not None:
            _, log_branching, log_decay = state.numbers.unbind(-1)
            faded = state.excess * (-log_decay.exp() * symbol[..., 1]).exp()
            state = Excitation(faded + (log_branching + log_decay).exp(), state.numbers)
        return self._outputs(state.numbers, state.excess), state

    def _of(self, context: Tensor | None, rows: int) -> Tensor:
        moved = self.numbers if self.linear is None else self.numbers + self.linear(context)
        return moved.clamp(-_BOUND, _BOUND).expand(rows, 3)

    def _outputs(self, numbers: Tensor, excess: Tensor) -> Tensor:
        log_rate, _, log_decay = numbers.unbind(-1)
        return torch.stack([log_rate.expand_as(excess), excess, log_decay.expand_as(excess)], -1)
