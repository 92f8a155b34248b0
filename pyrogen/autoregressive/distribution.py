"""The distribution of all models here: a product of conditionals, scored in one pass and drawn step by step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.core.density import Density
from pyrogen.core.shapes import Context, batch_shape_of, common_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.absorbing import random_orders
from pyrogen.numerics.autograd import full, is_functional
from pyrogen.numerics.rows import Remake, rearranged, spared
from pyrogen.programs.chain import refuse_chain

from .conditionals import Conditional
from .generation import Ending, generate
from .given import Known, aligned, event_of, like, places_of, require_first, whole
from .layout import SequenceLayout
from .symbols import SymbolSpace


class AutoregressiveDistribution(PyrogenDistribution):
    r"""A distribution as a product of conditionals, :math:`p(x) = \prod_i p(x_i \mid x_{<i})`.

    Made by :class:`~pyrogen.autoregressive.model.Autoregressive` and
    :class:`~pyrogen.autoregressive.model.AnyOrder`, not by hand.

    Args:
        network: A sequence network; with ``orders`` one that is ``ordered(order)`` first.
        conditional: Makes the distribution of a symbol from an output.
        layout: The event as a sequence.
        batch_shape: Batch dimensions.
        context: What the network gets, with the batch dimensions in front.
        ending: How sequences end, if their lengths differ.
        known: The part that is given.
        orders: If given, each row is scored in so many random orders and drawn in one.
        remake: Gives the same distribution for rows of its context in other places.
    """

    has_given = True

    def __init__(
        self,
        network: nn.Module,
        conditional: Conditional,
        layout: SequenceLayout,
        *,
        batch_shape: Iterable[int] = (),
        context: Context = None,
        ending: Ending | None = None,
        known: Known | None = None,
        orders: int | None = None,
        remake: Remake | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.conditional, self.layout = network, conditional, layout
        self.context, self.ending, self.known, self.orders = context, ending, known, orders
        self._remake = remake
        super().__init__(torch.Size(batch_shape), torch.Size(layout.event_shape), validate_args=validate_args)

    @property
    def density(self) -> Density:
        """Exact; with random orders a lower bound of the even mixture over all orders."""
        return "exact" if self.orders is None else "lower bound"

    @cached_property
    def symbol_support(self) -> constraints.Constraint:
        """The support of each element of an event."""
        return self.conditional.support

    @cached_property
    def _space(self) -> SymbolSpace:
        return SymbolSpace(self.symbol_support, self.layout)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.symbol_support, len(self.event_shape))

    def _expanded(self, batch_shape: torch.Size) -> AutoregressiveDistribution:
        return self._altered(batch_shape, *self._spread((self.context, self.known), batch_shape))

    def given(self, values: Tensor, mask: Tensor) -> AutoregressiveDistribution:
        """The distribution of the whole event given a part of it.

        Args:
            values: Events ``(*batch, *event)``; only what is known by the mask counts.
            mask: Boolean, of the same shape or one that broadcasts to it: what is known. It must come first in the
                order, in each row for itself, unless the model takes any order.

        Returns:
            A distribution over whole events. Its draws repeat what is known; its ``log_prob`` is that of the rest, and
            minus infinity where an event differs from what is known.

        Raises:
            ValueError: the mask is not boolean, or a known symbol is out of range, comes after one that is unknown,
                differs from what is given already, or is padding before the end or anything else after it.
        """
        places = places_of(mask, self.layout, "mask")
        batch = self._common(values=batch_shape_of(values, self.event_shape, "values"), mask=places.shape[:-1])
        symbols = self.layout.flatten(values)
        symbols = symbols.expand(*batch, *symbols.shape[values.dim() - len(self.event_shape) :])
        places = places.expand(*batch, -1)
        if self.known is not None:
            old = self._spread(self.known, batch)
            clash = places & old.differs(symbols)
            self._space.refuse(symbols, clash, "`values` must agree with what is given already")
            symbols = torch.where(like(old.mask, self.layout.symbol_shape), old.symbols.to(symbols.dtype), symbols)
            places = places | old.mask
        if self.orders is None:
            require_first(places, "mask")
        self._space.require_inside(symbols, self._space.contains(symbols) | ~places, "values")
        if self.ending is not None:
            self._space.require_padding(symbols, places, self.ending)
        known = Known(self._space.kept(symbols, places), places)
        return self._altered(batch, self._spread(self.context, batch), known)

    def complete(self, prompts: Sequence[Tensor | Sequence[int]]) -> AutoregressiveDistribution:
        """The distribution of whole sequences that begin with prompts, which may differ in length.

        Args:
            prompts: One sequence of symbols a row, which are those of the first places of the event, row by row; after
                an empty one the whole sequence is free.

        Raises:
            ValueError: a prompt is longer than a whole sequence, holds a symbol of another shape or out of range, or
                ends where a model with an ``order`` of its own has not taken all that precedes.
        """
        symbols, mask = aligned(prompts, self.layout.length, self.layout.symbol_shape)
        device, places = next(self.network.parameters()).device, replace(self.layout, order=None)
        mask = event_of(mask.to(device), places)
        if self.orders is None:
            require_first(places_of(mask, self.layout, "prompts"), "prompts")
        return self.given(places.unflatten(symbols.to(device)), mask)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        if not shape.numel():
            return self.layout.unflatten(self.filler_symbols(shape))
        order = self._orders(shape.numel(), self._rows(self.known, shape), None)
        symbols = torch.stack([*self._generate(shape, order)], 1)
        missing = self.layout.length - symbols.shape[1]
        if missing:
            rest = symbols.new_full((len(symbols), missing), self.ending.padding)
            symbols = torch.cat([symbols, rest], 1)
        if order is not None:
            symbols = _permuted(symbols, order.argsort(-1))
        return self.layout.unflatten(symbols.reshape(*shape, *symbols.shape[1:]))

    def stream(self, sample_shape: Iterable[int] = ()) -> Iterator[Tensor]:
        """The symbols of a draw, each as soon as it is known: ``(*sample_shape, *batch, *symbol)``, in their order.

        Raises:
            NotImplementedError: each row has a random order of its own.
        """
        if self.orders is not None:
            raise NotImplementedError("rows have random orders of their own; stream a model `along(order)` instead")
        shape = torch.Size(sample_shape) + self.batch_shape
        return (symbol.reshape(shape + symbol.shape[1:]) for symbol in self._generate(shape, None))

    def log_prob(self, value: Tensor) -> Tensor:
        return self._score(value, None)

    def part_log_prob(self, value: Tensor, part: Tensor) -> Tensor:
        r"""The log-probability of a part of the event, whatever the rest: :math:`\log p(x_S)`.

        Args:
            value: Events; what is not in the part does not count.
            part: Boolean, of the event's shape or one that broadcasts to it: what the part is. Together with what is
                given it must come first in the order, unless the model takes any order.

        Raises:
            ValueError: an element of the part comes after one that is neither in it nor given.
        """
        return self._score(value, places_of(part, self.layout, "part"))

    def symbol_log_probs(self, value: Tensor) -> Tensor:
        """The terms whose sum is ``log_prob``, in the order of the sequence, ``(*batch, length)``.

        Raises:
            NotImplementedError: each row has a random order of its own.
        """
        if self.orders is not None:
            raise NotImplementedError("rows have random orders of their own; take a model `along(order)` instead")
        shape = self._common(value=batch_shape_of(value, self.event_shape, "value"))
        symbols, context, known = self._symbols(value, shape), *self._rows((self.context, self.known), shape)
        self._require_inside(symbols)
        return self._terms_given(self.network, symbols, context, known).reshape(*shape, self.layout.length)

    def conditionals(self, value: Tensor) -> TorchDistributionMixin:
        """The distributions of each symbol given those before it, ``(*batch, length)`` of them, in their order.

        They are those of the network, also where symbols are given or the sequence has ended. After a symbol that is
        missing (NaN), or is none, they are NaN.

        Raises:
            NotImplementedError: each row has a random order of its own.
            ValueError: a symbol is none, where torch validates the arguments of distributions.
        """
        if self.orders is not None:
            raise NotImplementedError("rows have random orders of their own; take a model `along(order)` instead")
        shape = self._common(value=batch_shape_of(value, self.event_shape, "value"))
        symbols = self._symbols(value, shape)
        self._require_inside(symbols)
        inside = self._space.contains(symbols)
        outputs = full(self.network(self._space.kept(symbols, inside), self._rows(self.context, shape)))
        lost = (~inside).cumsum(-1) > (~inside).long()  # a bad symbol came before
        outputs = outputs.masked_fill(lost.unsqueeze(-1), torch.nan)
        return self.conditional(outputs.reshape(*shape, *outputs.shape[1:]))

    def lengths(self, value: Tensor) -> Tensor:
        """How many symbols of each event count, the end included: ``batch``."""
        if self.ending is None:
            batch = batch_shape_of(value, self.event_shape, "value")
            return torch.full(batch, self.layout.length, device=value.device)
        symbols = self.layout.flatten(value)
        return (~self.ending.ended(symbols.reshape(-1, self.layout.length))).sum(-1).reshape(symbols.shape[:-1])

    def select(self, rows: Tensor) -> AutoregressiveDistribution:
        """The distributions of some rows of the flattened batch, ``(len(rows),)``."""
        parts = self._rows((self.context, self.known), self.batch_shape)
        selected = self._altered(torch.Size([len(rows)]), *_each(lambda part: part[rows], parts))
        selected._remake = None  # it would need the contexts of these rows alone
        return selected

    def _common(self, **shapes: torch.Size) -> torch.Size:
        return common_batch_shape({**shapes, "context": self.batch_shape})

    def _score(self, value: Tensor, part: Tensor | None) -> Tensor:
        parts = {} if part is None else {"part": part.shape[:-1]}
        shape = self._common(value=batch_shape_of(value, self.event_shape, "value"), **parts)
        first, again = partial(self._scored, value, part, shape), partial(self._score_rows, value, part)
        return spared(first, again, self._remake, noisy=None if self.orders is None else value.device)

    def _score_rows(self, value: Tensor, part: Tensor | None, places: Tensor, shape: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        context, known = _each(lambda rows: rows[places].reshape(*shape, *rows.shape[1:]),
                               self._rows((self.context, self.known), shape))  # fmt: skip
        if self._remake is not None:
            context = self._remake(places, shape).context
        value = rearranged(value, self.event_shape, shape, places)
        part = None if part is None else rearranged(part, part.shape[-1:], shape, places)
        return self._altered(shape, context, known)._scored(value, part, shape)

    def _scored(self, value: Tensor, part: Tensor | None, shape: torch.Size) -> Tensor:
        symbols, context, known = self._symbols(value, shape), *self._rows((self.context, self.known), shape)
        if part is not None:
            part = part.expand(*shape, -1).reshape(-1, self.layout.length)
            symbols = self._around(part, symbols, known)
        self._require_inside(symbols)
        if self.orders is None:
            return self._total(self.network, symbols, context, known, part).reshape(shape)
        refuse_chain("a model in random orders", "score along one order, as `along(order)` does")
        totals = []
        for _ in range(self.orders):
            order = self._orders(len(symbols), known, part)
            in_order, known_in_order, part_in_order = _permuted((symbols, known, part), order)
            network = self.network.ordered(order)
            totals.append(self._total(network, in_order, context, known_in_order, part_in_order))
        return (torch.stack(totals).logsumexp(0) - math.log(self.orders)).reshape(shape)

    def _around(self, part: Tensor, symbols: Tensor, known: Known | None) -> Tensor:
        """The symbols of a part, with what is known, and a filler for the rest."""
        symbols = self._space.kept(symbols, part)
        if known is not None:
            seen = like(known.mask & ~part, self.layout.symbol_shape)
            symbols = torch.where(seen, known.symbols.to(symbols.dtype), symbols)
        if self.orders is None:
            require_first(part if known is None else part | known.mask, "part")
        return symbols

    def _total(
        self, network: nn.Module, symbols: Tensor, context: Context, known: Known | None, part: Tensor | None
    ) -> Tensor:
        terms = self._terms_given(network, symbols, context, known)
        return (terms if part is None else terms.masked_fill(~part, 0.0)).sum(-1)

    def _terms_given(self, network: nn.Module, symbols: Tensor, context: Context, known: Known | None) -> Tensor:
        """The log-probability of each symbol given those before it and what is known, ``(N, L)``."""
        terms = self._terms(network, symbols, context)
        if known is None:
            return terms
        return terms.masked_fill(known.mask, 0.0).masked_fill(known.differs(symbols), -torch.inf)

    def _terms(self, network: nn.Module, symbols: Tensor, context: Context) -> Tensor:
        """The log-probability of each symbol given those before it, ``(N, L)``."""
        inside = self._space.contains(symbols)
        clean = self._space.kept(symbols, inside)
        terms = self.conditional(full(network(clean, context))).log_prob(clean)
        # A bad symbol spoils its own row only: NaN stays NaN, all else outside the support is impossible.
        number = whole(~symbols.isnan(), 2)
        terms = torch.where(inside, terms, torch.where(number, -torch.inf, torch.nan))
        if self.ending is None:
            return terms
        padded = torch.where(symbols == self.ending.padding, 0.0, torch.where(number, -torch.inf, torch.nan))
        return torch.where(self.ending.ended(symbols), padded, terms)

    def _generate(self, shape: torch.Size, order: Tensor | None) -> Iterator[Tensor]:
        known, network = self._rows(self.known, shape), self.network
        if order is not None:
            known, network = _permuted(known, order), network.ordered(order)
        return generate(
            network,
            self.conditional,
            shape.numel(),
            self._rows(self.context, shape),
            length=self.layout.length,
            known=known,
            ending=self.ending,
        )

    def _orders(self, rows: int, known: Known | None, part: Tensor | None) -> Tensor | None:
        """A random order for each row, ``(N, L)``: first what is known, then the part, then the rest."""
        if self.orders is None:
            return None
        first = (None if known is None else known.mask, part)
        return random_orders(rows, self.layout.length, first, next(self.network.parameters()).device)

    def _symbols(self, value: Tensor, shape: torch.Size) -> Tensor:
        symbols = self.layout.flatten(value)
        tail = symbols.shape[symbols.dim() - 1 - len(self.layout.symbol_axes) :]
        return symbols.expand(*shape, *tail).reshape(-1, *tail)

    def _require_inside(self, symbols: Tensor) -> None:
        if self._validate_args:
            inside = self._space.contains(symbols) | self._space.missing(symbols)  # what is missing is scored as NaN
            if not is_functional((inside,)):
                self._space.require_inside(symbols, inside, "value")

    def filler(self) -> Tensor:
        """A point of the support of the shape of one draw, with what is known; no draw."""
        symbols = self.filler_symbols(self.batch_shape)
        if self.known is not None:
            known = like(self.known.mask, self.layout.symbol_shape)
            symbols = torch.where(known, self.known.symbols.to(symbols.dtype), symbols)
        return self.layout.unflatten(symbols)

    def filler_symbols(self, shape: torch.Size) -> Tensor:
        """Symbols of the dtype of draws, in place of those to come, ``(*shape, length, *symbol)``."""
        parameter = next(self.network.parameters())
        symbol = self.conditional(parameter.new_zeros(self.conditional.size)).sample()
        symbols = symbol.new_zeros(*shape, self.layout.length, *self.layout.symbol_shape)
        return symbols + self._space.filler(symbols)

    def _spread(self, parts: Any, shape: torch.Size) -> Any:
        """What has the batch dimensions in front, with others."""
        old = len(self.batch_shape)
        return _each(lambda part: part.expand(*shape, *part.shape[old:]), parts)

    def _rows(self, parts: Any, shape: torch.Size) -> Any:
        """The same with all batch dimensions as one."""
        return _each(lambda part: part.reshape(-1, *part.shape[len(shape) :]), self._spread(parts, shape))

    def _altered(self, batch_shape: torch.Size, context: Context, known: Known | None) -> AutoregressiveDistribution:
        altered = copy(self)
        altered.context, altered.known, altered._batch_shape = context, known, torch.Size(batch_shape)
        return altered


def _each(function: Any, parts: Any) -> Any:
    if isinstance(parts, Tensor):
        return function(parts)
    if isinstance(parts, Known):
        return Known(function(parts.symbols), function(parts.mask))
    if isinstance(parts, Mapping):
        return {key: function(part) for key, part in parts.items()}
    if isinstance(parts, tuple):
        return tuple(_each(function, part) for part in parts)
    return parts


def _permuted(parts: Any, order: Tensor) -> Any:
    """``(N, L, *symbol)`` with the places of each row in the row's order."""
    return _each(lambda part: part.gather(1, like(order, part.shape[2:]).expand_as(part)), parts)
