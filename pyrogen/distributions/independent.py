"""Independent elements as one event: empty batches, strange values and transforms of ``torch.func`` included."""

from __future__ import annotations

from collections.abc import Iterable

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution

from pyrogen.numerics.autograd import deepcopied
from pyrogen.numerics.scores import score_events_inside
from pyrogen.numerics.values import require_value

from .abilities import Abilities, draw_and_score, has_draw_and_score


class Independent(Abilities, dist.Independent):
    """Pyro's ``Independent``, which also scores batches without a row, and refuses values that only broadcast.

    An event that holds NaN has the ``log_prob`` NaN, one with an element outside the support minus infinity, and
    neither changes the gradients of others. That is seen to for elements that are single numbers.

    Args:
        base_distribution: The elements.
        reinterpreted_batch_ndims: How many of its rightmost batch dimensions make one event.
        validate_args: Whether values are checked; Pyro's switch if ``None``.
    """

    _checks: bool | None = None

    @property
    def _validate_args(self) -> bool:
        # Pyro's has that of its elements, whose values are checked here, all at once.
        return Distribution._validate_args if self._checks is None else self._checks

    @_validate_args.setter
    def _validate_args(self, checks: bool) -> None:
        self._checks = checks

    @property
    def has_rsample_and_log_prob(self) -> bool:
        return has_draw_and_score(self.base_dist)

    def rsample_and_log_prob(self, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
        value, log_prob = draw_and_score(self.base_dist, sample_shape)
        count = self.reinterpreted_batch_ndims
        return value, log_prob.flatten(-count).sum(-1) if count else log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        base, count = self.base_dist, self.reinterpreted_batch_ndims
        if base.event_shape or not count:
            log_prob = base.log_prob(value)
            return log_prob.flatten(-count).sum(-1) if count else log_prob
        return score_events_inside(base.log_prob, base.support, value, count)

    def __deepcopy__(self, memo: dict) -> Independent:
        return deepcopied(self, memo)

    def entropy(self) -> Tensor:
        entropy, count = self.base_dist.entropy(), self.reinterpreted_batch_ndims
        return entropy.flatten(-count).sum(-1) if count else entropy


def as_event(distribution: TorchDistributionMixin, event_dim: int) -> TorchDistributionMixin:
    """The distribution with its rightmost ``event_dim`` batch dimensions as one event, which then checks its values."""
    if not event_dim:
        return distribution
    return Independent(unchecked(distribution), event_dim)


def unchecked(distribution: TorchDistributionMixin) -> TorchDistributionMixin:
    """A distribution just made, which no longer checks its values: the one that holds it does."""
    distribution._validate_args = False
    return distribution
