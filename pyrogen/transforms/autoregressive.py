r"""Autoregressive transforms: each element is mapped in a way that depends on elements before it.

:math:`y_i = g(x_i; \theta_i(x_{<i}))` has a triangular Jacobian. The forward pass is one pass of a masked network. The
inverse is found level by level, :math:`x_i = g^{-1}(y_i; \theta_i(x_{<i}))`, each hidden unit of the network computed
once: all levels together cost about half a dense pass, in small steps, and give the log-determinant along the way.

Its gradient is implicit: from :math:`f(x; \theta) = y` follows :math:`dx = J^{-1} (dy - f_\theta\, d\theta)`. The
backward pass solves :math:`J^\top \lambda = g_x` by the same sweep run backwards, however many levels there are. For
second derivatives and under ``torch.func`` the inverse is defined as a fixed-point iteration.

References:
    Papamakarios, Pavlakou and Murray 2017, "Masked autoregressive flow for density estimation",
    https://arxiv.org/abs/1705.07057
    Kingma et al. 2016, "Improving variational inference with inverse autoregressive flow",
    https://arxiv.org/abs/1606.04934
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from pyrogen.networks.masked import MaskedConditioner, Sweep
from pyrogen.networks.weighted import Weighted
from pyrogen.numerics.autograd import differentiated, in_full_precision, is_functional

from .coupling import conditional
from .elements import Element, Split
from .transform import VectorTransform

_MANY = 32
"""From so many levels on, a few passes over all of them are tried before going level by level."""


class MaskedAutoregressive(VectorTransform):
    """An autoregressive transform of a (flattened) event of ``D`` elements.

    Args:
        conditioner: A masked network, from ``(*batch, D)`` to ``(size, D, *batch)``.
        network: What it is in this call.
        element: How each element is mapped.
        event_shape: Shape of one event.
    """

    def __init__(
        self, conditioner: MaskedConditioner, network: Weighted, element: Element, event_shape: tuple[int, ...]
    ) -> None:
        super().__init__(event_shape, network.batch_shape)
        self.conditioner, self.network, self.element = conditioner, network, element

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return conditional(self.network, Split(self._order, self._order, self.conditioner.places), self.element, x)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        batch, order = torch.broadcast_shapes(y.shape[:-1], self.batch_shape), self._order
        y = y.expand(*batch, y.shape[-1]).reshape(batch.numel(), y.shape[-1]).T  # (D, N)
        equation = _Equation(self.conditioner, self.network.projecting().for_rows(batch), self.element)
        x, log_det = equation.solve(y if order is None else y.index_select(0, order))
        x = x if order is None else x.index_select(0, self.conditioner.places)
        return x.T.reshape(*batch, len(x)), log_det.reshape(batch)

    @property
    def _order(self) -> Tensor | None:
        return None if self.conditioner.is_sorted else self.conditioner.order


class _Equation(NamedTuple):
    """The equations ``f(x) = y`` of rows ``(D, N)``, elements sorted by level."""

    conditioner: MaskedConditioner
    network: Weighted
    element: Element

    def definition(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` and its log-determinants by one pass for each level, which makes that level exact."""
        x, log_slope = y, torch.zeros_like(y)
        for _ in self.conditioner.levels:
            x, log_slope = self.element.inverse(self.network(x.T), y)
        return x, log_slope.sum(0)

    def solve(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The same, level by level, with implicit gradients, where that can be."""
        projected, tensors = self.network.projected, self.network.tensors
        given = [y, *tensors] if projected is None else [y, projected, *tensors]
        by_level = self.element.alike and self.network.angles is None
        if not by_level or y.numel() == 0 or is_functional(given):
            return self.definition(y)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            return _Implicit.apply(self, y, projected, *tensors)
        x, log_slope, _ = self.sweep(y)
        return x, log_slope.sum(0)

    @torch.no_grad()
    def sweep(self, y: Tensor) -> tuple[Tensor, Tensor, Sweep]:
        """``x``, the log-slopes of its elements, and a sweep that holds the solution."""
        sweep = self.conditioner.sweep(self.network, y.shape[1])
        if len(self.conditioner.levels) >= _MANY and (found := self._guess(y)) is not None:
            sweep.fill(found[0])
            return *found, sweep
        log_slope = torch.empty_like(y)

        def solve(parameters: Tensor, features: slice) -> Tensor:
            x, log_slope[features] = self.element.inverse(parameters, y[features])
            return x

        return sweep.forward(solve), log_slope, sweep

    def _guess(self, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """``x`` by fixed-point iteration of all levels at once, or ``None`` if it does not settle soon.

        Each pass makes at least one more level exact; where elements depend little on those far before them, a few
        passes settle all. The last pass changes nothing beyond rounding.
        """
        x, tolerance = y, 16 * torch.finfo(y.dtype).eps
        for _ in range(len(self.conditioner.levels) // 6):
            new, log_slope = self.element.inverse(self.network(x.T), y)
            settled = ((new - x).abs() <= tolerance * (1 + new.abs())) | new.isnan()
            x = new
            if bool(settled.all()):
                return x, log_slope
        return None


class _Implicit(Function):
    """The solution and its log-determinant, with implicit gradients."""

    @staticmethod
    def forward(
        ctx: Any, equation: _Equation, y: Tensor, projected: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, log_slope, ctx.sweep = equation.sweep(y)
        ctx.equation = equation
        ctx.save_for_backward(x, y, projected, *tensors)
        return x, log_slope.sum(0)

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, g_x: Tensor, g_log: Tensor) -> tuple:
        x, *given = ctx.saved_tensors
        if torch.is_grad_enabled():

            def definition(y: Tensor, projected: Tensor | None, *tensors: Tensor) -> tuple[Tensor, Tensor]:
                return ctx.equation._replace(network=ctx.equation.network.given(tensors, projected)).definition(y)

            return None, *differentiated(definition, given, (g_x, g_log))
        with torch.enable_grad():
            inputs = [tensor if tensor is None else tensor.detach().requires_grad_() for tensor in (x, *given[1:])]
            x, projected, *tensors = inputs
            parameters = ctx.equation.network.given(tensors, projected)(x.T)  # (size, D, N)
            y, log_slope = ctx.equation.element.forward(parameters, x)
        by_log = -g_log.expand_as(log_slope)
        (pull,) = torch.autograd.grad(y, parameters, torch.ones_like(y), retain_graph=True)
        (by_x,) = torch.autograd.grad(log_slope, x, by_log, retain_graph=True)
        solution = ctx.sweep.transposed_solve(g_x + by_x, log_slope.detach().exp(), pull)
        needed = [index for index, need in enumerate(ctx.needs_input_grad[2:], 1) if need]
        found = torch.autograd.grad(
            (y, log_slope), [inputs[index] for index in needed], (-solution, by_log), allow_unused=True
        ) if needed else ()  # fmt: skip
        by_input = dict(zip(needed, found, strict=True))
        return None, solution, *(by_input.get(index) for index in range(1, len(inputs)))
