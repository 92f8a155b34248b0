"""Elementwise maps with a backward pass written out.

A chain of small operations leaves a graph of many nodes, each of which keeps its own tensors and runs its own backward
step. A fused map is one node. Under ``torch.func`` the operations themselves are used, and where a second derivative is
asked for, the backward pass differentiates them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from pyrogen.numerics.autograd import differentiated, in_full_precision, is_functional

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
    if torch.is_grad_enabled() and any(part.requires_grad for part in flat) and not is_functional(flat):
        value, log_slope = _Fused.apply(*flat, written)
    else:
        value, log_slope, _ = written.evaluate(*flat)
    return value.reshape(x.shape), log_slope.reshape(x.shape)


class _Fused(Function):
    @staticmethod
    def forward(ctx: Any, parameters: Tensor, x: Tensor, written: Written) -> tuple[Tensor, Tensor]:
        value, log_slope, kept = written.evaluate(parameters, x)
        ctx.written = written
        ctx.save_for_backward(parameters, x, *kept)
        return value, log_slope

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, g_value: Tensor, g_log: Tensor) -> tuple:
        parameters, x, *kept = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return *ctx.written.gradients(tuple(kept), g_value, g_log), None
        by_definition = differentiated(
            lambda *given: ctx.written.evaluate(*given)[:2], (parameters, x), (g_value, g_log)
        )
        return *by_definition, None
