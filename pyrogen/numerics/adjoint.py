r"""Gradients of differential equations: the discrete adjoint.

What is differentiated is what was computed: the steps that the solver accepted, :math:`x_{n+1} = \Phi(t_n, h_n, x_n)`,
their times held fixed. The backward pass goes through the steps from the last to the first, evaluates each once more
from the state remembered at its start, and applies its vector-Jacobian product. So the gradient is exact for the
numbers in hand, memory is that of one step plus the states, and rejected steps cost nothing.

Where a gradient of the gradient is wanted, under ``torch.func`` and in forward mode, the steps are chosen first and
then repeated as one differentiable computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .autograd import in_full_precision, is_functional
from .ode import Path, Solver
from .rows import column
from .runge_kutta import Field


@dataclass(frozen=True)
class Problem:
    """An initial value problem and how to solve it.

    Args:
        field: Slope and rate; see :data:`~pyrogen.numerics.runge_kutta.Field`.
        solver: What chooses the steps.
        start: Time at which the rows are given.
        end: Time at which they are wanted.
        integral: Whether the rate is integrated.
        check: Sees the path, and whether the rate is integrated, before it is used: the place to raise an error.
        bind: The field with other tensors in the place of its parameters, if it has any.
    """

    field: Field
    solver: Solver
    start: float
    end: float
    integral: bool
    check: Callable[[Path, bool], None] | None = None
    bind: Callable[[tuple[Tensor, ...]], Field] | None = None

    def path(self, x: Tensor, inputs: tuple[Tensor, ...], keep: bool) -> Path:
        """The path of rows ``x``."""
        ends = self.start, self.end
        path = self.solver.solve(self.field, x, *ends, inputs=inputs, integral=self.integral, keep=keep)
        if self.check is not None:
            self.check(path, self.integral)
        return path

    def advance(self, t: Tensor, t_next: Tensor, x: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """One step of every row; rows with ``t_next`` equal to ``t`` stay where they are."""
        value, integral = self.solver.method.advance(self.field, t, t_next - t, x, inputs, self.integral)
        return value, torch.zeros_like(t) if integral is None else integral


def solve(
    problem: Problem, x: Tensor, inputs: Sequence[Tensor] = (), parameters: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """The rows at the end and the integral on the way (zero if not wanted), differentiable.

    Args:
        problem: The equation and its solver.
        x: Rows, ``(N, *event)``.
        inputs: What else the field takes, one row each.
        parameters: Tensors inside the field that may want gradients.

    Returns:
        The value, ``(N, *event)``, and the integral, ``(N,)``.
    """
    tensors = (x, *inputs, *parameters)
    if is_functional(tensors):
        return _followed(problem, x, tuple(inputs), parameters)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _Solve.apply(problem, len(inputs), *tensors)
    path = problem.path(x, tuple(inputs), keep=False)
    return path.value, x.new_zeros(len(x)) if path.integral is None else path.integral


def _followed(
    problem: Problem, x: Tensor, inputs: tuple[Tensor, ...], parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The definition: steps are chosen without being differentiated, then taken by differentiable operations."""
    with torch.no_grad():
        given = (part.detach() for part in (x, *inputs, *parameters))
        times, failed = _Steps.apply(problem, len(inputs), *given)
    return _repeated(problem, times, failed, x, inputs)


def _repeated(
    problem: Problem, times: Tensor, failed: Tensor, x: Tensor, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """All rows taken through steps at given times; those that failed are NaN and stand still, to spoil no sum."""
    x, *rest = (torch.where(column(failed, part), torch.zeros_like(part), part) for part in (x, *inputs))
    times = torch.where(failed, times[-1:], times)
    integral = torch.zeros_like(x.reshape(len(x), -1)[:, 0])
    for t, t_next in zip(times, times[1:], strict=False):
        x, more = problem.advance(t, t_next, x, tuple(rest))
        integral = integral + more
    return torch.where(column(failed, x), torch.nan, x), torch.where(failed, torch.nan, integral)


class _Steps(Function):
    """The times of a path's steps and which rows failed; mapped over by ``torch.vmap`` as one batch of rows."""

    @staticmethod
    def forward(problem: Problem, count: int, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        if problem.bind is not None:  # inside, the parameters are no longer those that a transform has wrapped
            problem = replace(problem, field=problem.bind(rest[count:]), bind=None)
        path = problem.path(x, rest[:count], keep=False)
        return path.times, path.failed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, problem: Problem, count: int, x: Tensor, *rest: Tensor) -> tuple:
        if any(dim is not None for dim in in_dims[3 + count :]):
            raise NotImplementedError("the parameters of a differential equation cannot be mapped over; loop over them")
        mapped = [
            _with_rows(part, dim, info.batch_size).flatten(0, 1)
            for part, dim in zip((x, *rest[:count]), in_dims[2:], strict=False)
        ]
        times, failed = _Steps.apply(problem, count, *mapped, *rest[count:])
        sizes = info.batch_size, len(failed) // info.batch_size
        return (times.unflatten(1, sizes), failed.unflatten(0, sizes)), (1, 0)


def _with_rows(value: Tensor, dim: int | None, size: int) -> Tensor:
    return value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)


class _Solve(Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, count: int, x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        path = problem.path(x, rest[:count], keep=True)
        ctx.problem, ctx.count = problem, count
        ctx.save_for_backward(path.times, path.states, path.failed, x, *rest)
        return path.value, x.new_zeros(len(x)) if path.integral is None else path.integral

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, g_value: Tensor, g_integral: Tensor) -> tuple:
        backward = _Backward(ctx.problem, ctx.count, *ctx.saved_tensors, needed=ctx.needs_input_grad[2:])
        found = backward.at_once if torch.is_grad_enabled() else backward.step_by_step
        return None, None, *found(g_value, g_integral)


class _Backward:
    """The gradients of a path in the rows at its start, the inputs and the parameters.

    Args:
        problem: What was solved.
        count: How many of the tensors behind the rows are inputs.
        times: When each row began its steps; see :class:`~pyrogen.numerics.ode.Path`.
        states: The rows at these times.
        failed: Which rows did not arrive.
        tensors: The rows at the start, the inputs and the parameters.
        needed: Of which of them gradients are wanted.
    """

    def __init__(
        self,
        problem: Problem,
        count: int,
        times: Tensor,
        states: Tensor,
        failed: Tensor,
        *tensors: Tensor,
        needed: Sequence[bool],
    ) -> None:
        self.problem, self.count, self.tensors, self.needed = problem, count, tensors, needed
        self.times, self.states, self.failed = times, states, failed

    def step_by_step(self, g_value: Tensor, g_integral: Tensor) -> list[Tensor | None]:
        """From the last step to the first, only of rows that moved and arrived."""
        count, needed, times = self.count, self.needed, self.times
        rest = list(zip(self.tensors[1:], needed[1:], strict=True))
        g_x = g_value.masked_fill(column(self.failed, g_value), 0.0)
        g_rest = [torch.zeros_like(tensor) if need else None for tensor, need in rest]
        wanted = [parameter for parameter, need in rest[count:] if need]
        for step in reversed(range(len(times) - 1)):
            rows = ((times[step] != times[step + 1]) & ~self.failed).nonzero().squeeze(1)
            if not len(rows):
                continue
            with torch.enable_grad():
                x = self.states[step, rows].requires_grad_()
                own = [part.detach()[rows].requires_grad_(need) for part, need in rest[:count]]
                after = self.problem.advance(times[step, rows], times[step + 1, rows], x, tuple(own))
                leaves = [x, *(part for part in own if part.requires_grad), *wanted]
                found = iter(_pulled(after, (g_x[rows], g_integral[rows]), leaves))
            g_x[rows] = next(found)
            for place, total in enumerate(g_rest):
                if total is not None and (gradient := next(found)) is not None:
                    total.index_add_(0, rows, gradient) if place < count else total.add_(gradient)
        return [g_x if needed[0] else None, *g_rest]

    def at_once(self, g_value: Tensor, g_integral: Tensor) -> list[Tensor | None]:
        """The same gradients as differentiable functions of the tensors, of all steps together."""
        x, *rest = self.tensors
        after = _repeated(self.problem, self.times, self.failed, x, tuple(rest[: self.count]))
        wanted = [tensor for tensor, need in zip(self.tensors, self.needed, strict=True) if need]
        found = iter(_pulled(after, (g_value, g_integral), wanted, create_graph=True))
        return [next(found) if need else None for need in self.needed]


def _pulled(
    values: Sequence[Tensor], gradients: Sequence[Tensor], leaves: Sequence[Tensor], *, create_graph: bool = False
) -> Sequence[Tensor | None]:
    """The gradients in the leaves, of those values that have a graph."""
    pairs = [pair for pair in zip(values, gradients, strict=True) if pair[0].requires_grad]
    outputs, given = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, leaves, given, create_graph=create_graph, allow_unused=True)
