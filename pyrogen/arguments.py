"""Checks of arguments, one for each kind, below all packages: every constructor and recipe refuses a mistake alike.

Each takes a value and the name of its argument, and gives the value back where it makes sense. Nothing is converted:
a float that happens to be whole, an array or a string of digits is a mistake that the caller should see.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite
from typing import Any


def integer(value: Any, name: str, *, least: int = 1) -> int:
    """An integer of at least ``least``.

    Raises:
        TypeError: ``value`` is no ``int``.
        ValueError: it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int, got {_shown(value)}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}")
    return value


def number(value: Any, name: str) -> float:
    """A finite number.

    Raises:
        TypeError: ``value`` is no ``int`` or ``float``.
        ValueError: it is NaN or infinite.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {_shown(value)}")
    if not isfinite(value):
        raise ValueError(f"`{name}` must be finite, got {value}")
    return value


def positive(value: Any, name: str, *, most: float = inf) -> float:
    """A finite number above zero, and no larger than ``most``.

    Raises:
        TypeError: ``value`` is no number.
        ValueError: it is out of range.
    """
    if not 0 < number(value, name) <= most:
        raise ValueError(f"`{name}` must be positive{'' if most == inf else f' and at most {most}'}, got {value}")
    return value


def non_negative(value: Any, name: str) -> float:
    """A finite number of at least zero.

    Raises:
        TypeError: ``value`` is no number.
        ValueError: it is negative, NaN or infinite.
    """
    if number(value, name) < 0:
        raise ValueError(f"`{name}` must not be negative, got {value}")
    return value


def share(value: Any, name: str) -> float:
    """A number in [0, 1): of units that are dropped, say.

    Raises:
        TypeError: ``value`` is no number.
        ValueError: it is out of range.
    """
    if not 0 <= number(value, name) < 1:
        raise ValueError(f"`{name}` must be at least 0 and less than 1, got {value}")
    return value


def sizes(values: Any, name: str, *, fewest: int = 0) -> tuple[int, ...]:
    """Positive integers, such as the widths of layers, as a tuple.

    Args:
        values: The sizes.
        name: Of the argument.
        fewest: How many there must be at least.

    Raises:
        TypeError: ``values`` is no sequence, or holds something other than ``int``.
        ValueError: one is not positive, or there are too few.
    """
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise TypeError(f"`{name}` must be a sequence of integers, got {_shown(values)}")
    found = tuple(values)
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in found):
        raise TypeError(f"`{name}` must hold integers, got {found}")
    if any(size < 1 for size in found):
        raise ValueError(f"`{name}` must hold positive integers, got {found}")
    if len(found) < fewest:
        raise ValueError(f"`{name}` must name at least {fewest} layer{'s' * (fewest > 1)}, got {len(found) or 'none'}")
    return found


def switch(value: Any, name: str) -> bool:
    """A ``bool``.

    Raises:
        TypeError: ``value`` is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """The value where it is short, and its type."""
    kind = type(value).__name__
    return f"{value!r} of type {kind}" if isinstance(value, (bool, int, float, str)) else kind
