"""A limit on what building a module may take: a file of a few bytes can take neither all memory nor hours."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

_TINY = 2**26


EXCESS = "needs far more memory or time than its tensors"


def check_sizes(arguments: Any, most: int, name: str = "") -> None:
    """Raises if stored arguments hold a size, or a shape of so many elements, beyond ``most``.

    Not every large number makes a large tensor first: a list of so many integers takes hours as well.

    Args:
        arguments: JSON values.
        most: What is still reasonable.
        name: Of the argument that holds them.
    """
    if isinstance(arguments, dict):
        for key, value in arguments.items():
            check_sizes(value, most, name if key in ("tuple", "dict") else key)
    elif isinstance(arguments, list) and all(isinstance(entry, int) for entry in arguments):
        if max((prod(arguments) if name.endswith("shape") else 0, *arguments)) > most:
            raise ValueError(EXCESS)
    elif isinstance(arguments, list):
        for value in arguments:
            check_sizes(value, most, name)


class Allowance(TorchFunctionMode):
    """A scope in which so many bytes of tensors may be made, by so many calls of torch.

    The size of a result is found before it is made, by the same call on tensors without content.

    Args:
        size: Bytes of the results of all calls.
        calls: How many calls may be made.

    Raises:
        ValueError: more is made (from within the scope).
    """

    def __init__(self, size: int, calls: int) -> None:
        super().__init__()
        self.size = size
        self.calls = calls

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        self.calls -= 1
        self.size -= _size(function, args, kwargs)
        if self.size < 0 or self.calls < 0:
            raise ValueError(EXCESS)
        return function(*args, **kwargs)


def _size(function: Callable, args: tuple, kwargs: dict[str, Any]) -> int:
    """Bytes of what a call gives; nothing where that depends on values, which is no larger than what it reads."""
    leaves = tree_leaves((args, kwargs))
    read = sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
    # No more than this can come of it: what it reads or is given, against itself. Most calls are tiny.
    given = prod(max(abs(leaf), 1) for leaf in leaves if isinstance(leaf, (int, float)))
    if (max(read, 1) * given) ** 2 <= _TINY:
        return 0
    if not read:
        kwargs = {**kwargs, "device": "meta", **({"generator": None} if "generator" in kwargs else {})}
    args, kwargs = tree_map(_without_content, (args, kwargs))
    try:
        made = function(*args, **kwargs)
    except Exception:  # the call itself shows what is wrong with it
        return 0
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))


def _without_content(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.is_meta:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
