"""Distributions that are put together from a module's own tensors whenever they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.values import require_value

from .distribution import PyrogenDistribution


class Assembled(PyrogenDistribution):
    """A distribution of another library, made anew from the same tensors each time it is used.

    What is computed from the tensors has a graph of its own at each use. So it can be kept and used again and again,
    each time with a backward pass, copied, and is never stale after a step of an optimizer.

    Args:
        make: Gives the distribution; a function that pickle finds by name.
        tensors: What it takes, as a rule parameters of a module.
        batch_shape: Batch dimensions to which what is made is expanded; as made if ``None``.
    """

    def __init__(
        self,
        make: Callable[..., TorchDistributionMixin],
        *tensors: Tensor,
        batch_shape: Iterable[int] | None = None,
    ) -> None:
        self._make, self._tensors = make, tensors
        made = make(*tensors)
        self.has_rsample = made.has_rsample
        shape = made.batch_shape if batch_shape is None else torch.Size(batch_shape)
        super().__init__(shape, made.event_shape, validate_args=False)

    def assemble(self) -> TorchDistributionMixin:
        """The distribution with its tensors as they are now."""
        made = self._make(*self._tensors)
        return made if made.batch_shape == self.batch_shape else made.expand(self.batch_shape)

    @property
    def support(self) -> constraints.Constraint:
        return self.assemble().support

    @property
    def mean(self) -> Tensor:
        return self.assemble().mean

    @property
    def variance(self) -> Tensor:
        return self.assemble().variance

    def _expanded(self, batch_shape: torch.Size) -> Assembled:
        return Assembled(self._make, *self._tensors, batch_shape=batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        return self.assemble().log_prob(value)

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.assemble().rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.assemble().sample(torch.Size(sample_shape))
