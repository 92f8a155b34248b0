"""Densities compiled with their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .state import LogDensity, evaluate


def compiled(log_density: LogDensity, x: Tensor) -> LogDensity:
    """A density whose value and gradient are one compiled graph, for as many chains as there are points.

    The operations are recorded once, at these points, and then compiled by ``torch.compile``; what runs around them,
    such as a Pyro program, runs no more.

    Args:
        log_density: The log-density, whose operations must not depend on the numbers.
        x: Points, ``(chains, D)``.

    Raises:
        ValueError: the graph gives other values at other points.
    """
    graph = torch.compile(make_fx(lambda points: _value_and_gradient(log_density, points))(x))

    def density(points: Tensor) -> Tensor:
        return _Graph.apply(points, graph)

    for points in (x, x.flip(0) + 0.1):
        found, expected = evaluate(density, points), evaluate(log_density, points)
        for one, other in zip(found, expected, strict=True):
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-3):
                raise ValueError(
                    "`compile` must be False for a model whose operations depend on the values of its sites"
                )
    return density


@torch.enable_grad()
def _value_and_gradient(log_density: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_(True)
    value = log_density(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


class _Graph(torch.autograd.Function):
    """The value of a graph that gives value and gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Any) -> Tensor:
        value, gradient = graph(x.detach())
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return slope.unsqueeze(1) * gradient, None
