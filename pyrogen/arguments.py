"""Checks of arguments, one for each kind, below all packages: every constructor and recipe refuses a mistake alike.

Each takes a value and the name of its argument, and gives the value back where it makes sense. A value of another type
raises a TypeError, one that is out of range a ValueError. Nothing is converted: a float that happens to be whole, an
array or a string of digits is a mistake that the caller should see.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from math import inf, isfinite, isnan
from typing import Any, TypeVar

import torch
from torch import Tensor

Build = TypeVar("Build", bound=Callable[..., Any])
Check = Callable[[Any, str], Any]


def integer(value: Any, name: str, *, least: int = 1) -> int:
    """An integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int, got {_shown(value)}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}")
    return value


def number(value: Any, name: str) -> float:
    """A finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {_shown(value)}")
    if not isfinite(value):
        raise ValueError(f"`{name}` must be finite, got {value}")
    return value


def orderable(value: Any, name: str) -> float:
    """A number that may be infinite, such as a limit that does not bind."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {_shown(value)}")
    if isnan(value):
        raise ValueError(f"`{name}` must be a number, got {value}")
    return value


def positive(value: Any, name: str, *, most: float = inf) -> float:
    """A finite number above zero, and no larger than ``most``."""
    if not 0 < number(value, name) <= most:
        raise ValueError(f"`{name}` must be positive{'' if most == inf else f' and at most {most}'}, got {value}")
    return value


def non_negative(value: Any, name: str) -> float:
    """A finite number of at least zero."""
    if number(value, name) < 0:
        raise ValueError(f"`{name}` must not be negative, got {value}")
    return value


def share(value: Any, name: str) -> float:
    """A number in [0, 1): of units that are dropped, say."""
    if not 0 <= number(value, name) < 1:
        raise ValueError(f"`{name}` must be at least 0 and less than 1, got {value}")
    return value


def sizes(values: Any, name: str, *, fewest: int = 0) -> tuple[int, ...]:
    """Positive integers, such as the widths of layers, as a tuple.

    Args:
        values: The sizes.
        name: Of the argument.
        fewest: How many there must be at least.
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
    """A ``bool``."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {_shown(value)}")
    return value


def function(value: Any, name: str) -> Callable[..., Any]:
    """Something that can be called: a Pyro program, or what makes one."""
    if not callable(value):
        raise TypeError(f"`{name}` must be callable, got {type(value).__name__}")
    return value


def site_name(value: Any, name: str) -> str:
    """The name of a site of a Pyro program."""
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be the name of a latent site, a str, got {type(value).__name__}")
    return value


def instance_of(kind: type) -> Check:
    """The check that a value is an object of a class; raises a TypeError where it is not."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"`{name}` must be a {kind.__name__}, got {type(value).__name__}")
        return value

    return check


def finite(value: Any, name: str) -> Tensor:
    """A floating-point tensor without missing or infinite entries."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"`{name}` must be a tensor of floating-point numbers, got {kind}")
    return numbers(value, name)


def real_tensor(value: Any, name: str) -> Tensor:
    """A tensor of real numbers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}; convert it by `torch.as_tensor`")
    if value.is_complex():
        raise TypeError(f"`{name}` must hold real numbers, got {value.dtype}")
    return value


def numbers(value: Any, name: str, *, minus_infinity: bool = False, plus_infinity: bool = False) -> Tensor:
    """A tensor of real numbers without NaN, and without infinities that mean nothing in its place.

    Args:
        value: The tensor.
        name: Of the argument.
        minus_infinity: Whether minus infinity has a meaning: a log-probability of zero probability.
        plus_infinity: Whether infinity has a meaning: the score of what is impossible under a model.
    """
    real_tensor(value, name)
    _refuse_entries(value.isnan(), name, "must hold numbers", "NaN")
    if not minus_infinity:
        _refuse_entries(value.isneginf(), name, "must be finite", "minus infinity")
    if not plus_infinity:
        _refuse_entries(value.isposinf(), name, "must be finite", "infinity")
    return value


def without_nan(value: Any, name: str) -> Tensor:
    """A tensor of real numbers without NaN; infinities are scores of what is impossible."""
    return numbers(value, name, minus_infinity=True, plus_infinity=True)


def vector(value: Tensor, name: str, shape: str = "(n,)", *, least: int = 1) -> Tensor:
    """A tensor of one dimension with at least so many entries."""
    if value.dim() != 1 or len(value) < least:
        least_shown = "" if least == 1 else f" with at least {least} entries"
        raise ValueError(f"`{name}` must have shape {shape}{least_shown}, got {tuple(value.shape)}")
    return value


def no_symbol(values: Tensor, symbols: int) -> Tensor:
    """Which values are no integers from 0 to ``symbols - 1``."""
    whole = values.long()  # a short type would wrap around in a comparison with the number of symbols
    return (whole != values) | (whole < 0) | (whole >= symbols)


def _refuse_entries(bad: Tensor, name: str, wanted: str, what: str) -> None:
    places = bad.nonzero()
    if not len(places):
        return
    first = tuple(places[0].tolist())
    where = f", the first at {first[0] if len(first) == 1 else first}" if first else ""
    raise ValueError(f"`{name}` {wanted}, got {len(places)} {what} among {bad.numel()}{where}")


def generator(value: Any, name: str) -> torch.Generator | None:
    """A ``torch.Generator``, or ``None``."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(
            f"`{name}` must be a torch.Generator or None, got {value!r}; "
            "make one by `torch.Generator().manual_seed(seed)`"
        )
    return value


def image_shape(value: Any, *, channels: int | None = None) -> tuple[int, int, int]:
    """The shape ``(channels, height, width)`` of an image."""
    shape = tuple(value)
    wanted = "channels" if channels is None else str(channels)
    fits = len(shape) == 3 and all(isinstance(size, int) and size > 0 for size in shape)
    if not fits or (channels is not None and shape[0] != channels):
        raise ValueError(f"`shape` must be ({wanted}, height, width), got {shape}")
    return shape


def _shown(value: Any) -> str:
    """The value where it is short, and its type."""
    kind = type(value).__name__
    return f"{value!r} of type {kind}" if isinstance(value, (bool, int, float, str)) else kind


def shape(value: Any, name: str) -> tuple[int, ...]:
    """The shape of an event: positive integers, none for a scalar; an integer is a shape of one dimension."""
    return sizes((value,) if isinstance(value, int) and not isinstance(value, bool) else value, name)


def context_shape(value: Any, name: str) -> Any:
    """``None``, a shape, or a dict of shapes."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return shape(value, name)
    if not value:
        raise ValueError(f"`{name}` must hold at least one shape, got an empty dict")
    return {key: shape(entry, f"{name}[{key!r}]") for key, entry in value.items()}


def labels(value: Any, name: str) -> Any:
    """How many labels there are, or how many for each of several contexts."""
    if isinstance(value, Mapping):
        return {key: integer(entry, f"{name}[{key!r}]") for key, entry in value.items()}
    return integer(value, name)


def several(value: Any, name: str) -> int:
    """An integer of at least two: of levels, symbols or codes, of which one would leave nothing to choose."""
    return integer(value, name, least=2)


def count(value: Any, name: str) -> int:
    """An integer of at least zero."""
    return integer(value, name, least=0)


def several_or_none(value: Any, name: str) -> int | None:
    """An integer of at least two, or ``None`` where it is not the default."""
    return value if value is None else several(value, name)


def interval(value: Any, name: str) -> tuple[float, float]:
    """Two finite numbers, the lower one first."""
    if not isinstance(value, Sequence) or len(value) != 2 or not number(value[0], name) < number(value[1], name):
        raise ValueError(f"`{name}` must be (low, high) with low < high, got {value!r}")
    return tuple(value)


def some_sizes(values: Any, name: str) -> tuple[int, ...]:
    """Positive integers, at least one."""
    return sizes(values, name, fewest=1)


def anything(value: Any, name: str) -> Any:
    """No check: the function has its own."""
    return value


def any_integer(value: Any, name: str) -> int:
    """An integer, such as a seed."""
    return integer(value, name, least=-(2**63))


def seed_or_none(value: Any, name: str) -> int | None:
    """An integer, such as a seed, or ``None``."""
    return value if value is None else any_integer(value, name)


def positive_share(value: Any, name: str) -> float:
    """A number in (0, 1]."""
    return positive(value, name, most=1)


def inner_share(value: Any, name: str) -> float:
    """A number in (0, 1), such as the level of an interval."""
    if not 0 < number(value, name) < 1:
        raise ValueError(f"`{name}` must be between 0 and 1, got {value}")
    return value


def whole_share(value: Any, name: str) -> float:
    """A number in [0, 1]."""
    if not 0 <= number(value, name) <= 1:
        raise ValueError(f"`{name}` must be from 0 to 1, got {value}")
    return value


MEANING: dict[str, Check] = {
    **dict.fromkeys(("layers", "units", "rank", "components", "draws", "orders", "modes", "size", "depth"), integer),
    **dict.fromkeys(
        ("width", "heads", "key_heads", "patch", "kernel", "ratio", "skip", "cycles", "places", "source"), integer
    ),
    **dict.fromkeys(("steps", "every", "rows", "repeats", "count", "columns"), integer),
    **dict.fromkeys(("inputs", "outputs", "features", "parameters", "length"), integer),
    **dict.fromkeys(("bins", "symbols", "codes", "dimensions"), several),
    **dict.fromkeys(("permutations", "simulations", "repetitions", "batch_size", "chains"), integer),
    **dict.fromkeys(("particles", "sweeps", "chunk", "points", "rounds", "factor", "blocks", "group", "pack"), integer),
    "warmup": count,
    "site": site_name,
    "folds": several,
    **dict.fromkeys(("level", "held_out", "probability"), inner_share),
    "generator": generator,
    "attention": count,
    **dict.fromkeys(("hidden", "channels"), some_sizes),
    **dict.fromkeys(("dropout", "context_dropout"), share),
    **dict.fromkeys(
        ("log_scale_bound", "bound", "scale", "spread", "tolerance", "data_scale", "radius", "degrees", "temperature"),
        positive,
    ),
    **dict.fromkeys(("commitment", "noise", "free_nats"), non_negative),
    **dict.fromkeys(("mass", "rising"), positive_share),
    "sleep": whole_share,
    "alpha": number,
    **dict.fromkeys(("event_shape", "latent_shape", "image_shape"), shape),
    **dict.fromkeys(
        ("mixing", "standardize", "regression", "fast_sampling", "cross", "rotary", "flags", "resample", "spectral"),
        switch,
    ),
    "analytic_kl": switch,
    "context_shape": context_shape,
    "classes": labels,
    **dict.fromkeys(("seed", "noise_seed"), any_integer),
}
"""What the arguments of recipes, networks and generated data mean, by name: a name means one thing in the library."""


def checked(build: Build | None = None, /, **otherwise: Check) -> Any:
    """Marks a function (or a constructor) whose arguments are checked by their names before it runs.

    ``None`` passes where it is the default. Nothing is converted.

    Args:
        build: The function.
        otherwise: Checks of arguments that mean something else here than in :data:`MEANING`.

    Example:
        >>> @checked(depth=integer)
        ... def network(width, *, depth=1, dropout=0.0):
        ...     return width * depth
        >>> network(3, depth=0)
        Traceback (most recent call last):
        ValueError: `depth` must be at least 1, got 0
    """
    if build is None:
        return partial(checked, **otherwise)
    signature = inspect.signature(build)
    known = {**MEANING, **otherwise}
    checks = [(name, known[name], entry.default) for name, entry in signature.parameters.items() if name in known]

    @wraps(build)
    def checking(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for name, check, default in checks:
            if name in given and not (given[name] is None and default is None):
                check(given[name], name)
        return build(*args, **kwargs)

    return checking
