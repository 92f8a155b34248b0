"""The latent sites of a program as one vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.supports import Packed, ends, innermost, opened, shared
from pyrogen.transforms.packed import Packing

from ..joint.variable import Variable

Values = Mapping[str, Tensor]


class PackedSites:
    """Where each site lies in one vector of all: in the order of the program, plates first, then the event.

    Intervals lose their ends, which continuous variables take with probability zero.

    Args:
        variables: The sites.

    Raises:
        ValueError: there is none, or no bijection is known to the support of one.
    """

    def __init__(self, variables: Mapping[str, Variable]) -> None:
        if not variables:
            raise ValueError("`joint` must have a latent site that is learned, got none")
        self.variables = dict(variables)
        self.support = Packed([(each.shape, opened(shared(each.support))) for each in variables.values()])
        self.sizes = self.support.sizes
        self.size = sum(self.sizes)
        self._check_supports()

    def _check_supports(self) -> None:
        for name, part in zip(self.variables, self.support.parts, strict=True):
            if part[1].is_discrete:
                continue
            try:
                Packing(Packed([part]))
            except NotImplementedError as error:
                raise ValueError(
                    f"`joint` must have latent sites within supports to which a bijection from the real numbers is "
                    f"known, got site {name!r} within {part[1]}; sample unconstrained numbers and compute it from them"
                ) from error

    @property
    def continuous(self) -> Packed:
        """The supports of the continuous sites."""
        return Packed([part for part in self.support.parts if not part[1].is_discrete])

    def places(self, *, discrete: bool) -> list[int]:
        """The places of the numbers of all discrete, or of all continuous, sites."""
        kinds = [each.is_discrete for each in self.variables.values() for _ in range(each.size)]
        return [place for place, kind in enumerate(kinds) if kind == discrete]

    def packed(self, values: Values, dtype: torch.dtype) -> Tensor:
        """Values by site, ``(*batch, *shape)``, as vectors ``(*batch, D)``.

        A number that rounding took to an end of its interval becomes the nearest one inside.

        Raises:
            ValueError: a site is missing or unknown, or its values have another shape.
        """
        if not isinstance(values, Mapping) or set(values) != set(self.variables):
            got = list(values) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"`latents` must hold values of the sites {list(self.variables)}, got {got}")
        parts = []
        for (name, variable), (_, support) in zip(self.variables.items(), self.support.parts, strict=True):
            value = torch.as_tensor(values[name])
            cut = value.dim() - len(variable.shape)
            if cut < 0 or tuple(value.shape[cut:]) != variable.shape:
                raise ValueError(
                    f"`latents[{name!r}]` must end in shape {variable.shape}, got shape {tuple(value.shape)}"
                )
            value = value.to(dtype)
            value = value if variable.is_discrete else _moved_inside(value, support)
            parts.append(value.reshape((*value.shape[:cut], variable.size)))
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)

    def sites(self, vectors: Tensor) -> dict[str, Tensor]:
        """Vectors ``(*batch, D)`` as values by site, ``(*batch, *shape)``; those of discrete sites in their dtype."""
        if vectors.shape[-1:] != (self.size,):
            raise ValueError(f"`draws` must end in shape {(self.size,)}, got shape {tuple(vectors.shape)}")
        values = {}
        for variable, part in zip(self.variables.values(), vectors.split(self.sizes, -1), strict=True):
            value = part.reshape(vectors.shape[:-1] + variable.shape)
            values[variable.name] = value.to(variable.dtype) if variable.is_discrete else value
        return values

    def outside(self, vectors: Tensor) -> tuple[str, Tensor] | None:
        """The first site that has values outside its support, and in which rows; ``None`` if there is none."""
        parts = zip(self.variables, self.support.parts, vectors.split(self.sizes, -1), strict=True)
        for name, part, numbers in parts:
            inside = Packed([part]).check(numbers)
            if not bool(inside.all()):
                return name, ~inside
        return None


def _moved_inside(value: Tensor, support: constraints.Constraint) -> Tensor:
    found = ends(support)
    if found is None:
        return value.clamp(min=torch.finfo(value.dtype).tiny) if support is constraints.simplex else value
    low, high = (torch.as_tensor(end, dtype=value.dtype, device=value.device) for end in found)
    if bool(low.isinf().all()) and bool(high.isinf().all()):
        return value
    least, most = innermost(low, high, value.dtype)
    return torch.where(value == low, least, torch.where(value == high, most, value))
