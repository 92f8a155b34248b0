r"""Discrete and continuous numbers of one vector: first the discrete ones, then the others given them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.supports import point_inside
from pyrogen.numerics.values import require_value


class MixedVectors(PyrogenDistribution):
    r"""A distribution over vectors as :math:`p(d) \, p(c \mid d)`.

    Args:
        discrete: The distribution of the discrete numbers, a vector.
        continuous: From vectors of discrete numbers to the distribution of the continuous ones, a vector too.
        places: Where the discrete numbers stand, and where the continuous ones.
        support: That of the whole vectors.
    """

    def __init__(
        self,
        discrete: TorchDistributionMixin,
        continuous: Callable[[Tensor], TorchDistributionMixin],
        *,
        places: tuple[Sequence[int], Sequence[int]],
        support: constraints.Constraint,
    ) -> None:
        self.discrete, self.continuous, self.places, self._support = discrete, continuous, places, support
        self._order = torch.tensor([*places[0], *places[1]]).argsort()
        super().__init__(discrete.batch_shape, torch.Size((len(self._order),)))

    @property
    def support(self) -> constraints.Constraint:
        return self._support

    def _expanded(self, batch_shape: torch.Size) -> MixedVectors:
        discrete = self.discrete.expand(batch_shape)
        return MixedVectors(discrete, self.continuous, places=self.places, support=self._support)

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        first = self.discrete.sample(torch.Size(sample_shape))
        then = self.continuous(first).sample()
        return torch.cat([first.to(then.dtype), then], -1)[..., self._order]

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        first, then = (value[..., list(places)] for places in self.places)
        inside = self.discrete.support.check(first).unsqueeze(-1)
        given = torch.where(inside, first, point_inside(self.discrete.support, first))
        return self.discrete.log_prob(first) + self.continuous(given).log_prob(then)
