"""The structure of a module: all that it is besides its tensors' values.

Classes, public attributes (followed into the objects they hold: a sampler, its grid, its steps), the arguments that a
function was given in advance, hooks, and the names and shapes of tensors, as a flat dict of paths and texts. It is the
same in every process and on every Python: no address, no hash, no order of a set enters it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Structure = dict[str, str]

VALUES = "#values"
"""Ends the path of an entry that holds floating-point values: those may differ by rounding between machines."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), range, slice, Enum, PurePath, torch.dtype, torch.device)
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, type)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def structure_of(module: nn.Module) -> Structure:
    """What a module consists of, by path."""
    return dict(_Walk().module("", module))


def differences(stored: Structure, own: Structure, *, values: bool = True) -> list[str]:
    """What differs between two structures, as sentences.

    Args:
        stored: The structure that is expected.
        own: The structure that is there.
        values: Whether floating-point values held as plain attributes must agree to the last bit.
    """
    missing = "nothing"
    return [
        f"`{path.removesuffix(VALUES) or 'its class'}` is {own.get(path, missing)}, not {stored.get(path, missing)}"
        for path in sorted(stored.keys() | own.keys())
        if stored.get(path) != own.get(path) and (values or not path.endswith(VALUES))
    ]


def name_of(kind: Any) -> str:
    """The name of a class or function, with its package: a file inside of a package may move."""
    package = getattr(kind, "__module__", None) or ""
    return f"{package.partition('.')[0]}.{kind.__qualname__}"


class _Walk:
    """Follows values into what they hold, each module once."""

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.inside: set[int] = set()

    def module(self, path: str, module: nn.Module) -> Iterator[tuple[str, str]]:
        """The entries of a module, its parts and their tensors."""
        parts = {_join(path, name): part for name, part in module.named_modules(remove_duplicate=False)}
        stored = {_join(path, name): tensor for name, tensor in module.state_dict(keep_vars=True).items()}
        self.known.update(map(id, (*parts.values(), *stored.values())))
        for name, part in parts.items():
            yield name, name_of(type(part))
            for key in _HOOKS:
                if hooks := vars(part).get(key):
                    yield _join(name, key.lstrip("_")), str([_function_name(hook) for hook in hooks.values()])
            for key, value in vars(part).items():
                if not key.startswith("_") and key not in ("training", "recipe"):
                    yield from self.value(_join(name, key), value)
        yield from ((f"{name}#shape", _shape(tensor)) for name, tensor in stored.items())
        for name, buffer in module.named_buffers(remove_duplicate=False):
            if id(buffer) not in self.known:  # not stored; a change of precision moves its fractions alone
                yield f"{_join(path, name)}#shape", _shape(buffer)
                if not _has_fractions(buffer):
                    yield _join(path, name), _digest(buffer)

    def value(self, path: str, value: Any) -> Iterator[tuple[str, str]]:
        """The entries of a value that a module or another value holds."""
        if isinstance(value, _PLAIN):
            yield path, _short(repr(value))
        elif id(value) in self.known:
            yield path, f"the module's own {type(value).__name__}"
        elif isinstance(value, (Tensor, np.ndarray)):
            yield from _array(path, value)
        elif isinstance(value, nn.Module):
            yield from self.module(path, value)
        elif id(value) in self.inside:
            yield path, "itself"
        else:
            self.inside.add(id(value))
            yield path, _function_name(value) if isinstance(value, _FUNCTIONS) else name_of(type(value))
            for key, held in _held(value):
                yield from self.value(f"{path}{key}", held)
            self.inside.discard(id(value))


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, by how it is reached."""
    if isinstance(value, partial):
        yield from (("(function)", value.func), ("(arguments)", value.args), ("(keywords)", value.keywords))
    elif isinstance(value, FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        yield from zip((f"({name})" for name in value.__code__.co_freevars), cells, strict=True)
        yield from (("(defaults)", part) for part in (value.__defaults__, value.__kwdefaults__) if part)
    elif isinstance(value, MethodType):
        yield "(self)", value.__self__
    elif isinstance(value, type | BuiltinFunctionType):
        return
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]" if isinstance(key, _PLAIN) else "[...]", entry) for key, entry in value.items())
    elif isinstance(value, Set):
        yield "", sorted(map(repr, value))
    elif isinstance(value, (tuple, list)):
        yield from _entries(value)
    else:
        names = [field.name for field in fields(value)] if is_dataclass(value) else []
        attributes = {key: entry for key, entry in _attributes(value).items() if not key.startswith("_")}
        attributes.update({name: getattr(value, name) for name in names})
        yield from ((f".{key}", entry) for key, entry in attributes.items())


def _entries(value: tuple | list) -> Iterator[tuple[str, Any]]:
    if all(isinstance(entry, _PLAIN) for entry in value):  # one entry, however many
        yield "[:]", repr(value)
    else:
        yield from ((f"[{index}]", entry) for index, entry in enumerate(value))


def _array(path: str, value: Tensor | np.ndarray) -> Iterator[tuple[str, str]]:
    yield f"{path}#shape", _shape(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        yield path + VALUES * _has_fractions(value), _digest(value)


def _has_fractions(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _attributes(value: Any) -> dict[str, Any]:
    try:
        return vars(value)
    except TypeError:  # neither attributes nor slots that could be told apart from an implementation
        return {}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _function_name(value: Any) -> str:
    return name_of(value if hasattr(value, "__qualname__") else type(value))


def _shape(value: Tensor | np.ndarray) -> str:
    return "unknown yet" if nn.parameter.is_lazy(value) else str(tuple(value.shape))


def _digest(tensor: Tensor) -> str:
    if nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided:
        return "no values"
    # A single entry of stride 0 counts as contiguous, so that `contiguous()` would leave it as it is.
    plain = tensor.detach().cpu().resolve_conj().clone(memory_format=torch.contiguous_format)
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"values {hashlib.sha256(content).hexdigest()[:16]}"


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:60]}... {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
