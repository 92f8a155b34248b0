"""Forms of numbers: the inputs that networks get for a number, by its meaning.

A positive number matters by itself or by its logarithm, so both go in; labels become one-hot. What comes of an element
is standardized afterwards.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked


class Form(Abstract, nn.Module):
    """What becomes of each number; it has no parameters.

    Shape:
        ``(*shape)`` to ``(*shape, width)``.
    """

    width: int = 1
    """How many numbers come of one."""

    @abstractmethod
    def forward(self, numbers: Tensor) -> Tensor:
        """The forms of each number; NaN and infinities stay what they are in one of them."""


class Plain(Form):
    """Numbers as they are."""

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers.unsqueeze(-1)


class WithLogarithm(Form):
    """Numbers and the logarithms of their distances from an end.

    Args:
        end: Where their range ends.
        above: Whether they lie above it, not below.
        counts: Whether they may lie at the end, as counts do at zero: the distance has one added.

    Example:
        >>> WithLogarithm(counts=True)(torch.tensor([0.0, 9.0]))
        tensor([[0.0000, 0.0000],
                [9.0000, 2.3026]])
    """

    width = 2

    def __init__(self, end: float | Tensor = 0.0, *, above: bool = True, counts: bool = False) -> None:
        super().__init__()
        self.end, self.above, self.counts = end, above, counts

    def forward(self, numbers: Tensor) -> Tensor:
        numbers = numbers if numbers.is_floating_point() else numbers.to(torch.get_default_dtype())
        distance = numbers - self.end if self.above else self.end - numbers
        if self.counts:
            return torch.stack([numbers, distance.clamp(min=0).log1p()], -1)
        return torch.stack([numbers, distance.clamp(min=torch.finfo(numbers.dtype).tiny).log()], -1)


class OneHot(Form):
    """Labels as vectors of zeros and a one.

    Args:
        symbols: How many labels there are, counted from zero.

    Example:
        >>> OneHot(3)(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    @checked
    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.width = symbols

    def forward(self, numbers: Tensor) -> Tensor:
        dtype = numbers.dtype if numbers.is_floating_point() else torch.get_default_dtype()
        found = (numbers.unsqueeze(-1) == torch.arange(self.width, device=numbers.device)).to(dtype)
        return torch.where(numbers.isfinite().unsqueeze(-1), found, torch.nan)
