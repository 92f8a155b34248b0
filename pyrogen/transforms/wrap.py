"""Angles between the real line and the circle."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

from pyrogen.numerics.angles import Circular
from pyrogen.numerics.autograd import in_full_precision

from .interval import Interval
from .transform import Transform


class Wrap(Transform):
    r"""The last transform of a flow of angles: real numbers become angles in :math:`[-\pi, \pi]`.

    Before it each angle is a real number, and whole turns make no difference to the transforms nor to the density. It
    maps a whole number of turns to one, so it has no other inverse than the angle in that interval itself; the
    log-determinant is zero.

    Args:
        support: Which elements are angles, and where the others lie.
        event_dim: How many rightmost dimensions one event has.

    Example:
        >>> Wrap(Circular(), event_dim=1)(torch.tensor([0.5, 3.5]))
        tensor([ 0.5000, -2.7832])
    """

    def __init__(self, support: Circular, event_dim: int = 0) -> None:
        super().__init__(event_dim)
        self.support = support

    @property
    def codomain(self) -> constraints.Constraint:
        return constraints.independent(self.support, self.event_dim) if self.event_dim else self.support

    def image(self, within: constraints.Constraint) -> constraints.Constraint:
        """Its codomain: before it, angles go around."""
        return self.codomain

    @in_full_precision
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.support.wrapped(x), x.new_zeros(x.shape[: x.dim() - self.event_dim])

    inverse_and_log_det = forward_and_log_det


class Cut(Interval):
    r"""The real line onto angles: the circle, cut open at :math:`\pi`, and other numbers between ends of their own.

    It is a bijection onto all angles but one. A chain of Monte Carlo that walks on the real line goes around the circle
    only by way of the other side.

    Args:
        support: Which elements are angles, and where the others lie.
    """

    def __init__(self, support: Circular) -> None:
        super().__init__(support.lower_bound, support.upper_bound, finite=True if support.angles is None else None)
        self.support = support

    @property
    def codomain(self) -> Circular:
        return self.support

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        inside = math.pi * (1 - torch.finfo(y.dtype).eps)  # of the circle, rounding finds the point that is cut out
        turned = self.support.wrapped(y)
        kept = turned.clamp(-inside, inside)
        angles = self.support.angles
        return super().inverse_and_log_det(kept if angles is None else torch.where(angles, kept, turned))


@biject_to.register(Circular)
@transform_to.register(Circular)
def _to_circular(constraint: Circular) -> Cut:
    return Cut(constraint)
