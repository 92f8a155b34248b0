"""The distribution of a temporal point process: scored in one pass, drawn event by event, forecast after a history."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrogen.arguments import positive, vector
from pyrogen.core.estimate import TestResult
from pyrogen.core.shapes import Context, batch_shape_of, common_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.sequence import SequenceNetwork
from pyrogen.numerics.autograd import full, is_functional
from pyrogen.numerics.rows import Remake, rearranged, spared

from ..conditionals import Conditional
from .events import EventTimes, require_events
from .waiting import MakeWaiting, WaitingTime


@dataclass(frozen=True)
class EventHistory:
    """What came until a time: events ``(*batch, *event)``, and until when, ``(*batch)``."""

    events: Tensor
    until: Tensor


class PointProcessDistribution(PyrogenDistribution):
    r"""Events in a window, :math:`p(t, m) = \prod_i f(t_i - t_{i-1} \mid h_i) \, p(m_i \mid h_i) \; S(T - t_n)`.

    Made by :class:`~pyrogen.autoregressive.point_process.model.PointProcess`, not by hand. Where all places hold
    events, the window closes with the last of them.

    Args:
        network: A sequence network over events as ``(time, time since the event before, mark)``.
        waiting: Makes waiting times of its outputs.
        mark: Makes the distributions of marks of the rest of its outputs; ``None`` where there are none.
        length: How many places for events there are.
        window: The window of time is from zero to here.
        batch_shape: Batch dimensions.
        context: What the network gets, with the batch dimensions in front.
        remake: Gives the same distribution for rows of its context in other places.
    """

    density = "exact"

    def __init__(
        self,
        network: SequenceNetwork,
        waiting: MakeWaiting,
        mark: Conditional | None,
        *,
        length: int,
        window: float,
        batch_shape: Iterable[int] = (),
        context: Context = None,
        remake: Remake | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.waiting, self.mark, self.window, self.context = network, waiting, mark, window, context
        self.history: EventHistory | None = None
        self._remake = remake
        event_shape = (length,) if mark is None else (length, 2)
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> EventTimes:
        return EventTimes(self.window, None if self.mark is None else self.mark.support)

    def over(self, window: float) -> PointProcessDistribution:
        """The same process over another window.

        Raises:
            ValueError: ``window`` is not positive, or a history is given that belongs to the old one.
        """
        if self.history is not None:
            raise ValueError("`over` must come before `after`: a history belongs to its window")
        return self._altered(window=float(positive(window, "window")))

    def after(self, history: Tensor, until: float | Tensor) -> PointProcessDistribution:
        """The distribution of all events given those until a time: a forecast of the rest of the window.

        Args:
            history: Events ``(*batch, *event)``; those later than ``until`` do not count.
            until: Up to when events are known, a number or one for each row. That none came between the last known
                event and this time is part of what is known.

        Returns:
            A distribution over whole events. Its draws repeat the history; its ``log_prob`` is that of the rest, and
            minus infinity where events until then are others.

        Raises:
            ValueError: events are out of order or NaN, or ``until`` lies outside the window.
        """
        shapes = {"history": batch_shape_of(history, self.event_shape, "history"), "context": self.batch_shape}
        require_events(self.support, history, "history", missing=False)
        until = torch.as_tensor(until, dtype=history.dtype, device=history.device)
        batch = common_batch_shape(shapes | {"until": until.shape})
        if not bool(((until >= 0) & (until < self.window)).all()):
            raise ValueError(f"`until` must lie from 0 to below the window's end {self.window:g}, got {until.tolist()}")
        kept = EventHistory(history.expand(batch + self.event_shape), until.expand(batch))
        return self._altered(history=kept, _batch_shape=batch, context=_spread(self.context, self.batch_shape, batch))

    def lengths(self, value: Tensor) -> Tensor:
        """How many events there are, ``batch``."""
        batch_shape_of(value, self.event_shape, "value")
        return (self.support.times(value) < self.window).sum(-1)

    def compensators(self, value: Tensor) -> Tensor:
        r"""The integral of the intensity between events, :math:`-\log S`, ``(*batch, length)``.

        The place after the last event has that of the empty rest of the window, places after it zero.

        Raises:
            ValueError: events are out of order, or NaN.
        """
        shape = self._complete(value)
        return self._scored(value, shape, compensators=True)

    def intensity(self, value: Tensor, times: Tensor) -> Tensor:
        r"""The rate at which events come at some times, given those before, :math:`\lambda(t)`, ``(*batch, n)``.

        It is zero after the last event where all places hold events, since there the window closes.

        Args:
            value: Events ``(*batch, *event)``.
            times: Times within the window, ``(n,)``.

        Raises:
            ValueError: events are out of order or NaN, or times are no vector or lie outside the window.
        """
        shape = self._complete(value)
        times = vector(torch.as_tensor(times, dtype=value.dtype, device=value.device), "times")
        if not bool(((times >= 0) & (times <= self.window)).all()):
            raise ValueError(f"`times` must lie from 0 to the window's end {self.window:g}, got {times.tolist()}")
        rows = self._rows(value, shape)
        outputs, at = self._outputs(rows, shape), self.support.times(rows)
        place = (at[:, None, :] < times[:, None]).sum(-1).clamp(max=self.event_shape[0] - 1)  # (N, n)
        last = torch.cat([at.new_zeros(len(at), 1), at], 1).gather(1, place)
        chosen = outputs.gather(1, place.unsqueeze(-1).expand(*place.shape, outputs.shape[-1]))
        # Some densities at a gap of zero are limits.
        waiting, gap = self._waiting(chosen), (times - last).clamp(min=torch.finfo(at.dtype).tiny)
        hazard = (waiting.log_prob(gap) - waiting.log_survival(gap)).exp()
        return torch.where(times <= at[:, -1:], hazard, 0.0).reshape(*shape, len(times))

    def residuals(self, value: Tensor) -> Tensor:
        """Intervals that are independent and exponential of mean one if events follow the process, ``(events,)``.

        Time is measured by the integral of the intensity, and rows are put one after the other: what is left of a
        window after its last event belongs to the interval that the first event of the next row ends.

        References:
            Brown, Barbieri, Ventura, Kass and Frank 2002, "The time-rescaling theorem and its application to neural
            spike train data analysis", https://doi.org/10.1162/08997660252741149
        """
        with torch.no_grad():
            passed = self.compensators(value).double().flatten().cumsum(0)
        ends = passed[(self.support.times(value) < self.window).flatten()]
        return torch.diff(ends, prepend=ends.new_zeros(1))

    def time_rescaling(self, value: Tensor) -> TestResult:
        """The Kolmogorov-Smirnov test of whether events follow the process, by their :meth:`residuals`.

        Events that the process was fitted to fit too well: take held-out ones.

        Raises:
            ValueError: there is no event, or events are out of order or NaN.
        """
        from scipy.stats import kstest

        residuals = self.residuals(value)
        if not len(residuals):
            raise ValueError("`value` must hold at least one event, got none")
        found = kstest(residuals.cpu().numpy(), "expon")
        return TestResult(float(found.statistic), float(found.pvalue), "Kolmogorov-Smirnov distance of rescaled times")

    def log_prob(self, value: Tensor) -> Tensor:
        shape = self._common(value)
        if self._validate_args and not is_functional((value,)):
            require_events(self.support, value, "value")
        first, again = partial(self._scored, value, shape), partial(self._score_rows, value)
        return spared(first, again, self._remake)

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        like = next(self.network.parameters())
        events = self.support.empty(like.new_zeros(shape.numel(), *self.event_shape))
        times, marks = (events, None) if self.mark is None else events.unbind(-1)
        if shape.numel():
            self._fill(times, marks, shape)
        return events.reshape(shape + self.event_shape)

    def _fill(self, times: Tensor, marks: Tensor | None, shape: torch.Size) -> None:
        """Writes draws into times ``(N, length)`` and marks, event by event, until all windows are over."""
        history = None if self.history is None else self._history_rows(shape)
        now, state = (
            times.new_zeros(len(times)),
            self.network.start((len(times),), _rows_of(self.context, self.batch_shape, shape)),
        )
        symbol = None
        for place in range(self.event_shape[0]):
            output, state = self.network.step(symbol, state)
            output = full(output)
            waited = torch.zeros_like(now) if history is None else (history.until - now).clamp(min=0)
            then = now + self._waiting(output).sample_beyond(waited).to(now)
            then = torch.maximum(then, torch.nextafter(now + waited, torch.full_like(now, torch.inf)))  # of rounding
            mark = None if marks is None else self._marks(output, then - now).sample().to(now)
            if history is not None:
                known = self.support.times(history.events)[:, place]
                then = torch.where(known <= history.until, known, then)
                mark = None if mark is None else torch.where(known <= history.until, history.events[:, place, 1], mark)
            over = then >= self.window
            times[:, place] = then.masked_fill(over, self.window)
            if mark is not None:
                marks[:, place] = mark.masked_fill(over, 0)
            if bool(over.all()):
                return
            gap = torch.where(over, torch.ones_like(now), then - now)
            now = then.clamp(max=self.window)
            symbol = torch.stack([now, gap, *([] if marks is None else [marks[:, place]])], -1)

    def _scored(self, value: Tensor, shape: torch.Size, *, compensators: bool = False) -> Tensor:
        support, rows = self.support, self._rows(value, shape)
        missing = rows.isnan().flatten(1).any(-1)
        inside = support.check(rows)
        clean = torch.where(inside.reshape(-1, *[1] * (rows.dim() - 1)), rows, support.empty(rows))
        outputs = self._outputs(clean, shape)
        times, before = support.times(clean), support.before(clean)
        event, waiting = times < self.window, self._waiting(outputs)
        rest = ~event & (before < self.window)  # the empty end of the window, in the place after the last event
        gap = torch.where(event | rest, times - before, 1.0)
        survival = waiting.log_survival(gap)
        if compensators:
            return torch.where(event | rest, -survival, 0.0).reshape(*shape, -1)
        terms = torch.where(event, waiting.log_prob(gap), torch.where(rest, survival, 0.0))
        if self.mark is not None:
            marks = self._marks(outputs, gap)
            terms = terms + torch.where(event, marks.log_prob(clean[..., 1]), 0.0)
        if self.history is not None:
            terms, agrees = self._given(terms, clean, waiting, shape)
            inside = inside & agrees
        score = torch.where(inside, terms.sum(-1), torch.where(missing, torch.nan, -torch.inf))
        return score.reshape(shape)

    def _given(self, terms: Tensor, rows: Tensor, waiting: WaitingTime, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The terms of what is not known yet, and whether what is known agrees with the history."""
        support, history = self.support, self._history_rows(shape)
        until, times, before = history.until[:, None], support.times(rows), support.before(rows)
        known = support.times(history.events) <= until
        same = rows == history.events if self.mark is None else (rows == history.events).all(-1)
        agrees = torch.where(known, same, times > until).all(-1)
        next_one = ~known & torch.cat([torch.ones_like(known[:, :1]), known[:, :-1]], 1)
        waited = until - before
        counts = next_one & (waited > 0)
        spent = waiting.log_survival(torch.where(counts, waited, 1.0))
        return terms.masked_fill(known, 0.0) - torch.where(counts, spent, 0.0), agrees

    def _outputs(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """What the network gives for each place of events ``(N, *event)``, in one pass."""
        times, before = self.support.times(rows), self.support.before(rows)
        gap = torch.where(times < self.window, times - before, 1.0)
        symbols = torch.stack([times, gap, *([] if self.mark is None else [rows[..., 1]])], -1)
        return full(self.network(symbols, _rows_of(self.context, self.batch_shape, shape)))

    def _waiting(self, outputs: Tensor) -> WaitingTime:
        return self.waiting(outputs[..., : self.waiting.size])

    def _marks(self, outputs: Tensor, gap: Tensor) -> TorchDistributionMixin:
        return self.mark.after(outputs[..., self.waiting.size :], gap)

    def _score_rows(self, value: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        context = self.context if self._remake is None else self._remake(places, shape).context
        history = self.history
        if history is not None:
            events = rearranged(history.events, self.event_shape, shape, places)
            history = EventHistory(events, rearranged(history.until, (), shape, places))
        there = self._altered(context=context, _batch_shape=shape, history=history)
        return there._scored(rearranged(value, self.event_shape, shape, places), shape)

    def _history_rows(self, shape: torch.Size) -> EventHistory:
        events = self.history.events.expand(*shape, *self.event_shape).reshape(-1, *self.event_shape)
        return EventHistory(events, self.history.until.expand(shape).reshape(-1))

    def _complete(self, value: Tensor) -> torch.Size:
        """The batch dimensions of events that are in order."""
        shape = self._common(value)
        require_events(self.support, value, "value", missing=False)
        return shape

    def _common(self, value: Tensor) -> torch.Size:
        if isinstance(value, Tensor) and not value.is_floating_point():
            raise ValueError(f"`value` must hold floating-point numbers, got {value.dtype}")
        return common_batch_shape(
            {"value": batch_shape_of(value, self.event_shape, "value"), "context": self.batch_shape}
        )

    def _rows(self, value: Tensor, shape: torch.Size) -> Tensor:
        return value.expand(*shape, *self.event_shape).reshape(shape.numel(), *self.event_shape)

    def _expanded(self, batch_shape: torch.Size) -> PointProcessDistribution:
        history = self.history
        if history is not None:
            history = EventHistory(
                history.events.expand(batch_shape + self.event_shape), history.until.expand(batch_shape)
            )
        context = _spread(self.context, self.batch_shape, batch_shape)
        return self._altered(context=context, _batch_shape=torch.Size(batch_shape), history=history)

    def _altered(self, **changes: Any) -> PointProcessDistribution:
        altered = copy(self)
        vars(altered).update(changes)
        return altered


def _spread(context: Tensor | None, old: torch.Size, new: torch.Size) -> Tensor | None:
    """What has the batch dimensions in front, with others."""
    return None if context is None else context.expand(*new, *context.shape[len(old) :])


def _rows_of(context: Tensor | None, old: torch.Size, shape: torch.Size) -> Tensor | None:
    """The same with all batch dimensions as one."""
    wide = _spread(context, old, shape)
    return None if wide is None else wide.reshape(shape.numel(), *wide.shape[len(shape) :])
