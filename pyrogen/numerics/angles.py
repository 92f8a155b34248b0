r"""Angles: real numbers of which those that differ by whole turns are one and the same.

An angle is given in radians by any real number; the numbers in :math:`[-\pi, \pi]` stand for all. A density over angles
is one over that interval, and periodic beyond it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .supports import End, OpenInterval

TURN = 2 * math.pi


def wrapped(x: Tensor) -> Tensor:
    r"""The same angle in :math:`[-\pi, \pi]`.

    Example:
        >>> wrapped(torch.tensor([0.5, 3.5, -10.0]))
        tensor([ 0.5000, -2.7832,  2.5664])
    """
    turned = torch.remainder(x + math.pi, TURN) - math.pi
    return torch.where(x.abs() <= math.pi, x, turned)  # what needs no turn is not rounded


class Circular(OpenInterval):
    r"""Numbers of which some, or all, are angles.

    Every finite number stands for an angle. Its ends, :math:`-\pi` and :math:`\pi`, are those of the interval over
    which a density integrates to one, and onto which ``biject_to`` maps the real line: the whole circle but for one
    point.

    Args:
        angles: Boolean, which elements are angles; all if ``None``.
        low: The lower end of the others, or one for each element; minus infinity where there is none.
        high: The upper end, likewise.
    """

    def __init__(self, angles: Tensor | None = None, low: End = -math.inf, high: End = math.inf) -> None:
        self.angles = angles
        if angles is None:
            super().__init__(-math.pi, math.pi)
        else:
            super().__init__(_end_of(angles, -math.pi, low), _end_of(angles, math.pi, high))

    def check(self, value: Tensor) -> Tensor:
        if self.angles is None:
            return value.isfinite()
        return torch.where(self.angles, value.isfinite(), super().check(value))

    def wrapped(self, value: Tensor) -> Tensor:
        """The same numbers, angles between the ends."""
        return wrapped(value) if self.angles is None else torch.where(self.angles, wrapped(value), value)

    def __repr__(self) -> str:
        return "Circular()" if self.angles is None else f"Circular({int(self.angles.sum())} of {self.angles.numel()})"


def _end_of(angles: Tensor, of_angles: float, of_others: End) -> Tensor:
    others = torch.as_tensor(of_others, dtype=torch.get_default_dtype(), device=angles.device)
    return torch.where(angles, others.new_tensor(of_angles), others)
