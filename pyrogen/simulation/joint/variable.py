"""A site of a program as learning sees it, and how its values lie in rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrogen.numerics.supports import shared
from pyrogen.programs.layouts import LayoutMismatch
from pyrogen.programs.site import Plate, Site


@dataclass(frozen=True)
class Variable:
    """A site of a program as learning sees it.

    Attributes:
        name: Its name.
        shape: The shape of its value in one simulation: batch dimensions, those of plates among them, then the event.
        event_dim: How many dimensions are of the event.
        support: Where its values lie.
        dtype: Of its values.
        plates: The plates around it, from the outermost.
    """

    name: str
    shape: tuple[int, ...]
    event_dim: int
    support: Constraint
    dtype: torch.dtype
    plates: tuple[Plate, ...] = ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The dimensions that are not of the event."""
        return self.shape[: len(self.shape) - self.event_dim]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The dimensions of the event."""
        return self.shape[len(self.shape) - self.event_dim :]

    @property
    def size(self) -> int:
        """How many numbers one value has."""
        return prod(self.shape)

    @property
    def is_discrete(self) -> bool:
        """Whether its values are from a discrete set."""
        return self.support.is_discrete

    def axis(self, plate: str) -> int | None:
        """The dimension of :attr:`shape` along which a plate lies; ``None`` where it has none."""
        found = next((each for each in self.plates if each.name == plate), None)
        return None if found is None or found.dim is None else len(self.batch_shape) + found.dim

    def spread(self, values: Tensor, width: int) -> Tensor:
        """Rows of values as a program takes them under a plate outside ``width`` others."""
        return values.reshape(len(values), *(1,) * (width - len(self.batch_shape)), *self.shape)

    def rows(self, value: Tensor, count: int) -> Tensor:
        """The rows of what a program gives under a plate of ``count`` rows outside all others, ``(count, *shape)``.

        Raises:
            LayoutMismatch: it has other dimensions than so many rows of values.
        """
        return rows_of(value, count, self.shape)


def rows_of(value: Tensor, count: int, shape: tuple[int, ...]) -> Tensor:
    """Rows of tensors of a shape, ``(count, *shape)``, from what a program makes of so many simulations.

    Raises:
        LayoutMismatch: it is not such rows; the message shows the shapes.
    """
    wide = [size for size in value.shape[1:] if size != 1]
    if value.shape[:1] != (count,) or wide != [size for size in shape if size != 1]:
        raise LayoutMismatch(f"shape {tuple(value.shape)} in {count} simulations at once, {shape} in one")
    return value.reshape(count, *shape)


def variable_of(site: Site) -> Variable:
    """The variable that a site, or a computed statement, of a single run is."""
    shape, event_dim = tuple(site.value.shape), site.distribution.event_dim
    if site.computed and len(site.distribution.batch_shape) + event_dim != len(shape):
        # Without `event_dim`, `pyro.deterministic` takes the rows of plates for a part of the event.
        event_dim = max(0, len(shape) - max((-plate.dim for plate in site.plates if plate.dim is not None), default=0))
    support = constraints.independent(constraints.real, event_dim) if site.computed else shared(site.support)
    return Variable(site.name, shape, event_dim, support, site.value.dtype, site.plates)
