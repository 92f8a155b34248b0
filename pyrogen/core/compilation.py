"""Compiling what can be compiled: an objective whole, or the networks inside one that runs Pyro."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .turn import Turn


@contextmanager
def compiled(turns: list[Turn], runs_pyro: bool) -> Iterator[dict[int, Callable[..., Tensor]]]:
    """A scope in which objectives run compiled.

    torch's compiler cannot see through Pyro's handlers: an ELBO breaks into a dozen graphs and gains nothing. Where
    Pyro runs, the networks are compiled in place, and only for the scope.

    Args:
        turns: Whose objectives are compiled.
        runs_pyro: Whether Pyro statements run in them.

    Yields:
        What to call in place of the objective, by the number of the turn.
    """
    if not runs_pyro:
        yield {number: torch.compile(turn.objective) for number, turn in enumerate(turns)}
        return
    networks = [
        network for turn in turns if isinstance(turn.objective, nn.Module) for network in _networks(turn.objective)
    ]
    for network in networks:
        network.compile()
    try:
        yield {}
    finally:
        for network in networks:
            network._compiled_call_impl = None


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts that are plain networks: torch's own or pyrogen's."""
    if type(module).__module__.startswith(("torch.nn", "pyrogen.networks")):
        yield module
    else:
        for child in module.children():
            yield from _networks(child)
