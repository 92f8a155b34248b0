"""From the real line to an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints, transform_to

from pyrogen.arguments import orderable
from pyrogen.numerics.autograd import is_functional
from pyrogen.numerics.supports import End, OpenInterval, PartlyClosed, innermost

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
        if not 0 <= orderable(margin, "margin") < 0.5:
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
        y, slope = self._logistic(x) if self.finite else _one_sided(x, *self._tensors(x))
        return y.clamp(*innermost(self.low, self.high, x.dtype)), self._summed(slope)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.finite:
            above, below, width = (y - self.low).log(), (self.high - y).log(), _log(self.high - self.low)
            return above - below, self._summed(width - above - below)
        x, slope = _one_sided_inverse(y, *self._tensors(y))
        return x, -self._summed(slope)

    def _logistic(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and log-slopes between two ends, computed from the end whose neighbours have more digits."""
        width = self.high - self.low
        slope = F.logsigmoid(x) + F.logsigmoid(-x) + _log(width)
        from_low = abs(self.low) <= abs(self.high)
        if not isinstance(from_low, Tensor):
            return (self.low + width * x.sigmoid() if from_low else self.high - width * (-x).sigmoid()), slope
        return torch.where(from_low, self.low + width * x.sigmoid(), self.high - width * (-x).sigmoid()), slope

    def _tensors(self, like: Tensor) -> list[Tensor]:
        return [torch.as_tensor(end, dtype=like.dtype, device=like.device) for end in (self.low, self.high)]

    def _summed(self, slope: Tensor) -> Tensor:
        return slope.flatten(-self.event_dim).sum(-1) if self.event_dim else slope


def _log(width: End) -> End:
    return width.log() if isinstance(width, Tensor) else math.log(width)


def _one_sided(x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Values and log-slopes where some ends are missing."""
    has_low, has_high = low.isfinite(), high.isfinite()
    both, one = has_low & has_high, has_low ^ has_high
    start, end = torch.where(has_low, low, 0.0), torch.where(has_high, high, 0.0)
    # Arguments are kept finite where another branch counts, so that their gradients are.
    grown = torch.where(one, torch.where(has_low, x, -x), 0.0).exp()
    from_one = torch.where(has_low, start + grown, end - grown)
    between = start + (end - start) * torch.where(both, x, 0.0).sigmoid()
    width = torch.where(both, end - start, 1.0).log()
    y = torch.where(both, between, torch.where(one, from_one, x))
    slope = torch.where(both, F.logsigmoid(x) + F.logsigmoid(-x) + width, torch.where(has_low, x, -x))
    return y, torch.where(both | one, slope, 0.0)


def _one_sided_inverse(y: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Arguments, and the log-slopes there."""
    has_low, has_high = low.isfinite(), high.isfinite()
    above = torch.where(has_low, y - torch.where(has_low, low, 0.0), 1.0).log()
    below = torch.where(has_high, torch.where(has_high, high, 0.0) - y, 1.0).log()
    width = torch.where(has_low & has_high, high - low, 1.0).log()
    return torch.where(has_low | has_high, above - below, y), above + below - width


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
    above = high > low
    if isinstance(above, Tensor):
        above = is_functional((above,)) or bool(above.all())
    if not above:
        raise ValueError(f"`high` must be above `low` in every element, got {low} and {high}")


def _is_finite(end: End) -> bool:
    return bool(end.isfinite().all()) if isinstance(end, Tensor) else math.isfinite(end)


def _batch_shape(low: End, high: End, event_dim: int) -> torch.Size:
    shape = torch.broadcast_shapes(*(end.shape for end in (low, high) if isinstance(end, Tensor)), ())
    return shape[: max(0, len(shape) - event_dim)]


@biject_to.register(OpenInterval)
@transform_to.register(OpenInterval)
@biject_to.register(PartlyClosed)
@transform_to.register(PartlyClosed)
def _to_interval(constraint: constraints.interval) -> Interval:
    return Interval(constraint.lower_bound, constraint.upper_bound)
