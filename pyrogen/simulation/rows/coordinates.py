"""Coordinates: values of sites as one vector, in the form that suits networks.

A number that is positive matters by its logarithm (a scale) or by itself (a rate): both go in. Labels become one-hot,
counts come with their logarithm. All others are as they are; whoever takes the vector standardizes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf, prod

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrogen.networks.context import integer_labels
from pyrogen.networks.forms import Form, OneHot, Plain, WithLogarithm
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
        self.shapes = dict(shapes)
        self.forms = {name: form_of(supports[name]) for name in shapes}
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @property
    def size(self) -> int:
        """How long the vector is."""
        return sum(prod(shape) * self.forms[name].width for name, shape in self.shapes.items())

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        parts = [self._vector(name, values[name]) for name in self.shapes]
        if len(parts) == 1:
            return parts[0]
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)

    def _vector(self, name: str, value: Tensor) -> Tensor:
        shape, form = self.shapes[name], self.forms[name]
        if isinstance(form, OneHot) and not value.is_floating_point():
            integer_labels(value, form.width, name)
        found = form(value.reshape(*value.shape[: value.dim() - len(shape)], prod(shape)))
        found = found if value.is_floating_point() else found.to(self.zero.dtype)
        return found.flatten(-2)


def coordinates_of(parents: Mapping[str, Parent]) -> Coordinates:
    """The coordinates of what a row sees."""
    shapes = {name: parent.shape for name, parent in parents.items()}
    return Coordinates(shapes, {name: parent.support for name, parent in parents.items()})


def form_of(support: Constraint) -> Form:
    """What networks take of a number that lies in a support."""
    element, found = element_of(support), ends(support)
    if (labels := _labels(element)) is not None:
        return OneHot(labels)
    if support.is_discrete:
        counts = isinstance(element, type(constraints.nonnegative_integer))
        return WithLogarithm(counts=True) if counts else Plain()
    if found is None or _infinite(found[0]) == _infinite(found[1]):
        return Plain()
    low, high = found
    return WithLogarithm(high, above=False) if _infinite(low) else WithLogarithm(low)


def _labels(element: Constraint) -> int | None:
    """How many labels there are, if values are few labels counted from zero."""
    if not isinstance(element, constraints.integer_interval) or torch.as_tensor(element.upper_bound).dim():
        return None
    low, high = int(element.lower_bound), int(element.upper_bound)
    return high + 1 if low == 0 and 2 <= high < _MANY else None


def _infinite(end: float | Tensor) -> bool:
    return not isinstance(end, Tensor) and isinf(end)
