"""What learned likelihoods and ratios have in common: a row, its context by the names of sites, and the program."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import require_one_context_each
from pyrogen.networks.statistics import RefusedDataError, Statistic

from ..joint.joint import Joint
from ..replaced import replaced
from .row import ObservedRow, Pairs, Values


class LearnedSite(DistributionModule):
    """What stands in the place of a simulator at one row of an observed site.

    Subclasses define ``forward`` and :meth:`read_row`.

    Args:
        row: The row.
        joint: The program, of which a pickle holds nothing.
    """

    def __init__(self, row: ObservedRow, joint: Joint) -> None:
        super().__init__(row.event_shape, row.context_shape)
        self.row = row
        self._joint: Joint | None = joint

    @property
    def site(self) -> str:
        """The name of the observed site."""
        return self.row.name

    @property
    def program(self) -> nn.Module:
        """The program with what has been learned so far in the place of the simulator; see :func:`replaced`.

        Raises:
            ValueError: it comes from a pickle, which holds no program; :func:`replaced` takes the joint.
        """
        if self._joint is None:
            raise ValueError(
                "`program` needs the joint, which a pickle does not hold; use `pyrogen.simulation.replaced(joint, …)`"
            )
        return replaced(self._joint, self)

    @abstractmethod
    def read_row(self, x: Tensor, context: Values) -> Iterator[tuple[Statistic, Tensor]]:
        """The statistics of rows, one after the other, each with the values of its parents by site."""

    def read_data(self, latents: Any, observed: Any) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads simulations ``(latents, observed)``, by site; or rows and their contexts, ``(x, context)``.

        Raises:
            RefusedDataError: rows hold NaN, lie outside of where the program says, or have no density.
        """
        if isinstance(latents, Tensor):
            require_one_context_each(latents, observed, self.event_shape, self.context_shape)
        pairs = self.pairs(latents, observed)
        self.row.refuse(pairs)
        try:
            yield from self.read_row(*self.row.flat(pairs))
        except RefusedDataError as error:
            numbers = self.row.simulations(pairs)[error.rows].unique().tolist()
            raise RefusedDataError(error.demand, error.got, numbers) from error

    def pairs(self, latents: Any, observed: Any) -> Pairs:
        """The rows of simulations ``(latents, observed)``, by site; or of rows and their contexts, ``(x, context)``."""
        if isinstance(latents, Tensor):
            return Pairs(latents, self.row.named(observed), None)
        return self.row.pairs(latents, observed)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_joint": None}

    def __deepcopy__(self, memo: dict) -> LearnedSite:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(deepcopy(self.__getstate__(), memo))
        twin._joint = self._joint
        return twin


class RowObjective(Objective):
    """A loss of rows of an observed site, a mean over them.

    It is called with ``(latents, observed)``, as :class:`~pyrogen.simulation.joint.simulations.Simulations` have them,
    or with rows and their contexts.

    Args:
        module: What is trained.
    """

    def __init__(self, module: LearnedSite) -> None:
        super().__init__()
        self.module = module

    def read_data(self, latents: Any, observed: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(latents, observed)
