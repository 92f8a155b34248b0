"""Draws that must carry gradients, as functions of noise and of parameters."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistributionMixin

from .module import DistributionModule


def reparameterized(distribution: TorchDistributionMixin, module: DistributionModule) -> TorchDistributionMixin:
    """A distribution of a module, whose draws carry gradients.

    Raises:
        NotImplementedError: they do not.
    """
    if not distribution.has_rsample:
        raise NotImplementedError(
            f"draws of {type(distribution).__name__} carry no gradients, which matching and games need; train "
            f"{type(module).__name__} by its `objective()`"
        )
    return distribution
