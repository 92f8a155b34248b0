r"""Autoregressive models: an event as a sequence, one symbol given those before it.

Every distribution is a product of conditionals,

.. math:: p(x \mid c) = \prod_{i=0}^{L-1} p(x_i \mid x_0, \dots, x_{i-1}, c),

in any order of its symbols. A sequence network gives an output :math:`h_i = f(x_{<i}, c)` for each place, and a
*conditional* makes the distribution of :math:`x_i` from it. The log-probability is exact and takes one pass over all
places; a draw goes place by place, and the network keeps what it needs again (:mod:`pyrogen.networks.sequence`).

What comes first in the order can be given: the rest follows exactly. A model over *any order* gets the place that
comes next as an input, so that any part can be given and any part scored. Its distribution is the even mixture over all
orders,

.. math:: p(x) = \frac{1}{L!} \sum_\sigma p_\sigma(x), \qquad
          \log p(x) \ge \mathbb{E}_\sigma [\log p_\sigma(x)],

and its ``log_prob`` this lower bound; along one order it is exact.

======================  =============================================================
:math:`x`               an event, :math:`x_i` its symbols in order
:math:`c`               context
:math:`h_i`             output of the network, ``(features,)``
:math:`\sigma`          an order of the places
======================  =============================================================

References:
    Uria, Cote, Gregor, Murray and Larochelle 2016, "Neural autoregressive distribution estimation",
    https://arxiv.org/abs/1605.02226
    Hoogeboom et al. 2022, "Autoregressive diffusion models", https://arxiv.org/abs/2110.02037
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.arguments import integer
from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, ContextShape, Shape, context_batch_shape, embedded
from pyrogen.distributions.families import Family
from pyrogen.networks.causal_transformer import AnyOrderTransformer
from pyrogen.networks.sequence import SequenceNetwork
from pyrogen.networks.statistics import Statistic, read_by

from .conditionals import Conditional, OfFamily, Without
from .distribution import AutoregressiveDistribution
from .generation import Ending
from .layout import SequenceLayout, check_order

Change = Callable[[Conditional], Conditional]


class SequenceModel(DistributionModule):
    """What a model of one order and one of any order have in common."""

    network: SequenceNetwork | AnyOrderTransformer
    conditional: Conditional
    layout: SequenceLayout
    embedding: nn.Module | None
    ending: Ending | None = None
    orders: int | None = None

    def forward(self, context: Context = None) -> AutoregressiveDistribution:
        return AutoregressiveDistribution(
            self.network,
            self.conditional,
            self.layout,
            batch_shape=context_batch_shape(context, self.context_shape),
            context=embedded(context, self.context_shape, self.embedding),
            ending=self.ending,
            orders=self.orders,
            remake=None if context is None else Remade(self, context),
        )

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.embedding, context)

    @abstractmethod
    def altered(self, change: Change) -> SequenceModel:
        """The same model with its conditional changed; parameters are shared, not copied."""

    @property
    def _shared(self) -> dict[str, Any]:
        """The arguments of models that differ in network, conditional or order alone."""
        return {
            "event_shape": self.event_shape,
            "context_shape": self.context_shape,
            "symbol_axes": self.layout.symbol_axes,
            "embedding": self.embedding,
        }


class Autoregressive(SequenceModel):
    """A distribution over sequences out of a sequence network and a conditional.

    Args:
        network: A sequence network; it gets the (embedded) context.
        conditional: Makes the distribution of a symbol from an output; a family of
            :mod:`pyrogen.distributions.families` serves for the elements of a symbol.
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        symbol_axes: The axes of the event that together make one symbol; see :class:`SequenceLayout`.
        order: Which place comes first, second, ...; row by row if ``None``.
        end: The symbol that ends a sequence, if lengths differ; it is scored, and what follows is padding.
        padding: The symbol after the end, which is impossible before it; ``end`` itself if ``None``.
        embedding: A network from the context, one batch dimension in front, to what the network takes.

    Raises:
        ValueError: axes or order do not fit the event, ``end`` or ``padding`` is no symbol, or ``padding`` is given
            without ``end``.

    Example:
        >>> from pyrogen.autoregressive import transformer
        >>> model = transformer((5,), symbols=3)
        >>> model().log_prob(model().sample((4,))).shape
        torch.Size([4])
    """

    def __init__(
        self,
        network: SequenceNetwork,
        conditional: Conditional | Family,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
        symbol_axes: tuple[int, ...] = (),
        order: Sequence[int] | None = None,
        end: int | None = None,
        padding: int | None = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.network, self.embedding = network, embedding
        self.layout = SequenceLayout(self.event_shape, symbol_axes, None if order is None else tuple(order))
        self.conditional = _conditional(conditional, self.layout)
        if end is None and padding is not None:
            raise ValueError(f"`padding` needs `end`, got {padding} alone")
        _require_symbols(self.conditional, end=end, padding=padding)
        self.ending = None if end is None else Ending(end, end if padding is None else padding)
        if padding is not None and padding != end:
            self.conditional = Without(self.conditional, padding)

    def altered(self, change: Change, network: SequenceNetwork | None = None) -> Autoregressive:
        ending = {} if self.ending is None else {"end": self.ending.end, "padding": self.ending.padding}
        network = self.network if network is None else network
        return Autoregressive(network, change(self.conditional), **self._shared, order=self.layout.order, **ending)


class AnyOrder(SequenceModel):
    """A distribution whose symbols come in any order: any part can be given, and any part scored.

    Its draws follow the even mixture over all orders; ``log_prob`` is a lower bound of theirs, with random orders of
    its own for every row and call. Training raises that bound. :meth:`along` gives the exact model of one order.

    What is given comes first in the order, and all such orders count alike, whatever probability each gives to it. That
    is the conditional of the mixture only as far as the orders agree on it.

    Args:
        network: A network for any order.
        conditional: Makes the distribution of a symbol from an output.
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        symbol_axes: The axes of the event that together make one symbol; see :class:`SequenceLayout`.
        embedding: A network from the context, one batch dimension in front, to what the network takes.
        orders: How many random orders each row is scored in; the more, the tighter the bound.

    Raises:
        ValueError: axes do not fit the event, or ``orders`` is not positive.
    """

    density: Density = "lower bound"

    def __init__(
        self,
        network: AnyOrderTransformer,
        conditional: Conditional | Family,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
        symbol_axes: tuple[int, ...] = (),
        embedding: nn.Module | None = None,
        orders: int = 1,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.network, self.embedding, self.orders = network, embedding, integer(orders, "orders")
        self.layout = SequenceLayout(self.event_shape, symbol_axes)
        self.conditional = _conditional(conditional, self.layout)

    def along(self, order: Sequence[int] | None = None) -> Autoregressive:
        """The exact model of one order, row by row if ``None``; it shares the parameters.

        Raises:
            ValueError: ``order`` does not name each place once.
        """
        order = tuple(range(self.layout.length) if order is None else order)
        check_order(order, self.layout.length)
        return Autoregressive(self.network.ordered(order), self.conditional, **self._shared, order=order)

    def altered(self, change: Change) -> AnyOrder:
        return AnyOrder(self.network, change(self.conditional), **self._shared, orders=self.orders)


def _require_symbols(conditional: Conditional, **special: int | None) -> None:
    """Raises a ValueError unless the special ones are single symbols of the conditional."""
    for name, symbol in special.items():
        if symbol is None:
            continue
        if conditional.symbol_shape or not bool(conditional.support.check(torch.tensor(symbol))):
            shape = f" of shape {tuple(conditional.symbol_shape)}" if conditional.symbol_shape else ""
            raise ValueError(f"`{name}` must be one of the symbols{shape} within {conditional.support}, got {symbol}")


def _conditional(conditional: Conditional | Family, layout: SequenceLayout) -> Conditional:
    if not isinstance(conditional, Conditional):
        conditional = OfFamily(conditional, tuple(layout.symbol_shape))
    if tuple(conditional.symbol_shape) != tuple(layout.symbol_shape):
        raise ValueError(
            f"`conditional` must make symbols of shape {tuple(layout.symbol_shape)}, "
            f"got {tuple(conditional.symbol_shape)}"
        )
    return conditional
