"""The distribution that most models start from: independent standard normal noise, as a module."""

from __future__ import annotations

import torch

from pyrogen.distributions.normal import UnitNormal

from .module import DistributionModule
from .shapes import Context, Shape


class StandardNormal(DistributionModule):
    """Independent standard normal numbers, in the device and dtype of the module: the base of a flow, or a prior.

    Args:
        event_shape: Shape of one event.

    Example:
        >>> StandardNormal((3,))().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, context: Context = None) -> UnitNormal:
        return UnitNormal(self.event_shape, self.zero, validate_args=False)
