"""From the real line to an interval."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from .transform import Transform


class Interval(Transform):
    r"""The real line onto an interval, a scaled logistic.

    .. math:: x = l + (h - l) \frac{\sigma(z) - \alpha}{1 - 2 \alpha}

    The margin :math:`\alpha` keeps data at the ends of :math:`[l, h]` away from infinity; so the image reaches a little
    beyond, by :math:`(h - l) \alpha / (1 - 2\alpha)` on either side.

    Args:
        low: Lower end :math:`l` of the data, in data units.
        high: Upper end :math:`h`.
        margin: :math:`\alpha`, at least zero and less than a half.
        event_dim: How many rightmost dimensions one event has.

    Raises:
        ValueError: ``high`` is not above ``low``, or ``margin`` is out of range.

    References:
        Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", section 4.1,
        https://arxiv.org/abs/1605.08803
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, *, margin: float = 0.0, event_dim: int = 0) -> None:
        if not high > low:
            raise ValueError(f"`high` must be above `low` {low}, got {high}")
        if not 0 <= margin < 0.5:
            raise ValueError(f"`margin` must be at least 0 and less than 0.5, got {margin}")
        super().__init__(event_dim)
        self.width = (high - low) / (1 - 2 * margin)
        self.low = low - margin * self.width

    @property
    def codomain(self) -> constraints.Constraint:
        inside = constraints.interval(self.low, self.low + self.width)
        return constraints.independent(inside, self.event_dim) if self.event_dim else inside

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.low + self.width * x.sigmoid(), self._log_det(x)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = ((y - self.low) / self.width).logit()
        return x, -self._log_det(x)

    def _log_det(self, x: Tensor) -> Tensor:
        slope = F.logsigmoid(x) + F.logsigmoid(-x)
        log_det = slope.flatten(-self.event_dim).sum(-1) if self.event_dim else slope
        size = x.shape[x.dim() - self.event_dim :].numel()
        return log_det + size * math.log(self.width)
