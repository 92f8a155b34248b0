"""Recipes: functions, and classes, that build a module from plain arguments, and remember how.

A checkpoint names the recipe and its arguments, never code. The name is looked up in a table of pyrogen's own recipes
and among those passed to ``load``: a free name in a file would be an import. The structure as the recipe left
it shows whether the module was edited since, and whether the recipe still builds the same.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from .argument_texts import completed
from .known_recipes import as_written, known_recipe
from .structure import Structure, differences, structure_of

Build = TypeVar("Build", bound=Callable[..., nn.Module])
_PLAIN = (bool, int, float, str, type(None))
_SHOWN = 3


@dataclass(frozen=True)
class Recipe:
    """How a module was built.

    Attributes:
        name: The recipe's.
        arguments: As JSON values; ``None`` where a file cannot hold one of them.
        structure: The structure that the recipe left.
        obstacle: Which argument a file cannot hold, and why.
    """

    name: str
    arguments: dict[str, Any] | None
    structure: Structure
    obstacle: str = ""


def recipe(build: Build | None = None, /, *, texts: Mapping[str, str] | None = None) -> Any:
    """Marks a function, or a class, as a recipe: the module it gives can be rebuilt by name from a checkpoint.

    Arguments are numbers, strings, booleans, ``None``, tuples, lists and dicts of these, or modules built by recipes.
    NumPy's numbers and the ``torch.Size`` of a tensor become Python's, as a file would give them back. With any other
    argument the module still saves, and loads with ``into=``.

    Args:
        build: The function or the class.
        texts: If given, the docstring is completed: arguments that it does not describe are described by these texts
            and by :data:`~pyrogen.core.argument_texts.ARGUMENTS`.

    Example:
        >>> @recipe
        ... def linear(inputs, outputs=3):
        ...     return nn.Linear(inputs, outputs)
        >>> linear(2).recipe.arguments
        {'inputs': 2, 'outputs': 3}
    """
    if build is None:
        return partial(recipe, texts=texts)
    signature = inspect.signature(build)
    if isinstance(build, type):
        return _remembering(build, signature)

    @wraps(build)
    def built(*args: Any, **kwargs: Any) -> nn.Module:
        bound = signature.bind(*map(_plain, args), **_plain(_by_names_of_today(build, signature, kwargs)))
        bound.apply_defaults()
        arguments, obstacle = _encoded(bound.arguments)  # first: a function may change what it is given
        module = build(*bound.args, **bound.kwargs)
        if not isinstance(module, nn.Module):
            raise TypeError(f"the recipe `{build.__name__}` must give an nn.Module, got {type(module).__name__}")
        module.recipe = _made(build, arguments, module, obstacle)
        return module

    built.is_recipe = True
    if texts is not None and build.__doc__:  # there is none under `python -OO`
        built.__doc__ = completed(build.__doc__, signature.parameters, texts)
    return built


def _remembering(kind: type[nn.Module], signature: inspect.Signature) -> type[nn.Module]:
    """A class whose objects, but not those of classes derived from it, remember their arguments."""
    initialize = kind.__init__

    @wraps(initialize)
    def initialized(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*map(_plain, args), **_plain(kwargs))
        bound.apply_defaults()
        arguments, obstacle = _encoded(bound.arguments)
        initialize(self, *bound.args, **bound.kwargs)
        if type(self) is kind:
            self.recipe = _made(kind, arguments, self, obstacle)

    kind.__init__, kind.is_recipe = initialized, True
    return kind


def _made(build: Callable, arguments: dict[str, Any] | None, module: nn.Module, obstacle: str) -> Recipe:
    """How a module was built; its structure matters only where a file can name the recipe."""
    return Recipe(_name(build), arguments, {} if arguments is None else structure_of(module), obstacle)


def _by_names_of_today(build: Build, signature: inspect.Signature, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments given by a name of before, as a file of before has them, by that of today."""
    if "levels" not in given or "levels" in signature.parameters:
        return given
    today = as_written(_name(build), given)
    if today is not given:
        names = " or ".join(f"`{name}`" for name in today.keys() - given.keys())
        warnings.warn(f"`levels` of `{build.__name__}` is now {names}", DeprecationWarning, stacklevel=3)
    return today


def describe(module: nn.Module) -> dict[str, Any] | None:
    """The recipe of a module as JSON values; ``None`` if it cannot be rebuilt: see :func:`obstacle`."""
    return None if obstacle(module) else {"name": module.recipe.name, "arguments": module.recipe.arguments}


def is_built(module: nn.Module) -> bool:
    """Whether a recipe built it."""
    return isinstance(vars(module).get("recipe"), Recipe)


def obstacle(module: nn.Module) -> str:
    """Why a module cannot be rebuilt by its recipe; empty if it can."""
    if not is_built(module):
        return "was put together by hand"
    made = module.recipe
    if made.arguments is None:
        return f"was built by a recipe from what a file cannot hold: {made.obstacle}"
    edits = differences(made.structure, structure_of(module))
    return f"was edited after its recipe: {_few(edits)}" if edits else ""


def rebuild(
    description: dict[str, Any], recipes: Iterable[Callable[..., nn.Module]], changes: Mapping[str, Any] | None = None
) -> nn.Module:
    """The module a description stands for, or one of other arguments.

    Args:
        description: The name of the recipe, and its arguments as JSON values.
        recipes: Where names are looked up, beside pyrogen's own.
        changes: Arguments in place of the described ones.

    Raises:
        ValueError: the name is neither a recipe of pyrogen's nor among ``recipes``, or its arguments do not fit.
    """
    name, changes = description["name"], changes or {}
    build = _find(name, recipes)
    written = as_written(name, description["arguments"])
    arguments = {key: _decode(value, recipes) for key, value in written.items() if key not in changes} | dict(changes)
    bound = _bound(name, build, arguments)
    try:
        return build(*bound.args, **bound.kwargs)
    except Exception as error:
        raise ValueError(f"names recipe {name!r}, which refuses the arguments: {error}") from error


def check_structure(stored: Structure, module: nn.Module) -> None:
    """Raises if a rebuilt module is not what was saved."""
    if changes := differences(stored, structure_of(module), values=False):
        raise ValueError(
            f"was written by a recipe that now builds something else: {_few(changes)}; build the module as it was and "
            "pass it as `into=`"
        )


def _bound(name: str, build: Callable, arguments: dict[str, Any]) -> inspect.BoundArguments:
    """Stored arguments, those of ``*args`` and ``**options`` too, in their places."""
    signature = inspect.signature(build)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    strange = sorted(arguments.keys() - signature.parameters.keys())
    missing = [
        key
        for key, parameter in signature.parameters.items()
        if key not in arguments and parameter.default is parameter.empty and parameter.kind not in variadic
    ]
    if strange or missing:
        what = f"unknown {strange}" if strange else f"missing {missing}"
        raise ValueError(f"names recipe {name!r}, which does not take the arguments: {what}")
    bound = inspect.BoundArguments(signature, {key: arguments[key] for key in signature.parameters if key in arguments})
    bound.apply_defaults()
    return bound


def _find(name: str, recipes: Iterable[Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    for candidate in recipes:
        if _name(candidate) == name:
            return candidate
    if (found := known_recipe(name)) is not None:
        return found
    raise ValueError(f"names {name!r}, which is not a recipe of pyrogen's; pass the function to `load(recipes=[...])`")


def is_function(value: Any) -> bool:
    """Whether a file could name it."""
    return callable(value) and hasattr(value, "__qualname__")


def _name(build: Callable) -> str:
    return f"{build.__module__}.{build.__qualname__}"


def _few(entries: list[str]) -> str:
    more = len(entries) - _SHOWN
    return ", ".join(entries[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _plain(value: Any) -> Any:
    """A value with Python's own numbers and tuples, so that a module is built now as it will be from its file."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (tuple, torch.Size):
        return tuple(map(_plain, value))
    if type(value) is list:
        return [*map(_plain, value)]
    if type(value) is dict:
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    return value


def _encoded(arguments: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Arguments as JSON values, or which of them is none."""
    encode, encoded = _Encode(), {}
    for name, value in arguments.items():
        try:
            encoded[name] = encode(value)
        except TypeError as error:
            return None, f"`{name}` holds {error}"
    return encoded, ""


class _Encode:
    """Values as JSON values; what two of them share would come back as two, and is refused."""

    def __init__(self) -> None:
        self.tensors: set[int] = set()

    def __call__(self, value: Any) -> Any:
        if type(value) in _PLAIN:
            return value
        if type(value) is tuple:
            return {"tuple": [*map(self, value)]}
        if type(value) is list:
            return [*map(self, value)]
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {"dict": {key: self(entry) for key, entry in value.items()}}
        if type(value) is dict:
            return {"pairs": [[self(key), self(entry)] for key, entry in value.items()]}
        if isinstance(value, nn.Module):
            return self._module(value)
        raise TypeError(f"a {type(value).__name__}")

    def _module(self, value: nn.Module) -> dict[str, Any]:
        if why := obstacle(value):
            raise TypeError(f"a {type(value).__name__} that {why}")
        own = {id(part) for part in (*value.modules(), *value.parameters(), *value.buffers())}
        if own & self.tensors:
            raise TypeError(f"a {type(value).__name__} that shares parts with another argument")
        self.tensors |= own
        return {"recipe": {"name": value.recipe.name, "arguments": value.recipe.arguments}}


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
