"""Unit vectors: the sphere in any number of dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

_TOLERANCE = 1e-5


class Sphere(Constraint):
    """Vectors of length one, to within 1e-5. Densities are those by area.

    ``biject_to`` maps the real numbers, one dimension fewer, onto all of it but one point; see
    :class:`pyrogen.transforms.Stereographic`.
    """

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(value, dim=-1) - 1).abs() < _TOLERANCE

    def __repr__(self) -> str:
        return "Sphere()"


def log_area(dimensions: int) -> float:
    """The logarithm of the area of the unit sphere of so many dimensions: of 2, that of a ball's surface.

    Example:
        >>> round(math.exp(log_area(2)) / math.pi, 6)
        4.0
    """
    half = (dimensions + 1) / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)
