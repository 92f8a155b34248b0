"""Observed values that masks hide: they have no score, so they may be anything, NaN included."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, Independent, MaskedDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrogen.numerics.supports import element_of, point_inside, shared

from .site import is_site


class HiddenValues(Messenger):
    """Puts points of the support in place of observed values that are masked.

    Pyro scores all values and leaves out what is masked afterwards. So NaN that stands where nothing was measured is
    refused under validation, and its gradient is NaN whatever it is multiplied by. What ``pyro.deterministic`` and
    reparameterizations compute bears a mask as well, and stays: the program goes on with it.
    """

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        value, distribution = msg["value"], msg["fn"]
        data = msg["is_observed"] and is_site(msg) and isinstance(value, Tensor)
        if data and isinstance(distribution, TorchDistributionMixin):
            msg["value"] = without_hidden(distribution, value, msg["mask"])


def without_hidden(distribution: TorchDistributionMixin, value: Tensor, mask: Tensor | bool | None = None) -> Tensor:
    """The value, with points of the support where a mask, or one inside the distribution, hides it.

    Where no point of the support is known (counts of one total, a mixture of unequal supports) the value stays.

    Args:
        distribution: What the value is scored by.
        value: Events ``(*batch, *event)``.
        mask: Over the batch; true where the value counts.
    """
    where = shown(distribution, mask, distribution.event_dim)
    if where is None:
        return value
    try:
        support = shared(distribution.support)
        if support.is_discrete and element_of(support).event_dim:  # such as counts of one total: no point is known
            return value
        return torch.where(where.to(value.device), value, point_inside(support, value))
    except NotImplementedError:  # no support is declared, or it has no bijection
        return value


def shown(distribution: TorchDistributionMixin, mask: Tensor | bool | None, event_dim: int) -> Tensor | None:
    """Where elements count, as a mask that broadcasts over events; ``None`` if nothing is masked."""
    own = None if mask is None or mask is True else torch.as_tensor(mask).bool()
    own = own if own is None else own.reshape(own.shape + (1,) * event_dim)
    if isinstance(distribution, MaskedDistribution):
        inner = shown(distribution.base_dist, distribution._mask, event_dim)
    elif isinstance(distribution, Independent):
        inner = shown(distribution.base_dist, None, event_dim - distribution.reinterpreted_batch_ndims)
    elif isinstance(distribution, ExpandedDistribution):
        inner = shown(distribution.base_dist, None, event_dim)
    else:
        inner = None
    return own if inner is None else inner if own is None else own & inner
