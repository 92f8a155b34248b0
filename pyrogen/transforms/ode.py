r"""A bijection that follows a differential equation: from noise at time 1 to data at time 0.

Along :math:`dx / dt = v(x, t, c)` a density changes by the divergence of the velocity alone,

.. math:: \frac{d}{dt} \log p_t(x_t) = -\operatorname{div} v(x_t, t, c), \qquad
    \log \left| \det \frac{\partial x_0}{\partial x_1} \right| = \int_1^0 \operatorname{div} v(x_t, t, c) \, dt ,

so any velocity network makes a bijection, and its inverse is the same equation followed the other way. Value and
log-determinant are right up to the tolerance of the solver, so the density is an "estimate".

References:
    Chen, Rubanova, Bettencourt and Duvenaud 2018, "Neural ordinary differential equations",
    https://arxiv.org/abs/1806.07366
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole 2021, "Score-based generative modeling through stochastic
    differential equations", https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from pyrogen.numerics.adjoint import Problem, solve
from pyrogen.numerics.autograd import in_full_precision, tensors_of, with_tensors
from pyrogen.numerics.ode import AdaptiveSolver, FixedSolver, Path, Solver
from pyrogen.numerics.runge_kutta import Field
from pyrogen.numerics.trace import ExactTrace, Trace
from pyrogen.programs.chain import refuse_chain

from .transform import Transform

Rows = Tensor | Mapping[str, Tensor] | None
Velocity = Callable[[Tensor, Tensor, Rows], Tensor]
"""``velocity(x, t, context)`` of ``N`` rows: ``x`` ``(N, *event)``, times ``(N,)``, and their contexts."""

Divergence = Callable[[Tensor, Tensor, Rows], tuple[Tensor, Tensor]]
"""The velocity and its divergence ``(N,)``, from the same arguments."""


class ODE(Transform):
    """Follows a velocity from time 1 (noise) to time 0 (data).

    The rows of a batch are followed each with its own steps. Gradients in value, context and parameters are those of
    the computed answer, found by going through the steps once more backwards (:mod:`pyrogen.numerics.adjoint`); they
    can be differentiated again. A value alone, as a draw is, needs no divergence and costs accordingly less.

    Args:
        velocity: See :data:`Velocity`. It must treat rows alike and apart: no batch normalization, no dropout.
        event_shape: Shape of one event.
        context: What the velocity takes besides; its tensors have a batch dimension for each of ``batch_shape``.
        batch_shape: Batch dimensions of the context.
        divergence: Velocity and divergence in closed form, if there is one: then no exact trace is computed.
        solver: Chooses the steps. A :class:`~pyrogen.numerics.ode.FixedSolver` refuses a log-determinant whose
            estimated error is above its tolerance.
        trace: How the divergence is found.
        module: Where the tensors inside ``velocity`` are that may need gradients. They count as they are when the
            transform is made, also if ``torch.func.functional_call`` puts others back before it is used.
    """

    density = "estimate"
    costly_log_det = True

    def __init__(
        self,
        velocity: Velocity,
        event_shape: tuple[int, ...],
        *,
        context: Rows = None,
        batch_shape: torch.Size = torch.Size(),
        divergence: Divergence | None = None,
        solver: Solver = AdaptiveSolver(),
        trace: Trace = ExactTrace(),
        module: nn.Module | None = None,
    ) -> None:
        super().__init__(len(event_shape), batch_shape)
        self.velocity, self.divergence = velocity, divergence
        self.solver, self.trace = solver, trace
        self.event_shape = torch.Size(event_shape)
        self.context = context
        self.module, self.state = module, tensors_of(module)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._follow(x, 1.0, 0.0, True)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._follow(y, 0.0, 1.0, True)

    def _call(self, x: Tensor) -> Tensor:
        return self._follow(x, 1.0, 0.0, False)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self._follow(y, 0.0, 1.0, False)[0]

    @in_full_precision
    def _follow(self, x: Tensor, start: float, end: float, integral: bool) -> tuple[Tensor, Tensor]:
        cut = x.dim() - self.event_dim
        batch = torch.broadcast_shapes(x.shape[:cut], self.batch_shape)
        rows = x.expand(batch + x.shape[cut:]).reshape(-1, *self.event_shape)
        noise = self.trace.noise(rows) if integral else None
        if noise is not None and self.trace.fresh:
            refuse_chain("a flow with Hutchinson's trace", "use ExactTrace(), or freeze the probes by `noise_seed`")
        inputs = [] if noise is None else [noise]
        inputs += [self._rows(part, batch) for part in self._parts()]
        tensors, noisy = tuple(self.state.values()), noise is not None
        bind = partial(self._field, noisy=noisy)
        problem = Problem(bind(tensors), self.solver, start, end, integral, self._check, bind)
        value, log_det = solve(problem, rows, inputs, tensors)
        return value.reshape(batch + self.event_shape), log_det.reshape(batch)

    def _parts(self) -> list[Tensor]:
        if self.context is None:
            return []
        return list(self.context.values()) if isinstance(self.context, Mapping) else [self.context]

    def _rows(self, part: Tensor, batch: torch.Size) -> Tensor:
        event = part.shape[len(self.batch_shape) :]
        return part.expand(batch + event).reshape(-1, *event)

    def _field(self, tensors: tuple[Tensor, ...], *, noisy: bool) -> Field:
        """The slope with such tensors in the module."""
        return with_tensors(partial(self._slope, noisy=noisy), self.module, tensors)

    def _slope(
        self, t: Tensor, x: Tensor, inputs: tuple[Tensor, ...], with_rate: bool, *, noisy: bool
    ) -> tuple[Tensor, Tensor | None]:
        noise, parts = (inputs[0], inputs[1:]) if noisy else (None, inputs)
        named = isinstance(self.context, Mapping)
        context = dict(zip(self.context, parts, strict=True)) if named else next(iter(parts), None)
        if not with_rate:
            return self.velocity(x, t, context), None
        if self.divergence is not None and isinstance(self.trace, ExactTrace):
            return self.divergence(x, t, context)
        return self.trace(lambda x: self.velocity(x, t, context), x, noise)

    def _check(self, path: Path, integral: bool) -> None:
        if torch.distributions.Distribution._validate_args:
            path.check()
        if not integral or not isinstance(self.solver, FixedSolver) or not len(path.error):
            return
        worst, row = path.error.nan_to_num(0.0).max(0)
        if worst > self.solver.tolerance:
            limit = self.solver.tolerance
            raise ValueError(
                f"`solver` is too coarse for a density: {self.solver.name} has an estimated error of "
                f"{float(worst):.2g} nats in row {int(row)}, above its tolerance of {limit:g}; use more "
                "steps or AdaptiveSolver()"
            )
