"""From the real line to an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints, transform_to

from pyrogen.numerics.autograd import is_functional
from pyrogen.numerics.supports import End, OpenInterval, innermost

from .transform import Transform

GivenEnd = float | Tensor | Sequence[float | None] | None
"""An end as it may be given: a number, one for each element, or ``None`` where there is none."""


class Interval(Transform):
    r"""The real line onto an open interval, each element by itself, increasing.

    With both ends it is a scaled logistic, :math:`x = l + (h - l) \, \sigma(z)`; with one an exponential,
    :math:`x = l + e^z` or :math:`x = h - e^{-z}`; with none the identity. These are the maps that Pyro itself takes for
    such supports. Rounding never takes a value to an end or beyond the finite numbers.

    A *margin* :math:`\alpha` widens the interval by :math:`(h - l) \alpha / (1 - 2\alpha)` on either side, so that data
    at its ends are not infinitely far away: then values do lie there, and a density has mass there.

    Args:
        low: Lower end :math:`l`, in data units: a number, or one for each element; ``None`` or minus infinity where
            there is none.
        high: Upper end :math:`h`, likewise.
        margin: :math:`\alpha`, at least zero and less than a half.
        event_dim: How many rightmost dimensions one event has.
        finite: Whether every end is finite; found out if ``None``.

    Raises:
        ValueError: ``high`` is not above ``low``, ``margin`` is out of range, or there is one where an end is infinite.

    References:
        Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", section 4.1,
        https://arxiv.org/abs/1605.08803

    Example:
        >>> Interval([0.0, 5.0], [1.0, None])(torch.zeros(2))
        tensor([0.5000, 6.0000])
    """

    monotone = True
    sign = 1

    def __init__(
        self,
        low: GivenEnd = 0.0,
        high: GivenEnd = 1.0,
        *,
        margin: float = 0.0,
        event_dim: int = 0,
        finite: bool | None = None,
    ) -> None:
        low, high = end_of(low, -math.inf, "low"), end_of(high, math.inf, "high")
        if Distribution._validate_args or not (isinstance(low, Tensor) or isinstance(high, Tensor)):
            _require_above(low, high)
        if not 0 <= margin < 0.5:
            raise ValueError(f"`margin` must be at least 0 and less than 0.5, got {margin}")
        self.finite = _is_finite(low) and _is_finite(high) if finite is None else finite
        if margin:
            if not self.finite:
                raise ValueError(f"`margin` must be 0 where an end is infinite, got {margin}")
            reach = (high - low) * (margin / (1 - 2 * margin))
            low, high = low - reach, high + reach
        super().__init__(event_dim, _batch_shape(low, high, event_dim))
        self.low, self.high = low, high

    @property
    def codomain(self) -> constraints.Constraint:
        inside = OpenInterval(self.low, self.high)
        return constraints.independent(inside, self.event_dim) if self.event_dim else inside

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._ends(x)
        if self.finite:
            y, slope = _logistic(x, low, high)
        else:
            y, slope = _one_sided(x, low, high)
        least, most = innermost(low, high)
        return torch.minimum(torch.maximum(y, least), most), self._summed(slope)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._ends(y)
        if self.finite:
            above, below = (y - low).log(), (high - y).log()
            return above - below, -self._summed(above + below - (high - low).log())
        has_low, has_high = low.isfinite(), high.isfinite()
        above = torch.where(has_low, y - torch.where(has_low, low, y.detach() - 1), 1.0).log()
        below = torch.where(has_high, torch.where(has_high, high, y.detach() + 1) - y, 1.0).log()
        width = torch.where(has_low & has_high, high - low, 1.0).log()
        x = torch.where(has_low | has_high, above - below, y)
        return x, -self._summed(above + below - width)

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (torch.as_tensor(end, dtype=like.dtype, device=like.device) for end in (self.low, self.high))
        return low, high

    def _summed(self, slope: Tensor) -> Tensor:
        return slope.flatten(-self.event_dim).sum(-1) if self.event_dim else slope


def _logistic(x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Values and log-slopes between two ends, each value computed from the end that is near."""
    width = high - low
    y = torch.where(x < 0, low + width * x.sigmoid(), high - width * (-x).sigmoid())
    return y, F.logsigmoid(x) + F.logsigmoid(-x) + width.log()


def _one_sided(x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    has_low, has_high = low.isfinite(), high.isfinite()
    both = has_low & has_high
    zero, one = torch.zeros_like(low + high), torch.ones_like(low + high)
    between, slope = _logistic(x, torch.where(both, low, zero), torch.where(both, high, one))
    # The exponents are kept finite where another branch counts, so that their gradients are.
    up = torch.where(has_low, low, 0.0) + torch.where(has_low & ~both, x, 0.0).exp()
    down = torch.where(has_high, high, 0.0) - torch.where(has_high & ~both, -x, 0.0).exp()
    y = torch.where(both, between, torch.where(has_low, up, torch.where(has_high, down, x)))
    return y, torch.where(both, slope, torch.where(has_low, x, torch.where(has_high, -x, 0.0)))


def end_of(given: GivenEnd, infinite: float, name: str = "low") -> End:
    """An end as a number, or as a tensor with one for each element.

    Raises:
        ValueError: it is something else.
    """
    if given is None:
        return infinite
    if isinstance(given, Tensor):
        return given if given.is_floating_point() else given.to(torch.get_default_dtype())
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        return torch.stack([torch.as_tensor(end_of(part, infinite, name)) for part in given])
    if isinstance(given, Real):
        return float(given)
    raise ValueError(f"`{name}` must be a number, None, or a tensor or list with one for each element, got {given!r}")


def _require_above(low: End, high: End) -> None:
    above = torch.as_tensor(high) > torch.as_tensor(low)
    if not is_functional((above,)) and not bool(above.all()):
        raise ValueError(f"`high` must be above `low` in every element, got {low} and {high}")


def _is_finite(end: End) -> bool:
    return bool(end.isfinite().all()) if isinstance(end, Tensor) else math.isfinite(end)


def _batch_shape(low: End, high: End, event_dim: int) -> torch.Size:
    shape = torch.broadcast_shapes(*(end.shape for end in (low, high) if isinstance(end, Tensor)), ())
    return shape[: max(0, len(shape) - event_dim)]


@biject_to.register(OpenInterval)
@transform_to.register(OpenInterval)
def _to_open_interval(constraint: OpenInterval) -> Interval:
    return Interval(constraint.lower_bound, constraint.upper_bound)
