r"""Transforms that map some elements of an event as a network says that sees some: coupling and autoregressive alike.

Of a vector :math:`x`, the network sees :math:`x_s` and the elements :math:`x_m` are moved,

.. math:: y_m = g(x_m; \theta(x_s)), \qquad \log |\det J| = \sum_{i \in m} \log g_i',

the others stay. It is written twice. The definition is made of differentiable operations and is used by ``torch.func``,
``torch.compile`` and second derivatives. Else, network and elements are one node of the graph, with one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from pyrogen.networks.weighted import Weighted
from pyrogen.numerics.autograd import differentiated, in_full_precision, is_functional

from .fused import Written


class Move(NamedTuple):
    """What is done to which elements.

    Args:
        seen: Indices of the elements the network sees; all in their order if ``None``.
        moved: Indices of the elements that are moved; if ``None`` or ``seen``, those the network sees.
        back: If all are moved, what puts them into the old order.
        map: How, by differentiable operations.
        written: The same with its backward pass written out, if it is.
    """

    seen: Tensor | None
    moved: Tensor | None
    back: Tensor | None
    map: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    written: Written | None

    def take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The elements that are seen, and those that are moved, from ``(D, N)``."""
        seen = x if self.seen is None else x.index_select(0, self.seen)
        return seen, seen if self.moved is self.seen else x.index_select(0, self.moved)

    def put(self, moved: Tensor, into: Tensor) -> Tensor:
        """The vectors ``into`` with moved elements in their places."""
        if self.moved is None:
            return moved
        return into.index_copy(0, self.moved, moved) if self.back is None else moved.index_select(0, self.back)


def moved(network: Weighted, move: Move, x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors ``(*batch, D)``, some of their elements moved, and the log-determinant of shape ``batch``.

    The batch dimensions of ``x`` and of the network's context broadcast.
    """
    batch, network = x.shape[:-1], network.projecting()
    if network.batch_shape:
        batch = torch.broadcast_shapes(batch, network.batch_shape)
        x, network = x.expand(*batch, x.shape[-1]), network.for_rows(batch)
    rows = x if len(batch) == 1 else x.reshape(prod(batch), x.shape[-1])
    network = network.dropping(rows.shape[0])
    y, log_det = _moved(network, move, rows)
    return (y, log_det) if len(batch) == 1 else (y.reshape(*batch, y.shape[-1]), log_det.reshape(batch))


def _moved(network: Weighted, move: Move, x: Tensor) -> tuple[Tensor, Tensor]:
    tensors = network.tensors
    given = [x, *tensors] if network.projected is None else [x, network.projected, *tensors]
    if move.written is None or not network.has_passes or x.shape[0] == 0 or is_functional(given):
        return _defined(network, move, x)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return _Moved.apply(network, move, x, network.projected, *tensors)
    return _evaluated(network.prepared(), move, x)[:2]


def _defined(network: Weighted, move: Move, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.T  # (D, N)
    seen, taken = move.take(x)
    value, log_slope = move.map(network(seen.T), taken)
    return move.put(value, x).T, log_slope.sum(0)


def _given(
    network: Weighted, move: Move, x: Tensor, projected: Tensor | None, *tensors: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition as a function of all tensors it depends on."""
    return _defined(network.given(tensors, projected), move, x)


class _Tape(NamedTuple):
    network: Weighted
    seen: Tensor
    hidden: list[Tensor]
    kept: list[tuple[Tensor, ...]]  # by the elements, part by part


def _evaluated(network: Weighted, move: Move, x: Tensor) -> tuple[Tensor, Tensor, _Tape]:
    x = x.t().contiguous()  # (D, N)
    seen, taken = move.take(x)
    hidden, rows = network.hidden(seen.t()), x.shape[1]
    values, kept, log_det = [], [], None
    for part in network.structure.parts:
        parameters = network.outputs(hidden[-1], part)
        value, log_slope, keep = move.written.evaluate(parameters, taken[part.rows].view(-1))
        log_slope = log_slope.view(-1, rows).sum(0)
        log_det = log_slope if log_det is None else log_det + log_slope
        values.append(value)
        kept.append(keep)
    value = values[0] if len(values) == 1 else torch.cat(values)
    return move.put(value.view_as(taken), x).t(), log_det, _Tape(network, seen, hidden, kept)


class _Moved(Function):
    """Network and elements as one node."""

    @staticmethod
    def forward(
        ctx: Any, network: Weighted, move: Move, x: Tensor, projected: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, log_det, ctx.tape = _evaluated(network.prepared(), move, x)
        ctx.network, ctx.move = network, move
        ctx.save_for_backward(x, projected, *tensors)
        return y, log_det

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, g_y: Tensor, g_log: Tensor) -> tuple:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, *differentiated(partial(_given, ctx.network, ctx.move), inputs, (g_y, g_log))
        by_x, by_first, *by_layers = _gradients(ctx.move, ctx.tape, g_y, g_log, ctx.needs_input_grad[2])
        for mask, by_weight in zip(ctx.network.masks, by_layers[::2], strict=False):
            by_weight *= mask
        return None, None, by_x, by_first if ctx.needs_input_grad[3] else None, *by_layers


def _gradients(move: Move, tape: _Tape, g_y: Tensor, g_log: Tensor, by_input: bool) -> list[Tensor | None]:
    network, g_y = tape.network, g_y.t().contiguous()  # (D, N)
    g_value = g_y if move.moved is None else g_y.index_select(0, move.moved)
    g_log = g_log.expand_as(g_value).contiguous()
    by_parameters, by_moved = [], []
    for (rows, _), kept in zip(network.structure.parts, tape.kept, strict=True):
        by_part, by_value = move.written.gradients(kept, g_value[rows].view(-1), g_log[rows].view(-1))
        by_parameters.append(by_part)
        by_moved.append(by_value)
    by_units, by_weight, by_bias = network.outputs_gradients(tape.hidden[-1], by_parameters)
    by_seen, by_first, by_layers = network.hidden_gradients(tape.seen.t(), tape.hidden, by_units, by_input=by_input)
    by_x = None
    if by_seen is not None:
        by_value = (by_moved[0] if len(by_moved) == 1 else torch.cat(by_moved)).view_as(g_value)
        by_x = _put_gradients(move, g_y, by_value, by_seen.t()).t()
    return [by_x, by_first, *by_layers, by_weight, by_bias]


def _put_gradients(move: Move, g_y: Tensor, by_moved: Tensor, by_seen: Tensor) -> Tensor:
    if move.moved is move.seen:
        return move.put(by_moved.add_(by_seen), g_y)
    return move.put(by_moved, g_y).index_add_(0, move.seen, by_seen)
