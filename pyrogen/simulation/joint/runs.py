"""Runs of a program with its observed sites free: one simulation, or many under one more plate outside all others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrogen.core.modes import evaluating
from pyrogen.programs.layouts import DrawsTogether
from pyrogen.programs.run import Given, Program, Record, Until, isolated
from pyrogen.programs.site import Site, is_site, is_statement

from .variable import Variable

Values = dict[str, Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Runs:
    """A program, and what is known of its sites.

    Attributes:
        program: The program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        variables: Its sites, and the computed statements that are observed, in its order.
        width: The largest number of batch dimensions of a site.
    """

    program: Program
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    variables: Mapping[str, Variable]
    width: int

    def one(self, given: Mapping[str, Tensor], wanted: Collection[str]) -> Values:
        """The values of the wanted sites in one simulation.

        Args:
            given: Values of some sites.
            wanted: The names of the wanted sites; the program is left after the last of them.

        Raises:
            FailedRun: the program raises an exception.
            ValueError: it has other sites than in other runs, or sites of another shape.
        """
        return {name: site.value for name, site in self.sites_of_one(given, wanted).items()}

    def together(self, count: int, given: Mapping[str, Tensor], wanted: Collection[str]) -> Values:
        """The same of so many simulations, rows first.

        Raises:
            FailedRun, ValueError: as for one.
            LayoutMismatch: a value is not one of so many rows.
        """
        sites = self.sites_together(count, given, wanted)
        return {name: self.variables[name].rows(site.value, count) for name, site in sites.items()}

    def sites_of_one(self, given: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Site]:
        """The wanted sites of one simulation."""
        sites = self._wanted(self.program, given, wanted)
        for name, site in sites.items():
            if site.value.shape != self.variables[name].shape:
                raise ValueError(
                    f"`program` must give its sites the same shapes in every run, got site {name!r} of shape "
                    f"{tuple(site.value.shape)} and {self.variables[name].shape} before; where the size of a plate "
                    "varies, give it the largest one, and `sizes` to `Joint`"
                )
        return sites

    def sites_together(self, count: int, given: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Site]:
        """The wanted sites of so many simulations, whose plate is the leftmost batch dimension."""
        spread = {name: self.variables[name].spread(values, self.width) for name, values in given.items()}
        return self._wanted(DrawsTogether(count, self.width).laid_out(self.program), spread, wanted)

    def rows_that_ran(self, failed: FailedRun, count: int) -> Values:
        """The values of the sites that had run for so many simulations when one of them failed."""
        return {name: self.variables[name].rows(failed.values[name], count) for name in self.variables
                if name in failed.values}  # fmt: skip

    def _wanted(self, program: Program, given: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Site]:
        found = recorded(program, self.args, self.kwargs, given, wanted)
        missing = [name for name in self.variables if name in wanted and name not in found]
        new = [name for name, site in found.items() if not site.computed and name not in self.variables]
        if missing or new:
            raise ValueError(
                f"`program` must have the same sites in every run, {list(self.variables)}, got "
                + (f"none of the name {missing[0]!r} in another" if missing else f"{new[0]!r} in another")
            )
        return {name: found[name] for name in self.variables if name in wanted}


def recorded(
    program: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    given: Mapping[str, Tensor],
    wanted: Collection[str] | None = None,
) -> dict[str, Site]:
    """The statements of a run with observed sites free; left after the last of the wanted, if these are named.

    Raises:
        FailedRun: the program raises an exception.
    """
    with isolated(), Record() as record, Given(given, free=True), _Place() as place, Until(wanted or ()):
        try:
            program(*args, **kwargs)
        except Exception as error:
            values = {site.name: site.value for site in record.sites}
            raise FailedRun(place.text, error, values) from error
    return {statement.name: statement for statement in record.statements}


def succeeding(run: Callable[[], Result], tries: int = 20) -> Result:
    """What a run gives that succeeds in one of so many tries: a simulator may fail now and then.

    Raises:
        FailedRun: it fails in all.
    """
    for _ in range(tries - 1):
        try:
            return run()
        except FailedRun:
            continue
    return run()


class FailedRun(Exception):
    """A program raised an exception.

    Args:
        place: Where: at or after which site.
        error: The exception.
        values: The values of the sites that had run.
    """

    def __init__(self, place: str, error: Exception, values: Values) -> None:
        super().__init__(f"{place}: {type(error).__name__}: {error}")
        self.place, self.error, self.values = place, error, values


@contextmanager
def undisturbed(program: Program) -> Iterator[None]:
    """A scope without gradients, with modules in evaluation mode, after which Pyro's parameters are as before."""
    store = pyro.get_param_store()
    before = set(store.keys())
    try:
        with torch.no_grad(), evaluating(program) if isinstance(program, nn.Module) else nullcontext():
            yield
    finally:
        for name in set(store.keys()) - before:
            del store[name]


class _Place(Messenger):
    """Knows where a program is."""

    def __init__(self) -> None:
        super().__init__()
        self.text = "before the first site"

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_site(msg):
            self.text = f"at site {msg['name']!r}"

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if is_statement(msg):
            self.text = f"after site {msg['name']!r}"
