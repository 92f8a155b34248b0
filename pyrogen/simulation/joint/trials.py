"""Values of all sites at many draws of the prior, where properties of a program are tested.

What a program does may hang on a gate that is seldom open: a change point in few series, a branch that few values take.
So a property is tried at many draws. Observed sites have the values of a few simulations there, and nothing is
simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import torch

from pyrogen.numerics.randomness import seeded
from pyrogen.programs.site import Site

from .drawing import Drawing
from .runs import FailedRun, Runs, Values

_TOGETHER, _ALONE = 499, 32
"""How many draws: at once, and one by one."""


def many_values(runs: Runs, names: Collection[str], seen: Values, *, together: bool, seed: int) -> Values:
    """Values of sites at many draws of the prior, rows first.

    Args:
        runs: Runs of the program.
        names: The names of its sites that are not computed.
        seen: What was observed in a few simulations, rows first; with another seed their turn is another.
        together: Whether many simulations run at once.
        seed: Of the draws.

    Raises:
        FailedSimulations: the program raises an exception at all of them.
    """
    count = _TOGETHER if together else _ALONE
    turns = torch.arange(seed, seed + count)
    given = {name: rows[turns % len(rows)] for name, rows in seen.items()}
    return Drawing(runs, names, together, count, given, seed, count)(workers=0, failures=1.0, progress=False).values


def sites_at(runs: Runs, *given: Values, together: bool) -> Iterator[tuple[dict[str, Site], ...]]:
    """The sites of a program at each of several values, equally many rows: of all rows at once, or row by row.

    Noise that the program draws outside of its sites is the same for all values. Rows in which it raises an exception
    are left out.

    Raises:
        FailedRun: it does in all.
    """
    count = len(next(iter(given[0].values())))
    if together:
        try:
            yield tuple(_on_same_noise(lambda values: runs.sites_together(count, values, runs.variables), given))
            return
        except FailedRun:
            pass
    failed: list[FailedRun] = []
    for row in range(count := min(count, _ALONE)):
        try:
            alone = [{name: each[row] for name, each in values.items()} for values in given]
            yield tuple(_on_same_noise(lambda values: runs.sites_of_one(values, runs.variables), alone))
        except FailedRun as error:
            failed.append(error)
    if len(failed) == count:
        raise failed[0]


def _on_same_noise(run: Callable[[Values], dict[str, Site]], given: Iterable[Values]) -> Iterator[dict[str, Site]]:
    for values in given:
        with seeded(0):
            sites = run(values)
        yield sites
