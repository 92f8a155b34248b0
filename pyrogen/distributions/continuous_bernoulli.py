r"""The continuous Bernoulli distribution, with a normalizer that is exact everywhere.

On :math:`[0, 1]` the density is :math:`p(x) \propto \lambda^x (1 - \lambda)^{1 - x}`. In the logit
:math:`\eta = \log(\lambda / (1 - \lambda))` it is an exponential tilt of the uniform density,

.. math:: \log p(x) = \eta x - \log \frac{e^\eta - 1}{\eta}
    = \eta \left(x - \tfrac12\right) - \log \frac{\sinh(\eta / 2)}{\eta / 2},

which is smooth at :math:`\eta = 0`. Torch's ``ContinuousBernoulli`` computes from :math:`\lambda`: its mean just
outside the interval where it uses a series is lost in rounding (0.5000 for 0.50034 at a logit of 0.0041 in float32),
and logits beyond about 16 all mean the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.scores import score_inside
from pyrogen.numerics.special import langevin, log_sinhc
from pyrogen.numerics.values import checks, require_value

from .distribution import PyrogenDistribution

_SMALL = 1e-2


class ContinuousBernoulli(PyrogenDistribution):
    r"""Numbers in :math:`[0, 1]`, such as grey values, tilted towards one end.

    Args:
        logits: :math:`\eta`, of shape ``batch``.

    References:
        Loaiza-Ganem and Cunningham 2019, "The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders", https://arxiv.org/abs/1907.06845

    Example:
        >>> ContinuousBernoulli(torch.tensor([0.0, 2.0])).mean
        tensor([0.5000, 0.6565])
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=checks(validate_args, logits))

    @property
    def mean(self) -> Tensor:
        return 0.5 + langevin(self.logits / 2) / 2

    @property
    def variance(self) -> Tensor:
        small = self.logits.abs() < 0.5
        near = torch.where(small, self.logits, 0.0).square()
        series = 1 / 12 - near / 240 + near**2 / 6048 - near**3 / 172800 + near**4 / 5322240
        far = torch.where(small, 1.0, self.logits)
        tail = (-far.abs()).exp()
        return torch.where(small, series, far.square().reciprocal() - tail / (1 - tail).square())

    def _expanded(self, batch_shape: torch.Size) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        return score_inside(lambda x: self.logits * (x - 0.5) - log_sinhc(self.logits / 2), self.support, value)

    def entropy(self) -> Tensor:
        return log_sinhc(self.logits / 2) - self.logits * langevin(self.logits / 2) / 2

    def cdf(self, value: Tensor) -> Tensor:
        near, tilt, flipped = self._branches()
        series = value - value * (1 - value) * near / 2 * (1 - (1 - 2 * value) * near / 6)
        far = torch.expm1(tilt * torch.where(flipped, 1 - value, value)) / torch.expm1(tilt)
        return torch.where(self.logits.abs() < _SMALL, series, torch.where(flipped, 1 - far, far))

    def icdf(self, value: Tensor) -> Tensor:
        near, tilt, flipped = self._branches()
        series = value + value * (1 - value) * near / 2 * (1 + (1 - 2 * value) * near / 3)
        far = torch.log1p(torch.where(flipped, 1 - value, value) * torch.expm1(tilt)) / tilt
        return torch.where(self.logits.abs() < _SMALL, series, torch.where(flipped, 1 - far, far)).clamp(0, 1)

    def _branches(self) -> tuple[Tensor, Tensor, Tensor]:
        """The logit where a series serves, a tilt towards zero where none is needed, and where that is mirrored."""
        small = self.logits.abs() < _SMALL
        return torch.where(small, self.logits, 0.0), torch.where(small, -1.0, -self.logits.abs()), self.logits > 0
