"""Compiling what can be compiled: an objective whole, or the networks inside one that runs Pyro."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .statements import Statements
from .turn import Turn


@contextmanager
def compiled(
    turns: list[Turn], module: nn.Module, statements: Statements
) -> Iterator[dict[int, Callable[..., Tensor]]]:
    """A scope in which objectives run compiled.

    torch's compiler cannot see through Pyro's handlers: an ELBO breaks into a dozen graphs and gains nothing. Where
    Pyro runs, the networks are compiled in place, and only for the scope.

    Args:
        turns: Whose objectives are compiled.
        module: All that is trained.
        statements: What ran when the objectives were first called.

    Yields:
        What to call in place of the objective, by the number of the turn.
    """
    if not statements.count:
        yield {number: torch.compile(turn.objective) for number, turn in enumerate(turns)}
        return
    networks = list(_largest(module, statements.networks))
    for network in networks:
        network.compile()
    try:
        yield {}
    finally:
        for network in networks:
            network._compiled_call_impl = None


def _largest(module: nn.Module, networks: set[nn.Module]) -> Iterator[nn.Module]:
    """The networks in a module that are not part of a larger one."""
    if module in networks:
        yield module
    else:
        for child in module.children():
            yield from _largest(child, networks)
