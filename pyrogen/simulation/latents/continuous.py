r"""Continuous sites: a distribution of real numbers brought into the supports of the sites."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.supports import Packed
from pyrogen.transforms.distribution import TransformedDistribution
from pyrogen.transforms.packed import Packing


class ContinuousSites(DistributionModule):
    """The distribution of vectors within supports out of one of unconstrained real numbers.

    Args:
        reals: The distribution of the real numbers.
        support: Where the vectors lie; there are as many real numbers as its bijection takes.
    """

    def __init__(self, reals: DistributionModule, support: Packed) -> None:
        super().__init__((sum(support.sizes),), reals.context_shape)
        self.reals, self.packing = reals, Packing(support)

    @property
    def density(self) -> Density:
        """That of the real numbers."""
        return self.reals.density

    def forward(self, context: Context = None) -> TransformedDistribution:
        return TransformedDistribution(
            self.reals(context), [self.packing], parameters=self.parameters, remake=Remade(self, context)
        )

    def objective(self) -> InSupport:
        return InSupport(self)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.reals.read_data(self.packing.inverse_and_log_det(x)[0], context)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.reals.read_context(context)


class InSupport(Objective):
    """The objective of a distribution of real numbers, for the vectors that are made of them.

    Where it is a log-density, the log-determinant counts, and the loss is that of the vectors.

    Args:
        sites: What is trained.

    Raises:
        NotImplementedError: the model of the real numbers is trained by a game.
    """

    def __init__(self, sites: ContinuousSites) -> None:
        super().__init__()
        self.sites, self.of_reals = sites, sites.reals.objective()
        if not isinstance(self.of_reals, Objective):
            raise NotImplementedError(f"{type(sites.reals).__name__} is trained by turns, and not by one objective")
        self.unit = self.of_reals.unit

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        reals, log_det = self.sites.packing.inverse_and_log_det(x)
        loss = self.of_reals(reals, context)
        return loss - log_det.mean() if self.unit == Objective.unit else loss

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.sites.read_data(x, context)
