"""Running a Pyro program with given values, and recording what ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrogen.numerics.exclusive import exclusive

from .site import Site, is_site, is_statement, site_of

Program = Callable[..., Any]


@dataclass(frozen=True)
class ProgramRun:
    """What a run of a program left.

    Attributes:
        statements: Its sites and computed statements by name, in the order of the program.
        indices: The rows that each plate took, by the name of the plate.
        result: What the program returned.
    """

    statements: dict[str, Site]
    indices: dict[str, Tensor]
    result: Any

    @property
    def sites(self) -> dict[str, Site]:
        """Its sites by name, in the order of the program."""
        return {name: site for name, site in self.statements.items() if not site.computed}


def run(
    program: Program,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    given: Mapping[str, Tensor] | None = None,
    free: bool = False,
    validate: bool = True,
) -> ProgramRun:
    """Runs a program once, apart from the handlers and plates around it.

    Args:
        program: A Pyro model or guide.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        given: Values of latent sites, by name. Names that the program lacks are ignored, as Pyro does. The name of a
            plate gives the rows that a subsampled plate takes.
        free: Whether observed sites are drawn as if they were not observed.
        validate: Whether arguments of distributions are checked where Pyro is told to; never if ``False``.
    """
    validation = nullcontext() if validate else pyro.validation_enabled(False)
    with exclusive(), validation, isolated(), Record() as record, Given(given or {}, free=free):
        result = program(*args, **(kwargs or {}))
    return ProgramRun({site.name: site for site in record.statements}, record.indices, result)


class Record(Messenger):
    """Records the sites of whatever programs run in its scope.

    Attributes:
        statements: Sites and computed statements in the order they ran; a guide's site and the model's of the same name
            are two entries.
        indices: The rows that each plate took, by the name of the plate.
        parameters: The names of the parameters that ``pyro.param`` gave inside a plate, with an entry for each of its
            rows, by the name of the plate.
    """

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[Site] = []
        self.indices: dict[str, Tensor] = {}
        self.parameters: dict[str, list[str]] = {}

    @property
    def sites(self) -> list[Site]:
        """The sites in the order they ran."""
        return [site for site in self.statements if not site.computed]

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if is_statement(msg):
            self.statements.append(site_of(msg))
        elif site_is_subsample(msg):
            self.indices[msg["name"]] = msg["value"]

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        event_dim, shape = msg["kwargs"].get("event_dim"), msg["value"].shape
        for frame in msg["cond_indep_stack"] if event_dim is not None else ():
            place = event_dim - frame.dim if frame.vectorized else len(shape) + 1
            if place <= len(shape) and shape[-place] in (frame.size, frame.full_size):
                self.parameters.setdefault(frame.name, []).append(msg["name"])


class Given(Messenger):
    """Gives latent sites their values, and plates their rows, by name.

    Args:
        values: The values. Names that a program lacks are ignored, and rows of a plate that is given its own.
        free: Whether observed sites become latent first. ``poutine.uncondition`` would free computed statements as
            well, and in a plate their drawn value has another shape.
    """

    def __init__(self, values: Mapping[str, Tensor], *, free: bool = False) -> None:
        super().__init__()
        self.values = values
        self.free = free

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if self.free and msg["is_observed"] and is_site(msg) and site_of(msg).kind == "observed":
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
        named = site_is_subsample(msg) and msg["value"] is not None  # the rows that the program itself names
        if msg["name"] in self.values and not msg["is_observed"] and not named:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class Until(Messenger):
    """A scope in which a program is left as soon as all of some statements have run: ``with Until(names): program()``.

    Args:
        names: Theirs; none of them leaves nothing.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.waiting = set(names)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.waiting:
            self.waiting.remove(msg["name"])
            if not self.waiting:
                raise _Left(self)

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> bool | None:
        super().__exit__(kind, error, traceback)
        return isinstance(error, _Left) and error.scope is self


class _Left(BaseException):
    """Leaves a program; no ``except Exception`` of its own holds it back."""

    def __init__(self, scope: Until) -> None:
        super().__init__()
        self.scope = scope


@contextmanager
def isolated() -> Iterator[None]:
    """A scope that handlers around it do not see, and whose plates may have the names and dimensions of theirs.

    One thread is in such a scope at a time.
    """
    with exclusive():
        outer, _DIM_ALLOCATOR._stack = _DIM_ALLOCATOR._stack, []
        try:
            with poutine.block():
                yield
        finally:
            _DIM_ALLOCATOR._stack = outer
