"""Former names: each still works, with a warning that gives the new one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def renamed(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package in which things have got other names.

    Args:
        package: Its ``__name__``.
        names: For each name of before, that of today, with its package.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(f"`{package}.{name}` is now `{names[name]}`", DeprecationWarning, stacklevel=2)
        home, _, today = names[name].rpartition(".")
        return getattr(import_module(home), today)

    return find
