r"""Elements: monotone maps of single numbers, the building blocks of coupling and autoregressive transforms.

An element takes ``size`` parameters for each number. They come parameter-major, ``(size, *shape)`` for numbers of shape
``shape``, so that computing is contiguous. Zero parameters give the identity. A :class:`Split` holds which elements of
a vector are mapped, and which are the input of the network that computes the parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
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

    alike: bool = True
    """Whether all numbers of a vector are mapped in the same way, so that it can map a part of them."""

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


class Mixed(Element):
    """Numbers of several kinds side by side, each kind mapped by an element of its own.

    Args:
        elements: How each kind is mapped.
        kinds: Of each number that is mapped, in their order, which of the elements maps it.

    Shape:
        Parameters are ``(size, D, *batch)``, numbers ``(D, *batch)``.
    """

    alike = False

    def __init__(self, elements: Sequence[Element], kinds: Sequence[int]) -> None:
        self.elements, self.kinds = tuple(elements), tuple(kinds)
        groups = [[place for place, own in enumerate(kinds) if own == kind] for kind in range(len(self.elements))]
        self.groups = [(element, group) for element, group in zip(self.elements, groups, strict=True) if group]
        order = [place for _, group in self.groups for place in group]
        self.back = sorted(range(len(order)), key=order.__getitem__)

    @property
    def size(self) -> int:
        return max(element.size for element in self.elements)

    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._joined(
            [element.forward(parameters[: element.size, group], x[group]) for element, group in self.groups]
        )

    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._joined(
            [element.inverse(parameters[: element.size, group], y[group]) for element, group in self.groups]
        )

    def _joined(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        values, log_slopes = zip(*parts, strict=True)
        return torch.cat(values)[self.back], torch.cat(log_slopes)[self.back]


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
