r"""Autoregressive transforms: each element is mapped in a way that depends on elements before it.

:math:`y_i = g(x_i; \theta_i(x_{<i}))` has a triangular Jacobian. The forward pass is one pass of a masked network. The
inverse is found level by level, :math:`x_i = g^{-1}(y_i; \theta_i(x_{<i}))`, each hidden unit of the network computed
once: all levels together cost about half a dense pass, in small steps, and give the log-determinant along the way.

Its gradient is implicit: from :math:`f(x; \theta) = y` follows :math:`dx = J^{-1} (dy - f_\theta\, d\theta)`. The
backward pass solves :math:`J^\top \lambda = g_x` by the same sweep run backwards, however many levels there are. Second
derivatives of the inverse are only available inside ``torch.func`` transforms, where it runs as a fixed-point
iteration.

References:
    Papamakarios, Pavlakou and Murray 2017, "Masked autoregressive flow for density estimation",
    https://arxiv.org/abs/1705.07057
    Kingma et al. 2016, "Improving variational inference with inverse autoregressive flow",
    https://arxiv.org/abs/1606.04934
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pyrogen.networks.masked import MaskedConditioner, Sweep, Weighted

from .elements import Element
from .vector import VectorTransform, feature_major

_MANY = 32
"""From so many levels on, a few passes over all of them are tried before going level by level."""


class Autoregressive(VectorTransform):
    """An autoregressive transform of a (flattened) event of ``D`` elements.

    Args:
        network: A masked network, its masks multiplied in, from ``(*batch, D)`` to ``(size, D, *batch)``.
        element: How each element is mapped.
        event_shape: Shape of one event.
    """

    def __init__(self, network: Weighted, element: Element, event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape, network.batch_shape)
        self.network, self.element = network, element

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _mapped(self.network.parts(x), self.element, x)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if torch._C._functorch.is_functorch_wrapped_tensor(y) or torch.compiler.is_compiling():
            return self._iterate(y)
        batch = torch.broadcast_shapes(y.shape[:-1], self.batch_shape)
        if batch.numel() == 0:
            return self._iterate(y)
        y = y.expand(*batch, -1)
        rows = y.reshape(-1, y.shape[-1])
        network = _with_rows(self.network, batch)
        tensors = [rows, *(part for layer in network.layers for part in layer)]
        tensors += [] if network.projected is None else [network.projected]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            x, log_det = _Inverse.apply(network, self.element, *tensors)
        else:
            x, log_slope, _ = _solve(network, self.element, rows)
            log_det = log_slope.sum(0)
        return x.reshape(y.shape), log_det.reshape(batch)

    def _iterate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """As many full passes as there are levels, each of which makes one more level exact."""
        x = y
        for _ in self.network.network.levels:
            parameters = self.network(x, dropout=False)
            x, log_slope = self.element.inverse(parameters, feature_major(y, parameters.shape[2:]))
            x = x.movedim(0, -1)
        return x, log_slope.sum(0)


def _mapped(parts: Iterable[tuple[slice, Tensor]], element: Element, x: Tensor) -> tuple[Tensor, Tensor]:
    """Elements mapped with the parameters of some features after the other, which keeps the vectors in the cache."""
    values, total = [], 0.0
    for features, parameters in parts:
        value, log_slope = element.forward(parameters, feature_major(x[..., features], parameters.shape[2:]))
        values.append(value)
        total = total + log_slope.sum(0)
    y = torch.cat(values) if len(values) > 1 else values[0]
    return y.movedim(0, -1), total


def _with_rows(network: Weighted, batch: torch.Size) -> Weighted:
    if network.projected is None:
        return network
    projected = network.projected.expand(*batch, -1).reshape(-1, network.projected.shape[-1])
    return Weighted(network.network, network.layers, projected)


@torch.no_grad()
def _solve(network: Weighted, element: Element, y: Tensor) -> tuple[Tensor, Tensor, Sweep]:
    """The inverse ``(N, D)`` with its log-slopes ``(D, N)``, and a sweep that holds the solution."""
    sweep = network.sweep(len(y))
    if len(network.network.levels) >= _MANY and (found := _guess(network, element, y)) is not None:
        sweep.fill(found[0])
        return *found, sweep
    sorted_y = y.T[sweep.order]
    log_slope = torch.empty_like(sorted_y)

    def solve(parameters: Tensor, features: slice) -> Tensor:
        x, log_slope[features] = element.inverse(parameters, sorted_y[features])
        return x

    x = sweep.forward(solve)
    return _unsorted(x, sweep).T, _unsorted(log_slope, sweep), sweep


def _guess(network: Weighted, element: Element, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """The inverse by fixed-point iteration of all levels at once, or ``None`` if it does not settle soon.

    Each pass makes at least one more level exact; where elements depend little on those far before them, a few passes
    settle all. The last pass changes nothing beyond rounding.
    """
    x, tolerance = y, 16 * torch.finfo(y.dtype).eps
    for _ in range(len(network.network.levels) // 6):
        new, log_slope = element.inverse(network(x, dropout=False), y.T)
        new = new.T
        settled = ((new - x).abs() <= tolerance * (1 + new.abs())) | new.isnan()
        x = new
        if bool(settled.all()):
            return x, log_slope
    return None


def _unsorted(value: Tensor, sweep: Sweep) -> Tensor:
    return torch.empty_like(value).index_copy_(0, sweep.order, value)


class _Inverse(Function):
    """The inverse and its log-determinant, with implicit gradients."""

    @staticmethod
    def forward(ctx: Any, network: Weighted, element: Element, y: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope, sweep = _solve(network, element, y)
        ctx.network, ctx.element, ctx.sweep = network.network, element, sweep
        ctx.save_for_backward(x, *tensors)
        return x, log_slope.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_x: Tensor, g_log: Tensor) -> tuple:
        x, *tensors = ctx.saved_tensors
        sweep = ctx.sweep
        with torch.enable_grad():
            x, *tensors = [tensor.detach().requires_grad_() for tensor in (x, *tensors)]
            parameters = _rebuilt(ctx.network, tensors)(x, dropout=False)  # (size, D, N)
            y, log_slope = ctx.element.forward(parameters, x.T.contiguous())
        (pull,) = torch.autograd.grad(y, parameters, torch.ones_like(y), retain_graph=True)
        (by_x,) = torch.autograd.grad(log_slope, x, -g_log.expand_as(log_slope), retain_graph=True)
        gradient = (g_x + by_x).T[sweep.order]
        slope = log_slope.detach().exp()[sweep.order]
        solution = _unsorted(sweep.transposed_solve(gradient, slope, pull[:, sweep.order]), sweep)
        into = [tensor for tensor, needed in zip(tensors, ctx.needs_input_grad[3:], strict=True) if needed]
        found = iter(
            torch.autograd.grad((y, log_slope), into, (-solution, -g_log.expand_as(log_slope)), allow_unused=True)
            if into
            else ()
        )
        return None, None, solution.T, *(next(found) if needed else None for needed in ctx.needs_input_grad[3:])


def _rebuilt(network: MaskedConditioner, tensors: list[Tensor]) -> Weighted:
    count = 2 * len(network.layers) + 2
    layers = list(zip(tensors[0:count:2], tensors[1:count:2], strict=True))
    return Weighted(network, layers, tensors[count] if len(tensors) > count else None)
