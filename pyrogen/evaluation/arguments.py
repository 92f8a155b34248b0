"""Checks of tensors. A statistic of values that are no numbers would still be a number, so they are refused by name.

Single numbers are checked by :mod:`pyrogen.arguments`. Every public function of ``evaluation`` takes tensors: an array
or a list is refused, never converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from pyrogen.core.batches import rows as count_rows


def require_tensor(values: object, name: str) -> None:
    """Refuses what is no tensor of real numbers.

    Raises:
        TypeError: it is an array, a list, a tensor of complex numbers or something else.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"`{name}` must be a tensor, got {type(values).__name__}; convert it by `torch.as_tensor`")
    if values.is_complex():
        raise TypeError(f"`{name}` must hold real numbers, got {values.dtype}")


def require_numbers(values: object, name: str, *, minus_infinity: bool = False, plus_infinity: bool = False) -> None:
    """Refuses a tensor that holds NaN, or infinities that mean nothing in its place.

    Args:
        values: The tensor.
        name: Of the argument.
        minus_infinity: Whether minus infinity has a meaning: a log-probability of zero probability.
        plus_infinity: Whether infinity has a meaning: the score of what is impossible under a model.

    Raises:
        TypeError: it is no tensor of real numbers.
        ValueError: an entry is NaN, or a meaningless infinity.
    """
    require_tensor(values, name)
    _require_none(values.isnan(), name, "must hold numbers", "NaN")
    if not minus_infinity:
        _require_none(values.isneginf(), name, "must be finite", "minus infinity")
    if not plus_infinity:
        _require_none(values.isposinf(), name, "must be finite", "infinity")


def require_vector(values: Tensor, name: str, shape: str, *, least: int = 1) -> None:
    """Refuses a tensor that is no vector, or too short a one.

    Raises:
        ValueError: its shape is not ``(n,)``, or n is less than ``least``.
    """
    if values.dim() != 1 or len(values) < least:
        least_shown = "" if least == 1 else f" with at least {least} entries"
        raise ValueError(f"`{name}` must have shape {shape}{least_shown}, got {tuple(values.shape)}")


def require_generator(generator: object) -> None:
    """Refuses a seed where a generator is expected.

    Raises:
        TypeError: it is neither a generator nor ``None``.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"`generator` must be a torch.Generator or None, got {generator!r}; "
            "make one by `torch.Generator().manual_seed(seed)`"
        )


def require_programs(**programs: Callable) -> None:
    """Refuses what cannot be called as a Pyro program.

    Raises:
        TypeError: one is not callable.
    """
    for name, program in programs.items():
        if not callable(program):
            raise TypeError(f"`{name}` must be a Pyro program, a callable, got {type(program).__name__}")


def require_rows(batch: tuple, *, name: str = "batch", least: int = 1) -> int:
    """How many rows of data a batch holds.

    Args:
        batch: What programs are called with: tensors with the data in rows, numbers, dicts of tensors or ``None``.
        name: Of the argument.
        least: The smallest number of rows that makes sense.

    Raises:
        TypeError: an entry is an array or a sequence, of which no rows can be taken.
        ValueError: there are too few rows, or a tensor has another number of them.
    """
    rows = count_rows(batch)
    entries = list(_entries(batch, name))
    tensors = [(place, entry) for place, entry in entries if isinstance(entry, Tensor) and entry.dim()]
    for place, entry in entries:
        if isinstance(entry, list | tuple | np.ndarray):
            raise TypeError(f"`{place}` must be a tensor, got {type(entry).__name__}; convert it by `torch.as_tensor`")
    for place, entry in tensors:
        require_tensor(entry, place)
        if len(entry) != rows:
            raise ValueError(f"`{place}` must have the {rows} rows of the data, got shape {tuple(entry.shape)}")
    if not tensors or rows < least:
        wanted = "one datum" if least == 1 else f"{least} data"
        raise ValueError(
            f"`{name}` must hold at least {wanted}, in rows of a tensor, got {rows if tensors else 'none'}"
        )
    return rows


def count_missing(batch: Iterable) -> int:
    """How many NaN the tensors of a batch hold."""
    tensors = [entry for _, entry in _entries(batch, "batch") if isinstance(entry, Tensor)]
    return sum(int(entry.isnan().sum()) for entry in tensors)


def _entries(batch: Iterable, name: str) -> Iterator[tuple[str, object]]:
    for place, entry in enumerate(batch):
        if isinstance(entry, Mapping):
            yield from ((f"{name}[{place}][{key!r}]", part) for key, part in entry.items())
        else:
            yield f"{name}[{place}]", entry


def _require_none(bad: Tensor, name: str, wanted: str, what: str) -> None:
    places = bad.nonzero()
    if not len(places):
        return
    first = tuple(places[0].tolist())
    where = f", the first at {first[0] if len(first) == 1 else first}" if first else ""
    raise ValueError(f"`{name}` {wanted}, got {len(places)} {what} among {bad.numel()}{where}")
