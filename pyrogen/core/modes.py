"""Evaluation mode for as long as a scope lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A scope in which a module is in evaluation mode; every part is put back into the mode it was in.

    Parts that lazy modules make meanwhile get the mode of the whole.
    """
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        _set(part, False)
    try:
        yield
    finally:
        for part in module.modules():
            _set(part, modes.get(part, modes[module]))


def _set(part: nn.Module, training: bool) -> None:
    """Sets the mode of a part past ``nn.Module.__setattr__``, which takes four fifths of the time of ``eval()``."""
    state = vars(part)
    if "training" in state:
        state["training"] = training
    else:  # scripted modules keep it outside of Python
        part.training = training
