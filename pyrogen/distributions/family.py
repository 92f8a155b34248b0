"""A family: what distribution the numbers that a network puts out make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor


class Family(ABC):
    """From numbers to a distribution over events; what has ``numbers_shape`` and is called like it serves as well."""

    @abstractmethod
    def numbers_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the numbers of one event, ``(size, *event_shape)`` for most."""

    @abstractmethod
    def __call__(self, numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
        """The distribution over events, from numbers of shape ``(*batch, *numbers_shape(event_shape))``."""


@dataclass(frozen=True)
class ElementFamily(Family):
    """A family of single elements, which are independent given the numbers.

    Args:
        size: How many numbers each element of the event takes.
        make: Called with a tensor of shape ``(*batch, size, *event)`` and how many dimensions an event has; gives the
            distribution over events. A module-level function, so that the family pickles.
    """

    size: int
    make: Callable[[Tensor, int], TorchDistributionMixin]

    def __repr__(self) -> str:
        return f"ElementFamily(size={self.size})"

    def numbers_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.size, *event_shape)

    def __call__(self, numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
        return self.make(numbers, event_dim)
