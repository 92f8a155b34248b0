r"""Elements: monotone maps of single numbers, the building blocks of coupling and autoregressive transforms.

An element takes ``size`` parameters for each number. They come parameter-major, ``(size, *shape)`` for numbers of shape
``shape``, so that computing is contiguous. Zero parameters give the identity. A :class:`Split` holds which elements of
a vector are mapped, and which are the input of the network that computes the parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class ElementKernel(NamedTuple):
    """A map of each number with parameters of its own, and its backward pass.

    Args:
        forward: From parameters ``(size, N)`` and ``x`` ``(N,)`` to value, log-slope and what ``backward`` needs, by
            differentiable operations.
        backward: From that and the gradients of value and log-slope to those of parameters and ``x``.
    """

    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, tuple[Tensor, ...]]]
    backward: Callable[[tuple[Tensor, ...], Tensor, Tensor], tuple[Tensor, Tensor]]


class Element(ABC):
    """A monotone increasing map of each number on its own."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many parameters each number takes."""

    def kernel(self, inverse: bool) -> ElementKernel | None:
        """:meth:`forward`, or :meth:`inverse`, with its backward pass, if there is one written by hand."""
        return None

    @abstractmethod
    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the logarithm of the slope there, from parameters of shape ``(size, *x.shape)``."""

    @abstractmethod
    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The place where the value is ``y``, and the logarithm of the *inverse's* slope."""


class Split(NamedTuple):
    """Which elements of a vector a network sees, and which are mapped.

    Args:
        seen: Indices of the elements the network sees; all in their order if ``None``.
        mapped: Indices of the elements that are mapped; if it is ``seen``, those the network sees.
        back: If all are mapped, what puts them into the old order.
    """

    seen: Tensor | None = None
    mapped: Tensor | None = None
    back: Tensor | None = None

    def take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The elements that are seen, and those that are mapped, from ``(D, N)``."""
        seen = x if self.seen is None else x.index_select(0, self.seen)
        return seen, seen if self.mapped is self.seen else x.index_select(0, self.mapped)

    def join(self, mapped: Tensor, x: Tensor) -> Tensor:
        """The vectors ``x`` with mapped elements in their places."""
        if self.mapped is None:
            return mapped
        return x.index_copy(0, self.mapped, mapped) if self.back is None else mapped.index_select(0, self.back)
