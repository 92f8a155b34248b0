"""Elementwise maps with a backward pass written out.

A chain of small operations leaves a graph of many nodes, each of which keeps its own tensors and runs its own backward
step. A fused map is one node. Inside ``torch.func`` transforms it maps over batches as one long vector, and where a
second derivative is asked for, the backward pass differentiates the forward pass anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, tuple[Tensor, ...]]]
Gradients = Callable[[tuple[Tensor, ...], Tensor, Tensor], tuple[Tensor, Tensor]]


class Written(NamedTuple):
    """A map of each number with parameters of its own, its backward pass written out.

    Args:
        evaluate: From parameters ``(size, N)`` and ``x`` ``(N,)`` to value, log-slope and what ``gradients`` needs, by
            differentiable operations.
        gradients: From that and the gradients of value and log-slope to those of parameters and ``x``.
    """

    evaluate: Evaluate
    gradients: Gradients


def fused(parameters: Tensor, x: Tensor, written: Written) -> tuple[Tensor, Tensor]:
    """The value of a written map and the logarithm of its slope, for parameters of shape ``(size, *x.shape)``."""
    if x.numel() == 0:
        empty = x + parameters.sum(0)
        return empty, empty
    flat = parameters.reshape(len(parameters), -1), x.reshape(-1)
    if not torch.compiler.is_compiling() and torch.is_grad_enabled() and any(part.requires_grad for part in flat):
        value, log_slope = _Fused.apply(*flat, *written)[:2]
    else:
        value, log_slope, _ = written.evaluate(*flat)
    return value.reshape(x.shape), log_slope.reshape(x.shape)


class _Fused(Function):
    @staticmethod
    def forward(parameters: Tensor, x: Tensor, evaluate: Evaluate, gradients: Gradients) -> tuple[Tensor, ...]:
        value, log_slope, saved = evaluate(parameters, x)
        return value, log_slope, *saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        parameters, x, ctx.evaluate, ctx.gradients = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(parameters, x, *output[2:])

    @staticmethod
    def backward(ctx: Any, g_value: Tensor, g_log: Tensor, *_: Tensor) -> tuple:
        parameters, x, *saved = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return *ctx.gradients(tuple(saved), g_value, g_log), None, None
        _, pull = torch.func.vjp(lambda parameters, x: ctx.evaluate(parameters, x)[:2], parameters, x)
        return *pull((g_value, g_log)), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, parameters: Tensor, x: Tensor, *rest: Callable) -> tuple:
        rows = info.batch_size
        parameters = _with_rows(parameters, in_dims[0], rows, 1)  # (size, rows, N)
        parts = _Fused.apply(parameters.flatten(1), _with_rows(x, in_dims[1], rows, 0).flatten(), *rest)
        parts = tuple(part.unflatten(-1, parameters.shape[1:]) for part in parts)
        return parts, tuple(part.dim() - 2 for part in parts)


def _with_rows(value: Tensor, dim: int | None, rows: int, to: int) -> Tensor:
    if dim is not None:
        return value.movedim(dim, to)
    return value.unsqueeze(to).expand(*value.shape[:to], rows, *value.shape[to:])
