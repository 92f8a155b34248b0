r"""Flow maps: a diffusion model that draws in one step, or in a few.

The probability flow carries noise to data along a differential equation, which takes tens of evaluations to follow. A
*flow map* :math:`X_{t, s}` is its solution from any time :math:`t` to any earlier :math:`s`, learned: one evaluation
goes the whole way. In :math:`n` steps :math:`1 = t_0 > \dots > t_n = 0`,

.. math:: x = X_{t_{n - 1}, t_n} \circ \dots \circ X_{t_0, t_1}(s_1 \varepsilon) \, / \, \alpha_0 , \qquad
    \varepsilon \sim \mathcal{N}(0, I), \quad s_1^2 = \sigma_1^2 + \alpha_1^2 d^2 .

With the exact map (:mod:`pyrogen.diffusion.average`) the number of steps makes no difference. A learned one errs less
over shorter ways, so it is an argument of sampling. What is drawn is a push-forward of noise, whatever the errors of
the map; nobody knows its density, and ``density`` is ``None``. The distribution is a prior all the same: chains and
guides work in the space of its noise, with a gradient through one evaluation in place of fifty
(:class:`pyrogen.inverse.NoiseMCMC`).

At :math:`t = 1` the mean of the data is neglected, which must be small beside :math:`\sigma_1 / \alpha_1`.

References:
    Boffi, Albergo and Vanden-Eijnden 2025, "How to build a consistency model: learning flow maps via
    self-distillation", https://arxiv.org/abs/2505.18825
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from pyrogen.arguments import instance_of
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import Context, batch_shape_of, common_batch_shape, context_batch_shape
from pyrogen.distributions.normal import UnitNormal
from pyrogen.distributions.push_forward import PushForward
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.autograd import pushed_forward
from pyrogen.numerics.grids import FlowGrid, Grid
from pyrogen.numerics.linear import log_abs_det
from pyrogen.numerics.rows import by_datum

from .average import AverageDenoiser
from .few_step_objectives import ShortcutDistillation


class FlowMap(DistributionModule):
    """Draws of a learned flow map: noise, taken to data in few steps; a distribution without a density.

    Its :attr:`denoiser` is one for other distributions too: ``Diffusion(flow_map.denoiser)`` has a bound of the
    log-density, ``ProbabilityFlow(flow_map.denoiser)`` an estimate, both of the process whose flow the map follows.

    Args:
        denoiser: The average denoiser of the map.
        grid: The times of the steps; one step if ``None``. :meth:`in_steps` gives the same map in others.

    Raises:
        TypeError: ``denoiser`` is no average denoiser, or ``grid`` no grid.

    Example:
        >>> from pyrogen.diffusion import flow_map
        >>> model = flow_map((2,), width=16, depth=1)
        >>> model().sample((5,)).shape, model.in_steps(4)().sample((5,)).shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    density = None

    def __init__(self, denoiser: AverageDenoiser, *, grid: Grid | None = None) -> None:
        instance_of(AverageDenoiser)(denoiser, "denoiser")
        super().__init__(denoiser.event_shape, denoiser.context_shape)
        self.denoiser = denoiser
        self.grid = FlowGrid(1) if grid is None else instance_of(Grid)(grid, "grid")

    def forward(self, context: Context = None) -> PushForward:
        batch = context_batch_shape(context, self.context_shape)
        noise = UnitNormal(self.event_shape, self.denoiser.like(), batch)
        return PushForward(noise, partial(self.generated, context=context), self.event_shape, validate_args=False)

    def in_steps(self, steps: int) -> FlowMap:
        """The same map, with the same parameters, in other steps: so many evaluations for each draw."""
        return FlowMap(self.denoiser, grid=FlowGrid(steps))

    def generated(self, noise: Tensor, context: Context = None) -> Tensor:
        """The events that noise becomes.

        Args:
            noise: Standard normal.
            context: What events depend on; its batch dimensions broadcast with those of ``noise``.

        Shape:
            ``(*batch, *event_shape)`` to the same, ``batch`` that of both.
        """
        noise = self._of_each(noise, context)
        times = self.grid(self.denoiser.schedule).tolist()
        x = self._scale(noise, times[0]) * noise
        for start, end in pairwise(times):
            x = self.denoiser.jump(x, start, end, context)
        return x / self.denoiser.path(x, times[-1]).alpha

    def generated_and_log_det(self, noise: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        r"""The events that noise becomes, and :math:`\log |\det \partial x / \partial \varepsilon|` in nats.

        Where the map is one to one, as that of a flow is and a learned one need not be, the log-density of draws is
        :math:`\log \mathcal{N}(\varepsilon; 0, I)` less this. It takes as many passes as an event has elements.

        Shape:
            ``(*batch, *event_shape)`` to the same and ``batch``, that of both.
        """
        noise = self._of_each(noise, context).contiguous()  # forward mode writes in place
        function = partial(self.generated, context=context)

        def pushed(direction: Tensor) -> Tensor:
            return pushed_forward(function, (noise,), (direction.expand_as(noise),))[1]

        size = prod(self.event_shape)
        basis = torch.eye(size, dtype=noise.dtype, device=noise.device).reshape(size, *self.event_shape)
        columns = by_datum(torch.vmap(pushed)(basis), len(self.event_shape))  # (D, *batch, D)
        return function(noise), log_abs_det(columns.movedim(0, -1))

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.denoiser.read_data(context)

    def objective(self) -> Objective:
        """The default objective, which ``fit`` uses: self-distillation by the semigroup identity."""
        return ShortcutDistillation(self)

    def _of_each(self, noise: Tensor, context: Context) -> Tensor:
        """Noise for each context."""
        shapes = {"noise": batch_shape_of(noise, self.event_shape, "noise")}
        batch = common_batch_shape({**shapes, "context": context_batch_shape(context, self.context_shape)})
        return noise.expand(batch + noise.shape[noise.dim() - len(self.event_shape) :])

    def _scale(self, noise: Tensor, t: float) -> Tensor | float:
        """The standard deviation of noisy data, of each element."""
        return 1 / self.denoiser.path(noise, t).whitening(self.denoiser.data_scale)
