"""What a module is, in a few facts: for notebooks and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.parameter import is_lazy

from .density import Density
from .recipe import Recipe
from .shapes import ContextShape

if TYPE_CHECKING:
    from .module import BijectionModule, DistributionModule

_MEANINGS: dict[Density, str] = {
    "exact": "exact: the log-density",
    "estimate": "an estimate: the log-density up to a tolerance or unbiased noise",
    "lower bound": "a lower bound: at most the log-density, in expectation",
    "unnormalized": "unnormalized: the log-density plus an unknown constant",
    None: "none: the module only draws",
}


def facts_of(module: DistributionModule | BijectionModule) -> dict[str, str]:
    """What a module is: where it comes from, its shapes and its parameters."""
    return {
        "family": _family(module),
        "events": f"of shape {module.event_shape}",
        "context": _context(module.context_shape),
        "parameters": _parameters(module),
    }


def meaning_of(density: Density) -> str:
    """What a ``log_prob`` of this density means, in words."""
    return _MEANINGS[density]


def _family(module: nn.Module) -> str:
    """The class of a module, and the recipe that built it."""
    kind, made = type(module), vars(module).get("recipe")
    name = _short(f"{kind.__module__}.{kind.__name__}")
    return f"{name}, built by {_short(made.name)}" if isinstance(made, Recipe) else name


def _short(name: str) -> str:
    """A name of pyrogen's as users write it: without the files below its package."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}.{rest[-1]}" if first == "pyrogen" and len(rest) > 2 else name


def _context(shape: ContextShape) -> str:
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} of shape {entry}" for name, entry in shape.items())
    return "none" if shape is None else "one number or label" if shape == () else f"of shape {shape}"


def _parameters(module: nn.Module) -> str:
    """How many numbers are learned, how many are frozen, and whether some are made only at the first call."""
    every = list(module.parameters())
    known = [parameter for parameter in every if not is_lazy(parameter)]
    frozen = sum(parameter.numel() for parameter in known if not parameter.requires_grad)
    learned = sum(parameter.numel() for parameter in known) - frozen
    later = ", more at the first call" if len(known) < len(every) else ""
    return f"{learned:,}{f' learned, {frozen:,} frozen' if frozen else ''}{later}"
