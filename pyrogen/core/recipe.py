"""Recipes: functions that build a module from plain arguments, and remember how.

A checkpoint names the recipe and its arguments, never code. The name is looked up among pyrogen's own recipes and those
the caller hands to ``load``: a free name in a file would be an import. A digest of the structure as the recipe left it
tells whether the module was edited since.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from typing import Any, TypeVar

from torch import nn

Build = TypeVar("Build", bound=Callable[..., nn.Module])
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Recipe:
    """How a module was built: the recipe's name, its arguments as JSON values, and the structure it left."""

    name: str
    arguments: dict[str, Any]
    structure: str


def recipe(build: Build) -> Build:
    """Marks a function as a recipe: the module it returns can be rebuilt by name from a checkpoint.

    Arguments are numbers, strings, booleans, ``None``, tuples, lists and dicts of these, or modules built by recipes.
    With any other argument the module still saves, and loads with ``into=``.

    Example:
        >>> @recipe
        ... def linear(inputs, outputs=3):
        ...     return nn.Linear(inputs, outputs)
        >>> linear(2).recipe.arguments
        {'inputs': 2, 'outputs': 3}
    """
    signature = inspect.signature(build)

    @wraps(build)
    def built(*args: Any, **kwargs: Any) -> nn.Module:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        module = build(*bound.args, **bound.kwargs)
        try:
            arguments = {name: _encode(value) for name, value in bound.arguments.items()}
        except TypeError:
            module.recipe = None
        else:
            module.recipe = Recipe(_name(build), arguments, structure_of(module))
        return module

    built.is_recipe = True
    return built


def structure_of(module: nn.Module) -> str:
    """A digest of a module's classes, public attributes and the names and shapes of its tensors."""
    lines = []
    for name, part in module.named_modules(remove_duplicate=False):
        settings = {
            key: _summary(value)
            for key, value in vars(part).items()
            if not key.startswith("_") and key not in ("training", "recipe")
        }
        lines.append(f"{name}: {_name(type(part))} {sorted(settings.items())}")
    lines += [f"{name}: {tuple(tensor.shape)}" for name, tensor in module.state_dict().items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _summary(value: Any) -> str:
    """What a setting says, the same in every process: no addresses."""
    if _is_plain(value):
        return repr(value)
    if isinstance(value, partial):
        return f"{_summary(value.func)} {[*map(_summary, value.args)]} {_summary(value.keywords)}"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{_name(type(value))} { {field.name: _summary(getattr(value, field.name)) for field in fields(value)} }"
    if isinstance(value, (tuple, list)):
        return str([*map(_summary, value)])
    if isinstance(value, dict):
        return str({str(key): _summary(entry) for key, entry in value.items()})
    return _name(value if hasattr(value, "__qualname__") else type(value))


def describe(module: nn.Module) -> dict[str, Any] | None:
    """The recipe of a module as JSON values; ``None`` if it has none or was edited since."""
    made = getattr(module, "recipe", None)
    if not isinstance(made, Recipe) or made.structure != structure_of(module):
        return None
    return {"name": made.name, "arguments": made.arguments}


def rebuild(description: dict[str, Any], recipes: Iterable[Callable[..., nn.Module]] = ()) -> nn.Module:
    """The module a description stands for.

    Raises:
        ValueError: the name is neither a recipe of pyrogen's nor among ``recipes``, or its arguments do not fit.
    """
    build = _find(description["name"], recipes)
    arguments = {name: _decode(value, recipes) for name, value in description["arguments"].items()}
    try:
        bound = inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"names recipe {description['name']!r}, which does not take the stored arguments: {error}"
        ) from error
    return build(*bound.args, **bound.kwargs)


def _find(name: str, recipes: Iterable[Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    for candidate in recipes:
        if _name(candidate) == name:
            return candidate
    module, _, function = name.rpartition(".")
    if module.startswith("pyrogen."):
        try:
            found = getattr(importlib.import_module(module), function, None)
        except ImportError:
            found = None
        if getattr(found, "is_recipe", False):
            return found
    raise ValueError(f"names {name!r}, which is not a recipe of pyrogen's; pass the function to `load(recipes=[...])`")


def _name(build: Callable) -> str:
    return f"{build.__module__}.{build.__qualname__}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, _PLAIN)


def _encode(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple):
        return {"tuple": [_encode(entry) for entry in value]}
    if isinstance(value, list):
        return [_encode(entry) for entry in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(entry) for key, entry in value.items()}}
    if isinstance(value, dict):
        return {"pairs": [[_encode(key), _encode(entry)] for key, entry in value.items()]}
    if isinstance(value, nn.Module) and (description := describe(value)):
        return {"recipe": description}
    raise TypeError(f"{type(value).__name__} has no place in a checkpoint")


def _decode(value: Any, recipes: Iterable[Callable[..., nn.Module]]) -> Any:
    if isinstance(value, list):
        return [_decode(entry, recipes) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tuple":
        return tuple(_decode(entry, recipes) for entry in content)
    if kind == "dict":
        return {key: _decode(entry, recipes) for key, entry in content.items()}
    if kind == "pairs":
        return {_decode(key, recipes): _decode(entry, recipes) for key, entry in content}
    return rebuild(content, recipes)
