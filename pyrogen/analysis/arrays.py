"""Tensors as numpy arrays, which is what figures and ArviZ take.

The functions of ``analysis`` take tensors, arrays and nested sequences alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_array(values: Any) -> np.ndarray:
    """A tensor or sequence as a numpy array; half precision, which numpy lacks in part, as float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def real_array(values: Any, name: str, *, missing: bool = False, infinite: bool = False) -> np.ndarray:
    """An array of numbers that can be drawn.

    Args:
        values: A tensor, an array or a sequence.
        name: Of the argument.
        missing: Whether NaN has a meaning: nothing is there. Some number must be there all the same.
        infinite: Whether infinities have one.

    Raises:
        TypeError: the values are no real numbers.
        ValueError: an entry has no meaning, or none is a number.
    """
    try:
        array = as_array(values)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must hold numbers in an array, got {type(values).__name__}: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` must hold real numbers, got {array.dtype}")
    for bad, what in ((np.isnan(array) & (not missing), "NaN"), (np.isinf(array) & (not infinite), "infinite")):
        if bad.any():
            raise ValueError(f"`{name}` must hold numbers, got {int(bad.sum())} {what} among {array.size}")
    if array.size and np.isnan(array).all():
        raise ValueError(f"`{name}` must hold numbers, got NaN alone")
    return array


def pair_of_limits(limits: tuple[float, float] | None, otherwise: np.ndarray) -> tuple[float, float]:
    """The values shown as black and white: those given, or the extremes of an array.

    Raises:
        ValueError: ``limits`` are not two numbers, the smaller one first.
    """
    if limits is None:
        return float(np.nanmin(otherwise)), float(np.nanmax(otherwise))
    found = real_array(limits, "limits")
    if found.shape != (2,) or not found[0] < found[1]:
        raise ValueError(f"`limits` must be two numbers, the smaller one first, got {limits}")
    return float(found[0]), float(found[1])
