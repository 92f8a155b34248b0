"""Runs of a program with its observed sites free: many simulations under one more plate, or one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrogen.core.modes import evaluating
from pyrogen.programs.layouts import DrawsTogether
from pyrogen.programs.run import Given, Program, Record, isolated
from pyrogen.programs.site import is_statement

from .variable import Variable

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Runs:
    """A program and what of it is wanted.

    Attributes:
        program: The program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        variables: Its sites that have values: latent, nuisance and observed ones.
        width: The largest number of batch dimensions of a site.
    """

    program: Program
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    variables: Mapping[str, Variable]
    width: int

    def one(self, given: Mapping[str, Tensor], wanted: Set[str]) -> Values:
        """The values of the wanted sites in one simulation; the program is left after the last of them.

        Args:
            given: Values of some sites.
            wanted: Names of sites.

        Raises:
            FailedRun: the program raises an exception.
            ValueError: a site has another shape than in other runs, or does not run.
        """
        found = self._record(self.program, given, wanted)
        for name in wanted:
            if found[name].shape != self.variables[name].shape:
                raise ValueError(
                    f"`program` must give its sites the same shapes in every run, got site {name!r} of shape "
                    f"{tuple(found[name].shape)}, {self.variables[name].shape} before"
                )
        return found

    def together(self, count: int, given: Mapping[str, Tensor], wanted: Set[str]) -> Values:
        """The same for many simulations at once, rows first.

        Raises:
            LayoutMismatch: a value is not one of so many rows.
        """
        spread = {name: self.variables[name].spread(values, self.width) for name, values in given.items()}
        found = self._record(DrawsTogether(count, self.width).laid_out(self.program), spread, wanted)
        return {name: self.variables[name].rows(found[name], count) for name in wanted}

    def _record(self, program: Program, given: Mapping[str, Tensor], wanted: Set[str]) -> Values:
        with isolated(), Record() as record, Given(given, free=True), _Leave(wanted) as leave:
            try:
                program(*self.args, **self.kwargs)
            except _Left:
                pass
            except Exception as error:
                values = {statement.name: statement.value for statement in record.statements}
                raise FailedRun(leave.current, values) from error
        values = {statement.name: statement.value for statement in record.statements}
        missing = [name for name in wanted if name not in values]
        if missing:
            raise ValueError(
                f"`program` must have the same sites in every run, got one without {missing}, with {list(values)}"
            )
        return {name: values[name] for name in self.variables if name in wanted}


class FailedRun(Exception):
    """A program raised an exception.

    Args:
        site: The site that was being drawn, or the last before.
        values: The values of the sites that had run.
    """

    def __init__(self, site: str, values: Values) -> None:
        super().__init__(site)
        self.site, self.values = site, values


class _Left(BaseException):
    """Leaves a program; no ``except Exception`` of its own holds it back."""


class _Leave(Messenger):
    """Leaves a program when all of these sites have run."""

    def __init__(self, wanted: Set[str]) -> None:
        super().__init__()
        self.waiting = set(wanted)
        self.current = "before the first site"

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_statement(msg):
            self.current = f"at site {msg['name']!r}"

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self.current = f"after site {msg['name']!r}"
        self.waiting.discard(msg["name"])
        if not self.waiting:
            raise _Left


@contextmanager
def undisturbed(program: Program) -> Iterator[None]:
    """A scope without gradients, in evaluation mode, after which Pyro's parameter store is as it was."""
    store = pyro.get_param_store()
    before = set(store.keys())
    mode = evaluating(program) if isinstance(program, nn.Module) else _nothing()
    try:
        with torch.no_grad(), mode:
            yield
    finally:
        for name in set(store.keys()) - before:
            del store[name]


@contextmanager
def _nothing() -> Iterator[None]:
    yield
