"""Point masses at sites of guides."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import register_kl


class Point(dist.Delta):
    """A point mass whose log-density counts in its divergence, which Pyro's leaves out (``TraceMeanField_ELBO``)."""


@register_kl(Point, dist.Distribution)
def _divergence(point: Point, prior: dist.Distribution) -> Tensor:
    return point.log_density - prior.log_prob(point.v)
