"""Bases: where a flow's noise comes from."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, Shape


class StandardNormal(DistributionModule):
    """Independent standard normal noise; follows the module's device and dtype.

    Args:
        event_shape: Shape of one event.
    """

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, context: Context = None) -> dist.Independent:
        loc = self.zero.expand(self.event_shape)
        normal = dist.Normal(loc, torch.ones_like(self.zero).expand_as(loc), validate_args=False)
        return _StandardNormal(normal, len(self.event_shape), validate_args=False)


class _StandardNormal(dist.Independent):
    """A standard normal whose density is one sum of squares."""

    def log_prob(self, value: Tensor) -> Tensor:
        event_dim = len(self.event_shape)
        squares = value.square().flatten(-event_dim).sum(-1) if event_dim else value.square()
        log_prob = -0.5 * (squares + self.event_shape.numel() * math.log(2 * math.pi))
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))
