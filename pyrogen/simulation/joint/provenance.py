"""What a distribution without a ``log_prob`` was computed from."""

from __future__ import annotations

from functools import partial
from inspect import getclosurevars
from types import FunctionType, MethodType
from typing import Any

from pyro.ops.provenance import get_provenance
from torch import Tensor
from torch.distributions import Distribution


def marks_held(*holders: Any) -> frozenset[str]:
    """The marks of all tensors that distributions or functions hold: as arguments, in parts, in closures."""
    found: frozenset[str] = frozenset()
    waiting, seen = list(holders), set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            found |= get_provenance(part)
        elif id(part) not in seen:
            seen.add(id(part))
            waiting.extend(_parts(part))
    return found


def holds_anything(function: Any) -> bool:
    """Whether a function holds values besides its arguments: captured ones, defaults, an object that it is bound to."""
    return not isinstance(function, FunctionType) or bool(_parts(function))


def _parts(holder: Any) -> list[Any]:
    if isinstance(holder, FunctionType):
        captured = list(getclosurevars(holder).nonlocals.values())
        return [*captured, *(holder.__defaults__ or ()), *(holder.__kwdefaults__ or {}).values()]
    if isinstance(holder, MethodType):
        return [holder.__func__, holder.__self__]
    if isinstance(holder, partial):
        return [holder.func, *holder.args, *holder.keywords.values()]
    if isinstance(holder, dict):
        return list(holder.values())
    if isinstance(holder, (tuple, list)):
        return list(holder)
    return list(vars(holder).values()) if isinstance(holder, Distribution) else []
