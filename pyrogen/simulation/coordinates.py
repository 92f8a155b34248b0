"""Coordinates: values of sites as one vector, in the form in which networks take them well.

A number that is positive matters by its logarithm (a scale) or by itself (a rate): both go in. Labels become one-hot,
counts come with their logarithm. All others are as they are; whoever takes the vector standardises it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf, prod

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrogen.networks.context import integer_labels
from pyrogen.numerics.supports import element_of, ends

from .row import Parent

_MANY = 32
"""Of more labels than these the number itself goes in."""


class Coordinates(nn.Module):
    """Values of several sites as one vector.

    Args:
        shapes: The shape of each value.
        supports: Where each lies.

    Shape:
        ``(*batch, *shape)`` of each, whose batch dimensions broadcast, to ``(*batch, size)``.

    Example:
        >>> coordinates = Coordinates({"scale": (2,)}, {"scale": constraints.positive})
        >>> coordinates({"scale": torch.ones(5, 2)}).shape
        torch.Size([5, 4])
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], supports: Mapping[str, Constraint]) -> None:
        super().__init__()
        self.shapes, self.supports = dict(shapes), dict(supports)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @property
    def size(self) -> int:
        """How long the vector is."""
        return sum(prod(shape) * _width(self.supports[name]) for name, shape in self.shapes.items())

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        parts = [self._vector(name, values[name]) for name in self.shapes]
        if len(parts) == 1:
            return parts[0]
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)

    def _vector(self, name: str, value: Tensor) -> Tensor:
        shape, support = self.shapes[name], self.supports[name]
        flat = value.reshape(*value.shape[: value.dim() - len(shape)], prod(shape))
        labels = _labels(support)
        if labels is not None:
            whole = flat if flat.is_floating_point() else integer_labels(flat, labels, name)
            return (whole.unsqueeze(-1) == torch.arange(labels, device=flat.device)).to(self.zero.dtype).flatten(-2)
        flat = flat.to(self.zero.dtype) if not flat.is_floating_point() else flat
        return torch.cat(_forms(flat, support), -1) if _width(support) > 1 else flat


def coordinates_of(parents: Mapping[str, Parent]) -> Coordinates:
    """The coordinates of what a row sees."""
    shapes = {name: parent.shape for name, parent in parents.items()}
    return Coordinates(shapes, {name: parent.support for name, parent in parents.items()})


def _forms(value: Tensor, support: Constraint) -> list[Tensor]:
    """A number in all its forms."""
    if support.is_discrete:
        return [value, value.clamp(min=0).log1p()]
    low, high = ends(support)
    distance = value - low if not _infinite(low) else high - value
    return [value, distance.clamp(min=torch.finfo(value.dtype).tiny).log()]


def _width(support: Constraint) -> int:
    """How many numbers come of one element."""
    labels = _labels(support)
    if labels is not None:
        return labels
    found = ends(support)
    if support.is_discrete:
        return 2 if isinstance(element_of(support), type(constraints.nonnegative_integer)) else 1
    return 2 if found is not None and _infinite(found[0]) != _infinite(found[1]) else 1


def _labels(support: Constraint) -> int | None:
    """How many labels there are, if values are few labels counted from zero."""
    element = element_of(support)
    if not isinstance(element, constraints.integer_interval) or torch.as_tensor(element.upper_bound).dim():
        return None
    low, high = int(element.lower_bound), int(element.upper_bound)
    return high + 1 if low == 0 and 2 <= high < _MANY else None


def _infinite(end: float | Tensor) -> bool:
    return not isinstance(end, Tensor) and isinf(end)
