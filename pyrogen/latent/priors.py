"""Priors: where latent variables come from."""

from __future__ import annotations

import torch

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, Shape
from pyrogen.distributions.normal import StandardNormal as Noise


class StandardNormal(DistributionModule):
    """Independent standard normal latents; follows the module's device and dtype.

    Args:
        event_shape: Shape of one latent.

    Example:
        >>> StandardNormal((3,))().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, context: Context = None) -> Noise:
        return Noise(self.event_shape, self.zero)
