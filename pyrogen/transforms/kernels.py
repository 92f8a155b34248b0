"""Fused versions of definitions: elementwise maps, and a conditioner with its elements, as one node of the graph.

A chain of small operations leaves a graph of many nodes, each of which keeps its own tensors and runs its own backward
step. Here whole chains are one node, whose backward pass is written by hand, works in place, and leaves out the blocks
of a masked weight that are zero. What they compute is defined by :meth:`ElementKernel.forward` for elementwise maps,
and by :func:`~pyrogen.transforms.coupling.definition` for a conditioner with its elements: those are used under
``torch.func`` and ``torch.compile`` and are differentiated anew where a second derivative is wanted.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from pyrogen.networks.blocks import Blocks, MatrixBlock, upright
from pyrogen.networks.weighted import Weighted
from pyrogen.numerics.autograd import differentiated, in_full_precision, is_functional

from .elements import Element, ElementKernel, Split

_WIDE = 100
"""From so many outputs on, keeping hidden units feature-major pays (measured)."""


def elementwise(kernel: ElementKernel, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The value of a map and the logarithm of its slope, for parameters of shape ``(size, *x.shape)``."""
    if x.numel() == 0:
        empty = x + parameters.sum(0)
        return empty, empty
    flat = parameters.reshape(len(parameters), -1), x.reshape(-1)
    if torch.is_grad_enabled() and any(part.requires_grad for part in flat) and not is_functional(flat):
        value, log_slope = _Elementwise.apply(*flat, kernel)
    else:
        value, log_slope, _ = kernel.forward(*flat)
    return value.reshape(x.shape), log_slope.reshape(x.shape)


class FusedElement(Element):
    """An element whose backward passes are written by hand."""

    @abstractmethod
    def kernel(self, inverse: bool) -> ElementKernel: ...

    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return elementwise(self.kernel(False), parameters, x)

    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return elementwise(self.kernel(True), parameters, y)


class _Elementwise(Function):
    @staticmethod
    def forward(ctx: Any, parameters: Tensor, x: Tensor, kernel: ElementKernel) -> tuple[Tensor, Tensor]:
        value, log_slope, saved = kernel.forward(parameters, x)
        ctx.kernel = kernel
        ctx.save_for_backward(parameters, x, *saved)
        return value, log_slope

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, g_value: Tensor, g_log: Tensor) -> tuple:
        parameters, x, *saved = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return *ctx.kernel.backward(tuple(saved), g_value, g_log), None
        found = differentiated(lambda *given: ctx.kernel.forward(*given)[:2], (parameters, x), (g_value, g_log))
        return *found, None


def conditional(
    network: Weighted,
    split: Split,
    kernel: ElementKernel | None,
    definition: Callable[[Weighted, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
) -> tuple[Tensor, Tensor]:
    """What ``definition(network, x)`` gives of vectors ``(N, D)``, fused where that can be."""
    inputs = [x, *network.tensors] if network.projected is None else [x, network.projected, *network.tensors]
    rectifies = isinstance(network.structure.activation, nn.ReLU)
    if kernel is None or not rectifies or network.angles is not None or len(x) == 0 or is_functional(inputs):
        return definition(network, x)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Conditional.apply(network, split, kernel, definition, x, network.projected, *network.tensors)
    return _forward(network.premultiplied(), split, kernel, x)[:2]


class _Tape(NamedTuple):
    network: Weighted
    seen: Tensor
    hidden: list[Tensor]
    saved: list[tuple[Tensor, ...]]  # by the elements, part by part


class _Conditional(Function):
    """Network and elements as one node."""

    @staticmethod
    def forward(
        ctx: Any,
        network: Weighted,
        split: Split,
        kernel: ElementKernel,
        definition: Callable[[Weighted, Tensor], tuple],
        x: Tensor,
        projected: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y, log_det, ctx.tape = _forward(network.premultiplied(), split, kernel, x)
        ctx.network, ctx.split, ctx.kernel, ctx.definition = network, split, kernel, definition
        ctx.save_for_backward(x, projected, *tensors)
        return y, log_det

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, g_y: Tensor, g_log: Tensor) -> tuple:
        if torch.is_grad_enabled():

            def defined(x: Tensor, projected: Tensor | None, *tensors: Tensor) -> tuple[Tensor, Tensor]:
                return ctx.definition(ctx.network.given(tensors, projected), x)

            return *[None] * 4, *differentiated(defined, ctx.saved_tensors, (g_y, g_log))
        *_, need_x, need_projected = ctx.needs_input_grad[:6]
        by_x, by_first, *by_layers = _backward(ctx.tape, ctx.split, ctx.kernel, g_y, g_log, by_input=need_x)
        for mask, by_weight in zip(ctx.network.masks, by_layers[::2], strict=False):
            by_weight *= mask
        return *[None] * 4, by_x, by_first if need_projected else None, *by_layers


def _forward(network: Weighted, split: Split, kernel: ElementKernel, x: Tensor) -> tuple[Tensor, Tensor, _Tape]:
    x = x.t().contiguous()  # (D, N)
    seen, given = split.take(x)
    hidden, rows = hidden_units(network, seen.t()), x.shape[1]
    values, saved, log_det = [], [], None
    for part in network.structure.parts:
        parameters = outputs(network, hidden[-1], part)
        value, log_slope, keep = kernel.forward(parameters, given[part.rows].view(-1))
        log_slope = log_slope.view(-1, rows).sum(0)
        log_det = log_slope if log_det is None else log_det + log_slope
        values.append(value)
        saved.append(keep)
    value = values[0] if len(values) == 1 else torch.cat(values)
    return split.join(value.view_as(given), x).t(), log_det, _Tape(network, seen, hidden, saved)


def _backward(
    tape: _Tape, split: Split, kernel: ElementKernel, g_y: Tensor, g_log: Tensor, *, by_input: bool
) -> list[Tensor | None]:
    """Gradients with respect to ``x``, the projected context, and the layers."""
    network, g_y = tape.network, g_y.t().contiguous()  # (D, N)
    g_value = g_y if split.mapped is None else g_y.index_select(0, split.mapped)
    g_log = g_log.expand_as(g_value).contiguous()
    by_parameters, by_mapped = [], []
    for (rows, _), saved in zip(network.structure.parts, tape.saved, strict=True):
        by_part, by_value = kernel.backward(saved, g_value[rows].view(-1), g_log[rows].view(-1))
        by_parameters.append(by_part)
        by_mapped.append(by_value)
    by_units, *last = outputs_backward(network, tape.hidden[-1], by_parameters)
    by_seen, by_first, layers = hidden_backward(network, tape.seen.t(), tape.hidden, by_units, by_input=by_input)
    by_x = None
    if by_seen is not None:
        by_value = (by_mapped[0] if len(by_mapped) == 1 else torch.cat(by_mapped)).view_as(g_value)
        if split.mapped is split.seen:
            by_x = split.join(by_value.add_(by_seen.t()), g_y).t()
        else:
            by_x = split.join(by_value, g_y).index_add_(0, split.seen, by_seen.t()).t()
    return [by_x, by_first, *layers, *last]


def hidden_units(network: Weighted, x: Tensor) -> list[Tensor]:
    """The hidden units of each layer, ``(N, units)``, from ``x`` of shape ``(N, inputs)``."""
    found, wide = [], _is_wide(network)
    for index, ((weight, bias), blocks) in enumerate(zip(network.layers, network.structure.blocks, strict=False)):
        x = linear(x, weight, bias, blocks, wide)
        if network.projected is not None and index == 0:
            x += network.projected
        x.relu_()
        if network.dropped:
            x *= network.dropped[index]
        found.append(x)
    return found


def hidden_backward(
    network: Weighted, x: Tensor, hidden: Sequence[Tensor], gradient: Tensor, *, by_input: bool
) -> tuple[Tensor | None, Tensor, list[Tensor]]:
    """Gradients with respect to ``x`` (if asked for), the first units before their nonlinearity, and the layers.

    Args:
        network: As for :func:`hidden_units`.
        x: What that function was given.
        hidden: What it gave.
        gradient: With respect to the last of it; overwritten.
        by_input: Whether the gradient with respect to ``x`` is needed.
    """
    found: list[Tensor] = []
    for index in range(len(hidden) - 1, -1, -1):
        if network.dropped:
            gradient *= network.dropped[index]
        torch.ops.aten.threshold_backward.grad_input(gradient, hidden[index], 0, grad_input=gradient)
        weight, blocks = network.layers[index][0], network.structure.blocks[index]
        if index:
            found[:0] = linear_by_weight(gradient, hidden[index - 1], blocks), gradient.sum(0)
            gradient = linear_by_input(gradient, weight, blocks, _is_wide(network))
    found[:0] = (x.t() @ gradient).t(), gradient.sum(0)  # few inputs: this order is the fastest
    return (weight.t() @ gradient.t()).t() if by_input else None, gradient, found


def outputs(network: Weighted, units: Tensor, part: MatrixBlock) -> Tensor:
    """The parameters of some features, ``(parameters, features * N)``, from the last hidden units."""
    weight, bias = network.layers[-1]
    if len(network.structure.parts) > 1:
        weight, bias, units = weight[:, part.rows, part.columns], bias[:, part.rows], units[:, part.columns]
    out = torch.addmm(bias.reshape(-1, 1), weight.flatten(0, 1), units.t())
    return out.view(weight.shape[0], -1)


def outputs_backward(network: Weighted, units: Tensor, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to the last hidden units, weight and bias, from those of :func:`outputs` of each part."""
    weight, bias = network.layers[-1]
    if len(gradients) == 1:
        gradient = gradients[0].view(-1, units.shape[0])
        by_units = _product(gradient.t(), weight.flatten(0, 1), _is_wide(network))
        return by_units, (gradient @ units).view_as(weight), gradient.sum(1).view_as(bias)
    by_units, by_weight, by_bias = torch.zeros_like(units), torch.zeros_like(weight), torch.empty_like(bias)
    for (rows, columns), gradient in zip(network.structure.parts, gradients, strict=True):
        gradient = gradient.view(-1, units.shape[0])
        shape = by_bias[:, rows].shape
        by_weight[:, rows, columns] = (gradient @ units[:, columns]).view(*shape, -1)
        by_bias[:, rows] = gradient.sum(1).view(shape)
        by_units[:, columns].addmm_(gradient.t(), weight[:, rows, columns].flatten(0, 1))
    return by_units, by_weight, by_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor, blocks: Blocks, wide: bool) -> Tensor:
    """``x @ weight.T + bias`` for a weight that is zero outside of ``blocks``, which cover all rows.

    Args:
        x: Shape ``(N, C)``.
        weight: Shape ``(R, C)``.
        bias: Shape ``(R,)``.
        blocks: Of the weight.
        wide: Whether the memory of the result is laid out by columns.
    """
    if len(blocks) == 1:
        return torch.addmm(bias.unsqueeze(1), weight, x.t()).t() if wide else F.linear(x, weight, bias)
    out = _empty(x, len(weight), wide)
    for rows, columns in blocks:
        torch.addmm(bias[rows], x[:, columns], weight[rows, columns].t(), out=out[:, rows])
    return out


def linear_by_input(gradient: Tensor, weight: Tensor, blocks: Blocks, wide: bool) -> Tensor:
    """The gradient of :func:`linear` with respect to ``x``, from that with respect to its result."""
    if len(blocks) == 1:
        return _product(gradient, weight, wide)
    out = _empty(gradient, weight.shape[1], wide)
    for rows, columns in upright(blocks, weight.shape[1]):
        torch.mm(gradient[:, rows], weight[rows, columns], out=out[:, columns])
    return out


def linear_by_weight(gradient: Tensor, x: Tensor, blocks: Blocks) -> Tensor:
    """The gradient of :func:`linear` with respect to ``weight``, zero outside of the blocks."""
    if len(blocks) == 1:
        return gradient.t() @ x
    by_weight = gradient.new_zeros(gradient.shape[1], x.shape[1])
    for rows, columns in blocks:
        torch.mm(gradient[:, rows].t(), x[:, columns], out=by_weight[rows, columns])
    return by_weight


def _is_wide(network: Weighted) -> bool:
    return network.layers[-1][1].numel() >= _WIDE


def _product(first: Tensor, second: Tensor, wide: bool) -> Tensor:
    """``first @ second``, the memory of the result laid out by columns if ``wide``."""
    return (second.t() @ first.t()).t() if wide else first @ second


def _empty(like: Tensor, columns: int, wide: bool) -> Tensor:
    return like.new_empty(columns, len(like)).t() if wide else like.new_empty(len(like), columns)
