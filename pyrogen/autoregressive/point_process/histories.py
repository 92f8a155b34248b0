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
    """What is left of the excitation of each kind just after the last event, and the numbers of each row."""

    excess: Tensor
    numbers: Tensor


class Exciting(SequenceNetwork):
    r"""The history of a Hawkes process with exponential kernels, as the excess of its intensities after each event.

    .. math:: \lambda_k(t) = \mu_k + \sum_{t_j < t} \alpha_{m_j k} \, \beta e^{-\beta (t - t_j)}

    Outputs are the logarithm of all of :math:`\mu` together, the excess of all kinds together just after the last
    event, and :math:`\log \beta`; of several kinds, then what
    :class:`~pyrogen.autoregressive.point_process.marks.ShareOfHazard` takes.

    Args:
        rate: Where :math:`\mu` of all kinds together and :math:`\beta` start, per unit of time.
        marks: How many kinds of events there are; ``None`` for one, without marks.
        context: Size of the context vector that moves the logarithms of all numbers, zero for none.
    """

    def __init__(self, rate: float, *, marks: int | None = None, context: int = 0) -> None:
        super().__init__()
        self.marks = marks
        kinds = marks or 1
        start = [math.log(rate / kinds)] * kinds, [math.log(0.3 / kinds)] * kinds**2, [math.log(rate)]
        self.numbers = nn.Parameter(torch.tensor([number for part in start for number in part]))
        self.sizes = [len(part) for part in start]
        self.linear = zeroed(nn.Linear(context, sum(self.sizes), bias=False)) if context else None

    def forward(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        numbers = self._of(context, len(symbols))
        decay, jumps = self._decay(numbers), self._jumps(numbers, symbols)
        times = symbols[..., 0]
        since = (times[:, :, None] - times[:, None, :]).tril()  # (N, L, L)
        after = (-decay[:, None] * since).exp().tril().to(jumps) @ jumps  # (N, L, kinds)
        before = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1)
        return self._outputs(numbers[:, None], before)

    def start(self, batch_shape: tuple[int, ...], context: Tensor | None = None) -> Excitation:
        numbers = self._of(context, math.prod(batch_shape))
        return Excitation(numbers.new_zeros(len(numbers), self.sizes[0]), numbers)

    def step(self, symbol: Tensor | None, state: Excitation) -> tuple[Tensor, Excitation]:
        if symbol is not None:
            faded = state.excess * (-self._decay(state.numbers) * symbol[..., 1:2]).exp()
            state = Excitation(faded + self._jumps(state.numbers, symbol[:, None])[:, 0], state.numbers)
        return self._outputs(state.numbers, state.excess), state

    def _of(self, context: Tensor | None, rows: int) -> Tensor:
        moved = self.numbers if self.linear is None else self.numbers + self.linear(context)
        return moved.clamp(-_BOUND, _BOUND).expand(rows, sum(self.sizes))

    def _decay(self, numbers: Tensor) -> Tensor:
        return numbers[..., -1:].exp()

    def _jumps(self, numbers: Tensor, symbols: Tensor) -> Tensor:
        """How much each event raises the intensity of each kind, ``(N, L, kinds)``."""
        kinds = self.sizes[0]
        table = (numbers[..., kinds:-1] + numbers[..., -1:]).exp().unflatten(-1, (kinds, kinds))
        if self.marks is None:
            return table[:, 0, None].expand(*symbols.shape[:2], 1)
        own = symbols[..., 2].long().clamp(0, kinds - 1).unsqueeze(-1).expand(*symbols.shape[:2], kinds)
        return table.gather(1, own)

    def _outputs(self, numbers: Tensor, excess: Tensor) -> Tensor:
        log_rates = numbers[..., : self.sizes[0]].expand_as(excess)
        log_decay = numbers[..., -1:].expand(*excess.shape[:-1], 1)
        together = torch.cat([log_rates.logsumexp(-1, keepdim=True), excess.sum(-1, keepdim=True), log_decay], -1)
        return together if self.marks is None else torch.cat([together, log_decay, log_rates, excess], -1)
