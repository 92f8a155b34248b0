"""Events of which entries may be missing: NaN marks them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.representation import by_shapes
from pyrogen.numerics.supports import OrMissing, point_inside
from pyrogen.numerics.values import require_value
from pyrogen.programs.chain import refuse_chain

from .abilities import log_prob_by_element
from .distribution import PyrogenDistribution


class Incomplete(PyrogenDistribution):
    r"""A distribution of events as they are recorded, with NaN where an entry is missing.

    An event :math:`x` falls into what is observed and what is missing; :math:`s` marks which, one where observed. If
    why entries are missing may be ignored, the others have the marginal density :math:`\log p(x_{obs})`, and draws are
    complete. With a *missingness* model :math:`p(s \mid x)` the pattern is part of the data: draws have gaps, and

    .. math:: p(x_{obs}, s) = \mathbb{E}_{p(x_{mis} \mid x_{obs})} \left[ p(x_{obs}) \, p(s \mid x_{obs}, x_{mis})
        \right]

    is estimated without bias from one draw of the missing entries, so that its logarithm, ``log_prob``, is a lower
    bound in expectation. Elements are independent under the base distribution.

    Args:
        base: The distribution of complete events, of independent elements of float dtype.
        missingness: Given complete events, the distribution of :math:`s` over events of the same shape.

    Raises:
        NotImplementedError: it is unknown how to score the elements of ``base`` one by one (when scored); a gradient is
            wanted of missing entries whose draws have none.
    """

    def __init__(
        self,
        base: TorchDistributionMixin,
        missingness: Callable[[Tensor], TorchDistributionMixin] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.base_dist = base
        self.missingness = missingness
        self.density = "exact" if missingness is None else "lower bound"
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def __repr__(self) -> str:
        return by_shapes(self, repr(self.base_dist))

    @property
    def support(self) -> constraints.Constraint:
        return OrMissing(self.base_dist.support)

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def _expanded(self, batch_shape: torch.Size) -> Incomplete:
        base = self.base_dist.expand(batch_shape)
        return Incomplete(base, self.missingness, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            x = self.base_dist.sample(torch.Size(sample_shape))
            return x if self.missingness is None else torch.where(self.missingness(x).sample() > 0, x, math.nan)

    def log_prob(self, value: Tensor) -> Tensor:
        missing = value.isnan()
        known = torch.where(missing, point_inside(self.base_dist.support, value), value)
        require_value(self, known)
        return self._observed(known, missing) if self.missingness is None else self.complete(value)[1]

    def complete(self, value: Tensor) -> tuple[Tensor, Tensor]:
        r"""Events with their missing entries drawn, and the logarithm of the weight of each.

        The weight is :math:`p(x_{obs}) \, p(s \mid x)`; its expectation over the draws is :math:`p(x_{obs}, s)`.

        Shape:
            ``value`` ``(*batch, *event)`` to events of that shape and weights ``batch``, broadcast with the batch shape
            of the distribution.
        """
        missing = value.isnan()
        batch = torch.broadcast_shapes(value.shape[: value.dim() - len(self.event_shape)], self.batch_shape)
        completed = torch.where(missing, self._draw(batch).to(value.dtype), value)
        weight = self._observed(completed, missing)
        if self.missingness is not None:
            weight = weight + self.missingness(completed).log_prob((~missing).to(value.dtype).expand_as(completed))
        return completed, weight

    def _draw(self, batch: torch.Size) -> Tensor:
        refuse_chain("data missing by their values", "sample the missing entries at a site of their own")
        base = self.base_dist.expand(batch)
        if self.missingness is None or not torch.is_grad_enabled():
            return base.sample()
        if not base.has_rsample:
            raise NotImplementedError(
                "a missingness model asks for missing entries whose draws are differentiable, but `base` has entries "
                "that are discrete; without a gradient (`torch.no_grad()`) it can be scored"
            )
        return base.rsample()

    def _observed(self, known: Tensor, missing: Tensor) -> Tensor:
        scores = log_prob_by_element(self.base_dist, known)
        observed = torch.where(missing, 0.0, scores)
        return observed.flatten(-len(self.event_shape)).sum(-1) if self.event_shape else observed
