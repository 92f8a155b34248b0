r"""Critics of log-ratios: a quadratic form, and a network beside it.

The log-ratio of two normal distributions is a quadratic function,

.. math:: h(x, c) = v^\top A v + a^\top v + b + g(v) , \qquad v = (x, c) ,

and a network alone takes long to learn one in many dimensions: it has to find all products of pairs. So they are given
to it, and the network :math:`g` learns what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, instance_of
from pyrogen.core.shapes import Context, ContextShape, Shape, context_of_each
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.statistics import ReadsData, Statistic

_GAIN = 32.0
"""Of the parameters: log-ratios have coefficients of order one to ten, which Adam reaches in steps of 1e-3 then."""


class QuadraticCritic(ReadsData, nn.Module):
    """A quadratic function of an event and its context, which starts at zero; a network may stand beside it.

    Events are numbers of order one, as a ratio estimate gives them to its critics.

    Args:
        event_shape: Shape of one event, of which all elements are inputs.
        context: What becomes of a context, one vector; ``None`` if there is none.
        network: From vectors ``(N, size)`` of event and context, standardized, to ``(N, 1)``.

    Shape:
        Events ``(N, *event_shape)`` and contexts ``(N, *context_shape)`` to ``(N,)``.

    Example:
        >>> QuadraticCritic((3,))(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    @checked(context=instance_of(VectorContext))
    def __init__(
        self, event_shape: Shape, context: VectorContext | None = None, network: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.context = context if context is not None and context.size else None
        size = prod(self.event_shape) + (self.context.size if self.context is not None else 0)
        self.matrix = nn.Parameter(torch.zeros(size, size))
        self.linear = nn.Parameter(torch.zeros(size))
        self.constant = nn.Parameter(torch.zeros(()))
        self.network = network

    @property
    def context_shape(self) -> ContextShape:
        """Shape of the context, a dict of shapes, or ``None``."""
        return None if self.context is None else self.context.context_shape

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        context = context_of_each(x, context, self.event_shape, self.context_shape)
        v = x.reshape(len(x), prod(self.event_shape))
        if self.context is not None:
            v = torch.cat([v, self.context(context)], -1)
        # The trace makes the form zero on average over standardized data, so that the constant is learned apart.
        form = ((v @ self.matrix) * v).sum(-1) - self.matrix.trace()
        score = _GAIN * (form / max(len(self.linear), 1) ** 0.5 + v @ self.linear + self.constant)
        return score if self.network is None else score + self.network(v).squeeze(-1)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return iter(()) if self.context is None else self.context.read_data(context)
