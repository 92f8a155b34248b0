"""Descriptions of the arguments of recipes, written once: :func:`pyrogen.core.recipe.recipe` completes docstrings.

A name means one thing in the library (:data:`pyrogen.arguments.MEANING` holds the checks). A recipe describes only what
is its own.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping

ARGUMENTS: dict[str, str] = {
    "event_shape": "Shape of one event.",
    "context_shape": "``None``, the shape of one context tensor, or a dict of shapes.",
    "classes": "If given, contexts are integer labels, so many: a number for a single label (``context_shape`` is then"
    " ``()``), a dict for some entries of several.",
    "embedding": "Any module of yours from contexts ``(N, *context_shape)``, or a dict of them, to features"
    " ``(N, ...)``, which stand in their place. Numbers reach it standardized, labels as integers. It is trained"
    " with the rest, and itself built by a recipe if the model is to be saved.",
    "symbols": "How many values an element can take, counted from zero.",
    "hidden": "Sizes of the hidden layers.",
    "layers": "How many layers.",
    "width": "Size of the vectors.",
    "blocks": "How many residual blocks there are at each size.",
    "group": "Channels of a group of the convolutions; it divides all ``channels``.",
    "dropout": "Share of the hidden units dropped in training.",
    "latent_shape": "Shape of one latent.",
    "draws": "How many draws of the posterior ``log_prob`` averages over.",
}
"""The texts of arguments that recipes of several packages have."""

_WIDTH = 116
_SECTION = re.compile(r"(Args|Shape|Returns|Raises|References|Example|Examples|Note):")
_ARGUMENT = re.compile(r"    \*{0,2}(\w+): ")


def completed(documentation: str, parameters: Iterable[str], texts: Mapping[str, str]) -> str:
    r"""A docstring whose section ``Args`` describes all parameters, in their order.

    Args:
        documentation: The docstring, which may describe some of them, or none.
        parameters: Their names.
        texts: Descriptions of the others, which come before those of :data:`ARGUMENTS`.

    Raises:
        ValueError: a parameter is described nowhere.

    Example:
        >>> print(completed("Builds.\n\nRaises:\n    ValueError: never.", ["layers"], {}))
        Builds.
        <BLANKLINE>
        Args:
            layers: How many layers.
        <BLANKLINE>
        Raises:
            ValueError: never.
    """
    lines = inspect.cleandoc(documentation).splitlines()
    places = [place for place, line in enumerate(lines) if _SECTION.fullmatch(line)] + [len(lines)]
    start = next((place for place in places[:-1] if lines[place] == "Args:"), places[0])
    end = next(place for place in places if place > start) if lines[start : start + 1] == ["Args:"] else start
    own = _described(lines[start + 1 : end])
    entries = []
    for name in parameters:
        if name not in own and name not in texts and name not in ARGUMENTS:
            raise ValueError(f"the argument `{name}` of a recipe is described neither in its docstring nor in `texts`")
        text = f"{name}: {texts.get(name, ARGUMENTS.get(name))}"
        entries += own.get(name) or textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="        ")
    before, after = lines[:start], lines[end:]
    return "\n".join([*before, *([""] if before and before[-1] else []), "Args:", *entries, "", *after]).rstrip()


def _described(lines: list[str]) -> dict[str, list[str]]:
    """The lines about each argument."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in filter(None, lines):
        name = match[1] if (match := _ARGUMENT.match(line)) else name
        found.setdefault(name, []).append(line)
    return found
