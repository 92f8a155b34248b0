r"""Continuous flows: a velocity network, followed from noise to data.

In place of a chain of layers there is one velocity :math:`v(x, t, c)`, and the bijection is the solution of
:math:`dx / dt = v` from noise at :math:`t = 1` to data at :math:`t = 0`; see :mod:`pyrogen.transforms.ode`. It is
trained by flow matching, without solving anything, or by likelihood.

A density needs the divergence of the velocity. The network here has one in closed form, at the price of a random
estimate; see :mod:`pyrogen.networks.velocity`.

References:
    Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud 2019, "FFJORD: Free-form continuous dynamics for scalable
    reversible generative models", https://arxiv.org/abs/1810.01367
    Lipman, Chen, Ben-Hamu, Nickel and Le 2023, "Flow matching for generative modeling",
    https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pyrogen.core.matching import FlowMatching, Matchable
from pyrogen.core.module import DistributionModule
from pyrogen.core.normal import StandardNormal
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, ContextShape, Shape, context_batch_shape, embedded
from pyrogen.networks.statistics import Statistic, read_by
from pyrogen.networks.velocity import VelocityField
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.ode import AdaptiveSolver, Solver
from pyrogen.numerics.trace import ExactTrace, Trace
from pyrogen.transforms.distribution import TransformedDistribution
from pyrogen.transforms.ode import ODE

from .linear import Standardize


class ContinuousFlow(DistributionModule, Matchable):
    """Standard normal noise carried to data by a velocity.

    Args:
        velocity: Called as ``velocity(x, t, context)`` with rows ``(N, *event_shape)``, times ``(N,)`` and (embedded)
            contexts of ``N`` rows or ``None``. One that is a :class:`~pyrogen.networks.velocity.VelocityField` with a
            divergence in closed form has it used for exact traces.
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        embedding: A network from the context, one batch dimension in front, to what the velocity takes.
        standardize: Whether mean and scale of each element are learned from the data set, before training.
        solver: Chooses the steps of draws and densities; see :class:`~pyrogen.numerics.ode.AdaptiveSolver`.
        trace: How the divergence is found where there is no closed form.

    Example:
        >>> from pyrogen.networks.velocity import VelocityNetwork
        >>> flow = ContinuousFlow(VelocityNetwork((3,)), event_shape=(3,))
        >>> flow().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    density = "estimate"

    def __init__(
        self,
        velocity: nn.Module,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
        embedding: nn.Module | None = None,
        standardize: bool = True,
        solver: Solver = AdaptiveSolver(),
        trace: Trace = ExactTrace(),
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.velocity, self.embedding = velocity, embedding
        self.base = StandardNormal(self.event_shape)
        self.standardize = Standardize(self.event_shape) if standardize else None
        self.solver, self.trace = solver, trace

    def forward(self, context: Context = None) -> TransformedDistribution:
        closed = isinstance(self.velocity, VelocityField) and self.velocity.has_divergence
        flow = ODE(
            self.velocity,
            self.event_shape,
            context=embedded(context, self.context_shape, self.embedding),
            batch_shape=context_batch_shape(context, self.context_shape),
            divergence=self.velocity.velocity_and_divergence if closed else None,
            solver=self.solver,
            trace=self.trace,
            module=self.velocity,
        )
        transforms = [flow] if self.standardize is None else [flow, self.standardize()]
        remake = None if context is None else Remade(self, context)
        return TransformedDistribution(self.base(), transforms, parameters=self.parameters, remake=remake)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        if self.standardize is not None:
            yield from self.standardize.read_data(x)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.embedding, context)

    def noise(self, x: Tensor, context: Context = None) -> Tensor:
        """The noise behind data, which sampling sends to them: of the shape of ``x``.

        Args:
            x: Events, ``(*batch, *event_shape)``.
            context: What the flow depends on; its batch dimensions broadcast with those of ``x``.
        """
        return self(context).noise(x)

    def objective(self) -> FlowMatching:
        """Flow matching; ``MaximumLikelihood(flow)`` trains too, at a hundred times the cost of a step."""
        return FlowMatching(self)

    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The data, standardized, and as many draws of noise."""
        if self.standardize is not None:
            x = self.standardize().inverse_and_log_det(x)[0]
        return x, torch.randn_like(x)

    def slopes(self, data: Tensor, noise: Tensor, t: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """The velocity at time ``t`` on the straight line from data to noise, and that of the line."""
        sigma = t.reshape(t.shape + (1,) * len(self.event_shape))
        path = GaussianPath(1 - sigma, sigma)
        shared = embedded(context, self.context_shape, self.embedding)
        return self.velocity(path.mix(data, noise), t, shared), noise - data
