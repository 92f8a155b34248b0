r"""Residual transforms, :math:`y = x + g(x)` with a network :math:`g` that brings points closer together.

With a Lipschitz constant :math:`L < 1` of :math:`g` the map is a bijection. Its inverse is the fixed point of
:math:`x \leftarrow y - g(x)`, to which an error shrinks by :math:`L` in each step. With :math:`J = \partial g /
\partial x`,

.. math:: \log |\det (I + J)| = \operatorname{tr} \log (I + J) = \sum_{k=1}^\infty \frac{(-1)^{k+1}}{k}
    \operatorname{tr} J^k .

:class:`ExactLogDet` computes the determinant of all :math:`D \times D` entries. :class:`Roulette` is an estimate
without bias: traces are :math:`v^\top J^k v` of random :math:`v`, and the sum ends at a random term :math:`n`, later
terms divided by the probability of getting there.

References:
    Chen, Behrmann, Duvenaud and Jacobsen 2019, "Residual flows for invertible generative modeling",
    https://arxiv.org/abs/1906.02735
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.autograd import Function

from pyrogen.arguments import inner_share, integer, seed_or_none
from pyrogen.networks.contraction import Contraction
from pyrogen.numerics.autograd import differentiated, in_full_precision, is_functional, tensors_of, with_tensors
from pyrogen.numerics.linear import log_abs_det
from pyrogen.numerics.rows import by_datum, column
from pyrogen.numerics.trace import rademacher
from pyrogen.programs.chain import refuse_chain

from .transform import Transform

Map = Callable[[Tensor], Tensor]
Outputs = tuple[Tensor, Tensor]
_STEPS = 2000
"""After so many steps a fixed point is given up."""


@dataclass(frozen=True)
class ExactLogDet:
    """The log-determinant itself, by as many vector-Jacobian products as there are elements: for few of them."""

    density = "exact"

    def noise(self, x: Tensor) -> None:
        """There is none."""

    def check(self, lipschitz: float) -> None:
        """Takes any contraction."""

    def __call__(self, function: Map, x: Tensor, noise: None) -> tuple[Tensor, Tensor]:
        """``function(x)`` and the log-determinant of :math:`I + J`, ``(N, *event)`` and ``(N,)``."""
        value, pull = torch.func.vjp(function, x)
        size = prod(x.shape[1:])
        axes = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
        rows = torch.func.vmap(lambda axis: pull(axis.expand_as(value))[0])(axes)  # (D, N, *event)
        jacobian = rows.reshape(size, len(x), size).movedim(0, 1) + axes.reshape(size, size)
        return value, log_abs_det(jacobian)


@dataclass(frozen=True)
class Roulette:
    r"""An estimate without bias of the log-determinant: Russian roulette over the terms of its series.

    Its variance is finite if :math:`L^2` is below the probability of going on.

    Args:
        terms: How many terms are always computed.
        going_on: The probability of one more, after each.
        noise_seed: If given, all rows and all calls share their noise: the answer is then a fixed function of the row,
            with an error that no longer averages out.

    Raises:
        ValueError: ``terms`` is less than one, or ``going_on`` not between zero and one.
    """

    terms: int = 4
    going_on: float = 0.85
    noise_seed: int | None = None

    density = "estimate"

    def __post_init__(self) -> None:
        integer(self.terms, "terms")
        inner_share(self.going_on, "going_on")
        seed_or_none(self.noise_seed, "noise_seed")

    def check(self, lipschitz: float) -> None:
        """Refuses a contraction for which the variance may be infinite.

        Raises:
            ValueError: ``going_on`` is not above the square of its Lipschitz constant.
        """
        if not self.going_on > lipschitz**2:
            raise ValueError(
                f"`going_on` must be above the square of the Lipschitz constant, {lipschitz**2:.4g}, for a finite "
                f"variance, got {self.going_on}"
            )

    def noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probes, ``(N, *event)``, and the last term of each row, ``(N,)``."""
        if self.noise_seed is None:
            normal, uniform = torch.randn_like(x), torch.rand(len(x), dtype=torch.float64, device=x.device)
        else:
            numbers = numpy.random.default_rng(self.noise_seed)
            normal = torch.from_numpy(numbers.standard_normal(x.shape[1:])).to(x).expand_as(x)
            uniform = torch.full((len(x),), numbers.random(), dtype=torch.float64, device=x.device)
        more = ((1 - uniform).log() / numpy.log(self.going_on)).floor()  # P(more >= k) = going_on ** k
        return rademacher(normal), self.terms + more.long()

    def __call__(self, function: Map, x: Tensor, noise: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """``function(x)`` and an estimate of the log-determinant of :math:`I + J`, ``(N, *event)`` and ``(N,)``."""
        probe, last = noise
        value, pull = torch.func.vjp(function, x)
        total, power = x.new_zeros(len(x)), probe
        for k in range(1, self._most(last) + 1):
            power = pull(power)[0]  # v^T J^k
            weight = (-1) ** (k + 1) / (k * self.going_on ** max(0, k - self.terms))
            total = total + torch.where(last >= k, weight * _sum(power * probe), 0.0)
        return value, total

    def _most(self, last: Tensor) -> int:
        return int(last.max()) if len(last) else self.terms


LogDet = ExactLogDet | Roulette


class Residual(Transform):
    """The map :math:`y = x + g(x)` of real events.

    Args:
        network: The contraction :math:`g`.
        event_shape: Shape of one event.
        context: What the network takes besides, ``(*batch, C)``.
        log_det: How log-determinants are found.
        tolerance: Largest error of an inverse, as a Euclidean distance relative to one plus the length of the event, or
            what rounding leaves if that is more.

    Raises:
        ValueError: the estimate of the log-determinant may have an infinite variance.
    """

    costly_log_det = True

    def __init__(
        self,
        network: Contraction,
        event_shape: tuple[int, ...],
        *,
        context: Tensor | None = None,
        log_det: LogDet = Roulette(),
        tolerance: float = 1e-6,
    ) -> None:
        batch_shape = torch.Size() if context is None else context.shape[:-1]
        super().__init__(len(event_shape), batch_shape)
        log_det.check(network.lipschitz)
        self.network, self.event_shape, self.context = network, torch.Size(event_shape), context
        self.log_det, self.tolerance = log_det, tolerance
        self.density = log_det.density
        self.state = tensors_of(network)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._of_rows(x, self._there)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._of_rows(y, self._back)

    def _call(self, x: Tensor) -> Tensor:
        return self._of_rows(x, lambda function, rows: (rows + function(rows), _sum(rows)))[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self._of_rows(y, lambda function, rows: (self._fixed_point(function, rows), _sum(rows)))[0]

    @in_full_precision
    def _of_rows(self, x: Tensor, direction: Callable[[_OfRows, Tensor], Outputs]) -> Outputs:
        cut = x.dim() - self.event_dim
        batch = torch.broadcast_shapes(x.shape[:cut], self.batch_shape)
        rows = x.expand(batch + x.shape[cut:]).reshape(batch.numel(), *self.event_shape)
        context = self.context
        context = None if context is None else context.expand(*batch, -1).reshape(-1, context.shape[-1])
        value, log_det = direction(_OfRows(self.network, context, tuple(self.state.values())), rows)
        return value.reshape(batch + self.event_shape), log_det.reshape(batch)

    def _there(self, function: Map, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.log_det, Roulette) and self.log_det.noise_seed is None:
            refuse_chain("a residual flow", "use `exact=True`, or freeze its noise by `noise_seed`")
        value, log_det = self.log_det(function, x, self.log_det.noise(x))
        return x + value, log_det

    def _back(self, function: _OfRows, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self._fixed_point(function, y)
        return x, -self._there(function, x)[1]

    def _fixed_point(self, function: _OfRows, y: Tensor) -> Tensor:
        """Where :math:`x + g(x) = y`, with implicit gradients."""
        if is_functional((y,)):
            return self._defined(function, y)
        with torch.no_grad():
            x = self._iterated(function, y)
        if not torch.is_grad_enabled():
            return x
        return x + _Implicit.apply(y - x - function(x), function, self, x, y, function.context, *function.tensors)

    def _defined(self, function: Map, y: Tensor) -> Tensor:
        """The same by a fixed number of steps, each of them differentiable."""
        x = y
        for _ in range(int(numpy.ceil(numpy.log(torch.finfo(y.dtype).eps) / numpy.log(self.network.lipschitz)))):
            x = y - function(x)
        return x

    def _iterated(self, function: Map, y: Tensor, start: Tensor | None = None) -> Tensor:
        """The fixed point of ``y - function(x)``; rows that have settled stay as they are.

        Raises:
            RuntimeError: it is not reached: the function is no contraction.
        """
        lipschitz, x = self.network.lipschitz, y if start is None else start
        tolerance = max(self.tolerance * (1 - lipschitz) / lipschitz, 4 * torch.finfo(y.dtype).eps)
        given = _sum(y.square()).isfinite()
        x = torch.where(column(given, x), y - function(x), x)
        moving = given & _sum(x.square()).isfinite()  # of a row whose context is NaN, so is the fixed point
        for _ in range(_STEPS):
            new = y - function(x)
            step, size = (_sum(part.square()).sqrt() for part in (new - x, new))
            x = torch.where(column(moving, x), new, x)
            settled = (step <= tolerance * (1 + size)) & size.isfinite()  # an error is at most L / (1 - L) of a step
            moving = moving & ~settled
            if not bool(moving.any()):
                return x
        raise RuntimeError(
            f"the inverse of a residual layer has not converged in {_STEPS} steps for {int(moving.sum())} of {len(y)} "
            f"rows: its network must have a Lipschitz constant of at most {lipschitz}"
        )


def _sum(x: Tensor) -> Tensor:
    """The sum over each event, of rows ``(N, *event)``."""
    return by_datum(x, x.dim() - 1).sum(-1)


class _OfRows:
    """A contraction of rows ``(N, *event)``, given their contexts and the network's tensors."""

    def __init__(self, network: Contraction, context: Tensor | None, tensors: tuple[Tensor, ...]) -> None:
        self.network, self.context, self.tensors = network, context, tensors
        self.call = with_tensors(network.prepared, network, tensors)()

    def __call__(self, rows: Tensor) -> Tensor:
        return self.call(rows, self.context)

    def given(self, context: Tensor | None, *tensors: Tensor) -> _OfRows:
        """The same for other contexts and tensors."""
        return _OfRows(self.network, context, tensors)


class _Implicit(Function):
    """Zero, with the gradient of a fixed point: of :math:`(I + J)^{-1}` times what the fixed point leaves.

    Where that is differentiated again, the gradient is that of the definition in what it depends on.
    """

    @staticmethod
    def forward(
        ctx: Any, rest: Tensor, function: _OfRows, residual: Residual, x: Tensor, *given: Tensor | None
    ) -> Tensor:
        ctx.function, ctx.residual = function, residual
        ctx.save_for_backward(x, *given)
        return torch.zeros_like(rest)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        x, *given = ctx.saved_tensors
        if not torch.is_grad_enabled():
            _, pull = torch.func.vjp(ctx.function, x)
            solution = ctx.residual._iterated(lambda power: pull(power)[0], gradient)
            return solution, None, None, None, *(None for _ in given)

        def definition(y: Tensor, *others: Tensor | None) -> tuple[Tensor]:
            return (ctx.residual._defined(ctx.function.given(*others), y),)

        return None, None, None, None, *differentiated(definition, given, (gradient,))
