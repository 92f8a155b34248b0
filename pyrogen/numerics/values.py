"""What a distribution is given: values to score, and batch shapes to expand to."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from .autograd import is_functional
from .supports import contains, element_of, ends, is_closed


def checks(validate_args: bool | None, *parameters: Tensor) -> bool | None:
    """Whether a distribution of such parameters can be validated: not if there is no number, or no branch on one."""
    return False if is_functional(parameters) or not all(map(Tensor.numel, parameters)) else validate_args


def require_value(distribution: Distribution, value: Tensor) -> bool:
    """Refuses values that a distribution cannot score.

    The event shape is always checked, since another one may broadcast. With the distribution's validation on, batch
    dimensions must broadcast, and each event must lie within the support or hold NaN, which is a missing number and not
    a wrong one. Values are not checked under ``torch.func`` and ``torch.compile``.

    Returns:
        Whether all events are known to lie within the support, and no number to be missing.

    Raises:
        ValueError: ``value`` is no tensor, has the wrong shape or lies outside the support.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"`value` must be a tensor, got {type(value).__name__}")
    event_shape = distribution.event_shape
    cut = value.dim() - len(event_shape)
    if cut < 0 or value.shape[cut:] != event_shape:
        raise ValueError(f"`value` must end in shape {tuple(event_shape)}, got {tuple(value.shape)}")
    if not distribution._validate_args:
        return False
    try:
        torch.broadcast_shapes(value.shape[:cut], distribution.batch_shape)
    except RuntimeError:
        raise ValueError(
            f"`value` must have batch dimensions that broadcast with {tuple(distribution.batch_shape)}, "
            f"got {tuple(value.shape[:cut])}"
        ) from None
    return bool(value.numel()) and _require_inside(distribution, value)  # constraints of vectors fail on none


def require_numbers(value: Tensor, support: Constraint, parameters: Iterable[Tensor], name: str = "value") -> None:
    """Refuses events of another kind of number than a model takes.

    Where the support is discrete, bits and integers of any dtype are what they are. Elsewhere events are floating-point
    numbers, of the precision of the parameters that they meet; under autocast of any.

    Raises:
        WrongNumbersError: they are not.
    """
    if support.is_discrete:
        return
    if not value.is_floating_point():
        raise WrongNumbersError(f"`{name}` must hold floating-point numbers, as `{name}.float()` does", value.dtype)
    require_precision(value, parameters, name)


def require_precision(value: Tensor, parameters: Iterable[Tensor], name: str = "value") -> None:
    """Refuses floating-point numbers of another precision than that of the parameters that they meet.

    Raises:
        WrongNumbersError: there are parameters, and of another one.
    """
    expected = next((part.dtype for part in parameters if part.is_floating_point()), value.dtype)
    if value.dtype == expected or not value.is_floating_point() or torch.is_autocast_enabled(value.device.type):
        return
    raise WrongNumbersError(
        f"`{name}` must have the precision of the module's parameters, {expected}: convert one of them, by "
        f"`{name}.{_conversion(expected)}` or `module.{_conversion(value.dtype)}`",
        value.dtype,
    )


class WrongNumbersError(ValueError):
    """Numbers of a dtype that a model cannot take.

    Args:
        demand: What was expected, naming the argument.
        dtype: What came.
    """

    def __init__(self, demand: str, dtype: torch.dtype) -> None:
        super().__init__(f"{demand}; got {dtype}")
        self.demand, self.dtype = demand, dtype


def _conversion(dtype: torch.dtype) -> str:
    named = {torch.float32: "float()", torch.float64: "double()", torch.float16: "half()", torch.bfloat16: "bfloat16()"}
    return named.get(dtype, f"to({dtype})")


def require_expandable(distribution: Distribution, batch_shape: Iterable[int]) -> torch.Size:
    """The batch shape to expand to.

    Raises:
        ValueError: the distribution's own batch shape does not broadcast to it.
    """
    own, wide = distribution.batch_shape, torch.Size(batch_shape)
    fits = len(own) <= len(wide) and all(a in (1, b) for a, b in zip(reversed(own), reversed(wide), strict=False))
    if not fits:
        raise ValueError(f"`batch_shape` must be one that {tuple(own)} broadcasts to, got {tuple(wide)}")
    return wide


def _require_inside(distribution: Distribution, value: Tensor) -> bool:
    support = distribution.support
    inside = contains(support, value)
    if is_functional((inside,)):
        return False
    if bool(inside.all()):
        return True
    outside = _outside(support, value)
    if bool(outside.any()):
        count, first = int(outside.sum()), tuple(outside.nonzero()[0].tolist())
        raise ValueError(
            f"`value` must lie within the support {support}{advice(support, value)}, got {count} of {outside.numel()} "
            f"outside, the first at {first}"
        )
    return False


def _outside(support: Constraint, value: Tensor) -> Tensor:
    """What is not in the support and no missing number: elements where it is one of elements, else events."""
    element, nan = element_of(support), value.isnan()
    if element.event_dim == 0:
        return ~(contains(element, value) | nan)
    return ~(contains(support, value) | nan.flatten(-support.event_dim).any(-1))


def advice(support: Constraint, value: Tensor) -> str:
    """What to do about numbers at the ends of an open interval, as rounded data have them; nothing without such."""
    found = ends(support)
    if found is None or is_closed(support) or not bool(((value == found[0]) | (value == found[1])).any()):
        return ""
    return (
        " (numbers exactly at an end have no density: give rounded data their noise, by `pg.data.dequantize` or "
        "`flows.Dequantized`, or the flow a `margin`)"
    )
