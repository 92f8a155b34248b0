"""Bases: where a flow's noise comes from, if not from the standard normal of :mod:`pyrogen.core.normal`."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrogen.arguments import checked
from pyrogen.core.module import DistributionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import Context, Shape
from pyrogen.distributions.assembled import Assembled
from pyrogen.distributions.families import HIGHEST, LOWEST
from pyrogen.distributions.independent import as_event
from pyrogen.distributions.mixture import Mixture


@recipe
class StudentT(DistributionModule):
    r"""Independent Student noise with learned degrees of freedom: for data with heavy tails.

    A flow whose bijections are linear far out keeps the tails of its base.

    Args:
        event_shape: Shape of one event.
        degrees: Where the degrees of freedom start; they stay above one.

    Raises:
        ValueError: ``degrees`` is not above one.
    """

    @checked
    def __init__(self, event_shape: Shape, *, degrees: float = 5.0) -> None:
        super().__init__(event_shape)
        if not degrees > 1:
            raise ValueError(f"`degrees` must be above 1, got {degrees}")
        self.log_excess = nn.Parameter(torch.full(self.event_shape, math.log(degrees - 1)))

    @property
    def degrees(self) -> Tensor:
        """The degrees of freedom of each number: absolute moments of lower order are finite."""
        return _degrees(self.log_excess)

    def forward(self, context: Context = None) -> Assembled:
        return Assembled(_student, self.log_excess)


@recipe
class GaussianMixture(DistributionModule):
    """A mixture of diagonal normals: for data in separate clusters. Its draws are not differentiable.

    Args:
        event_shape: Shape of one event.
        components: How many normals.
        spread: Standard deviation of their means at the start.

    Raises:
        ValueError: there is no component.
    """

    @checked
    def __init__(self, event_shape: Shape, *, components: int, spread: float = 1.0) -> None:
        super().__init__(event_shape)
        if components < 1:
            raise ValueError(f"`components` must be at least 1, got {components}")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(spread * torch.randn(components, *self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(components, *self.event_shape))

    def forward(self, context: Context = None) -> Assembled:
        return Assembled(_mixture, self.logits, self.loc, self.log_scale)


def _degrees(log_excess: Tensor) -> Tensor:
    return 1 + log_excess.clamp(-10, 10).exp()


def _student(log_excess: Tensor) -> TorchDistributionMixin:
    degrees = _degrees(log_excess)
    zero = torch.zeros_like(degrees)
    return as_event(dist.StudentT(degrees, zero, zero + 1, validate_args=False), degrees.dim())


def _mixture(logits: Tensor, loc: Tensor, log_scale: Tensor) -> Mixture:
    normals = dist.Normal(loc, log_scale.clamp(LOWEST, HIGHEST).exp(), validate_args=False)
    component = as_event(normals, loc.dim() - 1)
    return Mixture(dist.Categorical(logits=logits, validate_args=False), component, validate_args=False)
