r"""Temporal point processes: events that come at times :math:`t_1 < t_2 < \dots` in a window :math:`[0, T]`.

Given what came before, :math:`h_i`, the time to the next event has a density :math:`f`, and events have marks:

.. math::
    p(t, m \mid c) = \prod_{i=1}^{n} f(t_i - t_{i-1} \mid h_i) \, p(m_i \mid h_i) \; S(T - t_n \mid h_{n+1}),
    \qquad t_0 = 0 .

The last factor is the probability that nothing comes in the rest of the window; without it nothing is a density over
windows. The *intensity* is the hazard :math:`\lambda(t) = f / S`, and
:math:`\Lambda(t) = \int_0^t \lambda = -\sum \log S` the *compensator*: measured by it, events come as a Poisson process
of rate one, whatever the process was (time rescaling).

An event of the distribution holds up to ``length`` times, and :math:`T` in all places after the last one. If more come,
it is the first ``length`` of them: the window then closes with the last, and no empty rest is scored.

======================  =============================================================
:math:`t_i`, :math:`m_i`  times and marks of events
:math:`T`               the end of the window
:math:`f`, :math:`S`    density and survival function of the time to the next event
:math:`h_i`             what the network makes of the events before the :math:`i`-th
:math:`c`               context
======================  =============================================================

References:
    Daley and Vere-Jones 2003, "An introduction to the theory of point processes", chapter 7,
    https://doi.org/10.1007/b97277
    Shchur, Biloš and Günnemann 2020, "Intensity-free learning of temporal point processes",
    https://arxiv.org/abs/1909.12127
    Hawkes 1971, "Spectra of some self-exciting and mutually exciting point processes",
    https://doi.org/10.1093/biomet/58.1.83
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from pyrogen.arguments import checked, positive
from pyrogen.core.module import DistributionModule
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, ContextShape, Shape, context_batch_shape, embedded
from pyrogen.networks.sequence import SequenceNetwork
from pyrogen.networks.statistics import Statistic, read_by

from ..conditionals import Conditional
from .distribution import PointProcessDistribution
from .events import EventTimes, pack, require_events
from .waiting import MakeWaiting


class PointProcess(DistributionModule):
    """A temporal point process; see :mod:`pyrogen.autoregressive.point_process.model`.

    Args:
        network: A sequence network over events, each ``(time, time since the event before)`` with its mark, if there
            are marks; it gets the (embedded) context. Its outputs hold the numbers of waiting times, then of marks.
        waiting: Makes waiting times of the first ``waiting.size`` numbers of an output.
        event_shape: ``(length,)``, or ``(length, 2)`` for times and marks.
        window: Events are observed from time zero to here, in units of the data.
        mark: Makes the distribution of a mark, a number, of the rest of an output; ``None`` where there are no marks.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        embedding: A network from the context, one batch dimension in front, to what the network takes.

    Raises:
        ValueError: ``window`` is not positive, or ``event_shape`` does not fit the marks.

    Example:
        >>> import pyrogen as pg
        >>> process = pg.autoregressive.point_process((20,), window=5.0, width=16, depth=1)
        >>> process().log_prob(process().sample((3,))).shape
        torch.Size([3])
    """

    @checked(window=positive)
    def __init__(
        self,
        network: SequenceNetwork,
        waiting: MakeWaiting,
        *,
        event_shape: Shape,
        window: float,
        mark: Conditional | None = None,
        context_shape: ContextShape = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        require_layout(self.event_shape, mark is not None)
        self.network = network
        self.waiting = waiting
        self.mark = mark
        self.window = float(window)
        self.embedding = embedding

    @property
    def support(self) -> EventTimes:
        """What events are."""
        return EventTimes(self.window, None if self.mark is None else self.mark.support)

    def forward(self, context: Context = None) -> PointProcessDistribution:
        return PointProcessDistribution(
            self.network,
            self.waiting,
            self.mark,
            length=self.event_shape[0],
            window=self.window,
            batch_shape=context_batch_shape(context, self.context_shape),
            context=embedded(context, self.context_shape, self.embedding),
            remake=None if context is None else Remade(self, context),
        )

    def pack(self, sequences: Sequence[Tensor | Sequence[float]]) -> Tensor:
        """Sequences of any lengths, each of times or of pairs of time and mark, as events of one shape.

        Raises:
            ValueError: a sequence is too long, times do not strictly increase or lie outside the window, or a mark is
                none; the message names the rows.

        Example:
            >>> import pyrogen as pg
            >>> process = pg.autoregressive.hawkes((3,), window=5.0)
            >>> process.pack([[0.5, 2.0], []])
            tensor([[0.5000, 2.0000, 5.0000],
                    [5.0000, 5.0000, 5.0000]])
        """
        return pack(sequences, self.support, self.event_shape[0])

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        if isinstance(x, Tensor) and x.is_floating_point() and x.shape[-len(self.event_shape) :] == self.event_shape:
            require_events(self.support, x, "x")
        yield from super().read_data(x, context)
        times = self.support.times(x)
        yield from read_by(self.waiting, (times - self.support.before(x))[times < self.window])

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.embedding, context)


def require_layout(event_shape: Shape, marked: bool) -> None:
    """Checks that an event holds times, or times and marks.

    Raises:
        ValueError: it does not.
    """
    wanted = "(length, 2), times and marks" if marked else "(length,), of times"
    if len(event_shape) != 1 + marked or (marked and event_shape[1] != 2):
        raise ValueError(f"`event_shape` must be {wanted}, got {event_shape}")
