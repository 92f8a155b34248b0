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
    module.eval()
    try:
        yield
    finally:
        for part in module.modules():
            part.training = modes.get(part, modes[module])
