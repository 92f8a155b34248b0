"""The twist if none is given."""

from __future__ import annotations

from torch import Tensor

from .averaged import Averaged
from .filter import Posterior
from .twist import Isotropic, MomentMatched, Twist

_FEW = 4  # measured numbers for which one backward pass each is worth it
_SMALL = 8  # unknowns for which it is, and whose posterior few points fill


def default_twist(target: Posterior, data: Tensor) -> Twist:
    r"""The twist if none is given.

    - :class:`Averaged` for up to eight unknowns or four measured numbers;
    - of these :class:`MomentMatched`, where the measurement is linear with Gaussian noise, for four measured numbers;
    - :class:`Isotropic` for more. Its variance is that of what is measured, about zero,
      :math:`\mathbb{E} \lVert A x \rVert^2 / \lVert A \rVert^2`: rather too large than too small, since too small a
      variance costs far more particles.

    Args:
        target: The prior and the measurements.
        data: Draws of the prior, ``(P, N, D)``.
    """
    surrogate = target.surrogate(data)
    measured, unknown = surrogate.jacobian.shape[-2], data.shape[-1]
    if not surrogate.exact and target.likelihood.mapped and (unknown <= _SMALL or measured <= _FEW):
        return Averaged(64 if unknown <= _SMALL else 32)
    if measured <= _FEW:
        return MomentMatched()
    operator = surrogate.jacobian.to(data)
    operator = operator.expand(*data.shape[:2], *operator.shape[2:])
    power, size = (operator @ data.unsqueeze(-1)).square().sum().item(), operator.square().sum().item()
    return Isotropic(power / size if power > 0 else 1.0)
