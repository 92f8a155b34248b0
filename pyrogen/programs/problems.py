"""Independent problems: a site in plates that hold every measurement of it is one for each index of those plates.

Inference methods work on tensors of shape ``(P, N, D)``: particles, problems, and the numbers of one problem in a row.
Dimensions of the site that are not such plates belong to the numbers of a problem.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch import Tensor

from .site import Site


@dataclass(frozen=True)
class IndependentProblems:
    """How the batch dimensions of a site split into problems.

    Attributes:
        batch_shape: That of the site.
        event_shape: That of the site.
        dims: The batch dimensions, negative and ascending, along which problems are independent.
    """

    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    dims: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the independent dimensions."""
        return tuple(self.batch_shape[dim] for dim in self.dims)

    @property
    def count(self) -> int:
        """How many problems there are."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """How many numbers one problem has."""
        return prod(self.batch_shape) * prod(self.event_shape) // max(self.count, 1)

    @property
    def unknown_shape(self) -> tuple[int, ...]:
        """The shape in which the numbers of one problem lie."""
        free = [size for place, size in enumerate(self.batch_shape) if place - len(self.batch_shape) not in self.dims]
        return (*free, *self.event_shape)

    def rows(self, values: Tensor, event_dim: int, leading: int = 0) -> Tensor:
        """One row for each problem.

        Args:
            values: Of shape ``(*leading, *batch, *event)`` with all independent dimensions in their places.
            event_dim: How many dimensions lie to the right of the batch.
            leading: How many dimensions to leave alone on the left.

        Shape:
            ``(*leading, N, numbers)``.
        """
        places = [dim - event_dim for dim in self.dims]
        moved = values.movedim(places, list(range(leading, leading + len(places))))
        return moved.reshape(*values.shape[:leading], self.count, -1)

    def whole(self, rows: Tensor) -> Tensor:
        """The site's values ``(*leading, *batch_shape, *event_shape)`` from rows ``(*leading, N, D)``."""
        leading = rows.dim() - 2
        split = rows.reshape(*rows.shape[:-2], *self.shape, *self.unknown_shape)
        places = [dim - len(self.event_shape) for dim in self.dims]
        return split.movedim(list(range(leading, leading + len(places))), places)


def independent_problems(site: Site, scored: Iterable[Site]) -> IndependentProblems:
    """The plates of a site in which everything that is scored given it lies as well."""
    plates = {plate for plate in site.plates if plate.dim is not None}
    for other in scored:
        plates &= set(other.plates)
    sizes = tuple(site.distribution.batch_shape)
    dims = sorted(plate.dim for plate in plates if -plate.dim <= len(sizes))
    return IndependentProblems(sizes, tuple(site.distribution.event_shape), tuple(dims))
