r"""Counts of any size and spread: the integer part of the exponential of a mixture of logistics.

With :math:`t` a mixture of logistics and :math:`F` its distribution function, :math:`x = \lfloor e^t \rfloor` has

.. math:: P(x) = F(\log(x + 1)) - F(\log x), \qquad F(\log 0) = 0 .

Unlike a Poisson or a negative binomial variable it may spread less than its mean, and counts of a million take numbers
of the same size as counts of three.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyrogen.numerics.scores import score_inside
from pyrogen.numerics.values import require_value

from .distribution import PyrogenDistribution

_LARGEST = 16.0
"""Of the logarithm of a draw: nine million, below which single precision holds every integer."""


class LogisticCounts(PyrogenDistribution):
    r"""A count :math:`\lfloor e^t \rfloor`, with :math:`t` under a mixture of logistics.

    Args:
        logits: Unnormalized log-weights of the :math:`M` components, of shape ``(*batch, M)``.
        loc: Their locations, on the axis of logarithms; ``(*batch, M)``.
        log_scale: Logarithms of their scales, on the same axis; ``(*batch, M)``.

    Example:
        >>> counts = LogisticCounts(torch.zeros(1), torch.zeros(1), torch.zeros(1))
        >>> counts.log_prob(torch.tensor([0.0, 1.0])).exp()
        tensor([0.5000, 0.1667])
    """

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.log_scale = torch.broadcast_tensors(logits, loc, log_scale)
        super().__init__(self.loc.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    def _expanded(self, batch_shape: torch.Size) -> LogisticCounts:
        parts = (part.expand(*batch_shape, part.shape[-1]) for part in (self.logits, self.loc, self.log_scale))
        return LogisticCounts(*parts, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            weights = self.logits.softmax(-1).expand(*shape, -1)
            chosen = weights.reshape(-1, weights.shape[-1]).multinomial(1).reshape(*shape, 1)
            loc, scale = (part.expand(*shape, -1).gather(-1, chosen)[..., 0] for part in (self.loc, self.log_scale))
            share = torch.rand(shape, dtype=loc.dtype, device=loc.device).clamp(min=torch.finfo(loc.dtype).tiny)
            return (loc + scale.exp() * share.logit(eps=1e-7)).clamp(max=_LARGEST).exp().floor()

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        return score_inside(self._score, self.support, value.to(self.loc.dtype))

    def _score(self, value: Tensor) -> Tensor:
        value, precision = value.unsqueeze(-1), (-self.log_scale).exp()
        positive = value.clamp(min=1.0)
        lower, upper = (positive.log() - self.loc) * precision, (value.log1p() - self.loc) * precision
        # The width of the bin on its own, which the difference of its ends loses where counts are large.
        width = torch.log1p(1 / positive) * precision
        inside = logsigmoid(upper) + logsigmoid(-lower) + (-torch.expm1(-width)).log()
        parts = torch.where(value < 1, logsigmoid(upper), inside)
        return (self.logits.log_softmax(-1) + parts).logsumexp(-1)
