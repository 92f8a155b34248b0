r"""Flows of angles: on the circle, on tori of any dimension, and on angles beside other numbers.

An angle is a real number of which whole turns make no difference. Noise is uniform on the circle. A layer maps each
angle by an increasing function with :math:`f(\theta + 2 \pi) = f(\theta) + 2 \pi`, a bijection of the real line that is
one of the circle, too; networks see cosines and sines. So :math:`|\det J|`, and with it the density, is periodic in
every angle, and so is its gradient. Only the last transform wraps draws into :math:`[-\pi, \pi]`.

Gradients through draws are those of expectations of periodic functions: a function with a jump at :math:`\pi` has none
for what crosses it.

References:
    Rezende, Papamakarios, Racanière, Albergo, Kanwar, Shanahan and Cranmer 2020, "Normalizing flows on tori and
    spheres", https://arxiv.org/abs/2002.02428
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import torch
from torch import Tensor

from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.shapes import Context, Shape
from pyrogen.distributions.angular import CircularNoise
from pyrogen.numerics.angles import Circular
from pyrogen.numerics.supports import End
from pyrogen.transforms.interval import GivenEnd, end_of
from pyrogen.transforms.wrap import Wrap

Angles = bool | Sequence[bool]
"""Which elements of an event are angles: all, or one truth value for each of the (flattened) elements."""


class UniformAngles(DistributionModule):
    """Uniform angles, and standard normal numbers where an element is no angle: the base of a flow of angles.

    Args:
        event_shape: Shape of one event.
        angles: Which elements are angles: ``True`` for all, or one truth value for each.

    Raises:
        ValueError: ``angles`` does not have one entry for each element, or there is no angle.
    """

    def __init__(self, event_shape: Shape, *, angles: Angles = True) -> None:
        super().__init__(event_shape)
        self.register_buffer("angles", mask_of(angles, self.event_shape), persistent=False)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, context: Context = None) -> CircularNoise:
        return CircularNoise(self.event_shape, self.zero, self.angles, validate_args=False)


class Wrapped(BijectionModule):
    """The last bijection of a flow of angles, which wraps them, and states the support; see :class:`Wrap`.

    Args:
        event_shape: Shape of one event.
        angles: Which elements are angles: ``True`` for all, or one truth value for each.
        low: Where a bijection before this one has put the lower end of the other elements: a number, or one for each.
        high: The upper end, likewise.

    Raises:
        ValueError: ``angles`` does not have one entry for each element, or there is no angle.
    """

    def __init__(
        self, event_shape: Shape, *, angles: Angles = True, low: GivenEnd = None, high: GivenEnd = None
    ) -> None:
        super().__init__(event_shape)
        self.register_buffer("angles", mask_of(angles, self.event_shape), persistent=False)
        ends = [self._end(end_of(low, -inf, "low")), self._end(end_of(high, inf, "high"))]
        self.register_buffer("ends", None if self.angles is None else torch.stack(ends))

    def forward(self, context: Context = None) -> Wrap:
        support = Circular() if self.angles is None else Circular(self.angles, *self.ends)
        return Wrap(support, event_dim=len(self.event_shape))

    def _end(self, end: End) -> Tensor:
        return torch.as_tensor(end, dtype=torch.get_default_dtype()).expand(self.event_shape)


def mask_of(angles: Angles, event_shape: Shape) -> Tensor | None:
    """Which elements are angles, in the shape of an event; ``None`` if all of them are."""
    listed = flags_of(angles, prod(event_shape))
    return None if all(listed) else torch.tensor(listed).reshape(event_shape)


def flags_of(angles: Angles, size: int) -> list[bool]:
    """Whether each of so many elements is an angle.

    Raises:
        ValueError: there is not one truth value for each, or no angle.
    """
    flags = [angles] * size if isinstance(angles, bool) else list(angles)
    if len(flags) != size or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(f"`angles` must be True or hold a truth value for each of {size} elements, got {angles!r}")
    if not any(flags):
        raise ValueError(f"`angles` must name at least one angle, got {angles!r}; a spline flow takes no angles")
    return flags
