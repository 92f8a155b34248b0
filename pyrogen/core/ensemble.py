r"""Ensembles: several models of the same events as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from pyrogen.distributions.pool import LinearPool
from pyrogen.networks.statistics import Statistic

from .density import Density, require_normalized, weakest
from .module import DistributionModule, check_part
from .objective import Objective
from .shapes import Context


class Ensemble(DistributionModule):
    r"""Several models of the same events as one: their mixture, :math:`p(x \mid c) = \frac1K \sum_k p_k(x \mid c)`.

    By concavity its mean log-likelihood is at least the mean of its members', and the more they differ where data are
    few, the more it gains: an ensemble of posteriors learned from few simulations is less overconfident than one of
    them. The members are trained side by side, each as if it were alone.

    Args:
        members: The models, of one event shape, one context shape and one support.

    Raises:
        ValueError: there is no member, their events or contexts differ, or one is no DistributionModule.
        NotImplementedError: a member's density is unnormalized, so that a mixture of them has no weights.

    References:
        Lakshminarayanan, Pritzel and Blundell 2017, "Simple and scalable predictive uncertainty estimation using deep
        ensembles", https://arxiv.org/abs/1612.01474
        Hermans et al. 2022, "A crisis in simulation-based inference? Beware, your posterior approximations can be
        unfaithful", https://arxiv.org/abs/2110.06581

    Example:
        >>> import torch
        >>> import pyrogen as pg
        >>> flows = pg.Ensemble([pg.flows.affine_coupling((2,), layers=2) for _ in range(3)])
        >>> flows().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, members: Sequence[DistributionModule]) -> None:
        members = list(members)
        if not members:
            raise ValueError("`members` must hold at least one model, got none")
        for place, member in enumerate(members):
            check_part(member, f"members[{place}]")
        shapes = [(member.event_shape, member.context_shape) for member in members]
        for place, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise ValueError(
                    f"`members` must have one event shape and context shape, got {shapes[0]}, and {shape} at {place}"
                )
        super().__init__(*shapes[0])
        self.members = nn.ModuleList(members)
        if self.density == "unnormalized":
            require_normalized(self.density, "a member", "an ensemble")

    @property
    def density(self) -> Density:
        """The weakest of its members': a mixture of bounds is a bound."""
        return weakest(*(member.density for member in self.members))

    def forward(self, context: Context = None) -> LinearPool:
        return LinearPool([member(context) for member in self.members])

    def objective(self) -> EnsembleObjective:
        """The mean of the members' own losses."""
        return EnsembleObjective(self)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        for member in self.members:
            yield from member.read_data(x, context)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        for member in self.members:
            yield from member.read_context(context)


class EnsembleObjective(Objective):
    """The mean of the losses of an ensemble's members, so that each is trained as if it were alone.

    Args:
        ensemble: What is trained.

    Raises:
        NotImplementedError: a member is trained by turns, as games are: train each by itself.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.losses = nn.ModuleList()
        for member in ensemble.members:
            loss = member.objective()
            if not isinstance(loss, Objective):
                raise NotImplementedError(
                    f"{type(member).__name__} is trained by turns, and not by one objective: fit each of "
                    "`ensemble.members` by itself"
                )
            self.losses.append(loss)
        self.unit = self.losses[0].unit

    def forward(self, *batch: Any) -> Tensor:
        total = sum(loss(*batch) for loss in self.losses)
        return total + (total / len(self.losses) - total).detach()  # the mean, with the gradients of the sum

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        for loss in self.losses:
            yield from loss.read_data(*batch)


def ensemble(recipe: Callable[..., DistributionModule], members: int = 5) -> Callable[..., Ensemble]:
    """A recipe that builds an ensemble of what another recipe builds, each from weights of its own.

    Args:
        recipe: Builds one member.
        members: How many there are.

    Example:
        >>> import pyrogen as pg
        >>> build = ensemble(pg.flows.spline_autoregressive, members=3)
        >>> len(build((2,), (4,)).members)
        3
    """

    def build(*args: Any, **kwargs: Any) -> Ensemble:
        return Ensemble([recipe(*args, **kwargs) for _ in range(members)])

    return build
