"""Drawing many simulations: in blocks, in worker processes if asked, without those that fail.

Each block, and each row of simulations that run one by one, has a seed of its own, so that the draws do not depend on
who makes them. Where some of many simulations at once raise an exception, the block is halved until these are alone;
what had been drawn before the exception stays, so that the failing ones are lost and no others in their place.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyrogen.numerics.randomness import held, seed_all, seed_quickly
from pyrogen.programs.layouts import LayoutMismatch
from pyrogen.training.progress import watched

from .runs import FailedRun, Runs, Values, undisturbed


@dataclass
class Block:
    """Simulations that did not fail, and what is known of those that did.

    Attributes:
        values: By site, rows first; empty if all failed.
        failed: How many failed.
        first: What happened to the first of these: where, and what.
        error: The exception, if it was one of this process.
    """

    values: Values = field(default_factory=dict)
    failed: int = 0
    first: str = ""
    error: Exception | None = None


class FailedSimulations(RuntimeError):
    """More simulations failed than are allowed to."""


@dataclass(frozen=True)
class Drawing:
    """Many simulations to be drawn.

    Attributes:
        runs: Runs of the program.
        wanted: The names of the sites whose values are wanted.
        together: Whether simulations run at once.
        count: How many.
        given: Values of some sites, rows first.
        seed: Of the noise.
        batch_size: Simulations in a block.
    """

    runs: Runs
    wanted: Collection[str]
    together: bool
    count: int
    given: Mapping[str, Tensor]
    seed: int
    batch_size: int

    def __call__(self, *, workers: int, failures: float, progress: bool) -> Block:
        """Draws them.

        Args:
            workers: Processes that share the work; none but this one if zero.
            failures: The largest share that may fail.
            progress: Whether a bar is shown, in terminals and notebooks.

        Raises:
            FailedSimulations: more failed.
        """
        parts: list[Values] = []
        total, done = Block(), 0
        with held(), watched(self.count, unit="simulation", shown=progress, delay=1.0) as bar:
            for block in self._blocks(workers):
                parts += [block.values] if block.values else []
                size = min(self.batch_size, self.count - done)
                done += size
                if block.failed and not total.failed:
                    total = replace(total, first=block.first, error=block.error)
                total.failed += block.failed
                if total.failed > failures * self.count or total.failed == self.count:
                    raise too_many(total, total.failed, self.count, failures) from total.error
                bar.update(size)
        return replace(total, values=_joined(parts))

    def block(self, start: int) -> Block:
        """The block that begins at this row."""
        stop = min(start + self.batch_size, self.count)
        given = {name: values[start:stop] for name, values in self.given.items()}
        with undisturbed(self.runs.program):
            seed_all(self._seed_of(start))
            if self.together:
                return self._at_once(stop - start, given)
            parts = []
            for row in range(start, stop):
                seed_quickly(self._seed_of(row))
                parts.append(self._alone({name: values[row - start] for name, values in given.items()}))
            return _merged(parts)

    def _blocks(self, workers: int) -> Iterable[Block]:
        starts = list(range(0, self.count, self.batch_size))
        if not workers:
            return map(self.block, starts)
        loader = DataLoader(
            _Blocks(self, starts),
            batch_size=None,
            num_workers=min(workers, len(starts)),
            collate_fn=_as_it_is,
            generator=torch.Generator(),
        )
        return map(_owned, loader)

    def _at_once(self, count: int, given: Values) -> Block:
        if count == 1:
            return self._alone({name: values[0] for name, values in given.items()})
        try:
            return _finite(self.runs.together(count, given, self.wanted))
        except LayoutMismatch:
            return self._in_halves(count, given)
        except FailedRun as failed:
            try:
                drawn = self.runs.rows_that_ran(failed, count)
            except LayoutMismatch:
                drawn = {}
            return self._in_halves(count, {**drawn, **given})

    def _in_halves(self, count: int, given: Values) -> Block:
        middle = count // 2
        halves = [slice(0, middle), slice(middle, count)]
        return _merged(
            self._at_once(half.stop - half.start, {name: values[half] for name, values in given.items()})
            for half in halves
        )

    def _alone(self, given: Values) -> Block:
        try:
            values = self.runs.one(given, self.wanted)
        except FailedRun as failed:
            return Block(failed=1, first=str(failed), error=failed.error)
        return _finite({name: value[None] for name, value in values.items()})

    def _seed_of(self, row: int) -> int:
        return (self._scrambled + row) % 2**32

    @cached_property
    def _scrambled(self) -> int:
        """The seed so that no simulation has the noise that ``torch.manual_seed`` of the same small number gives."""
        return int(np.random.SeedSequence(self.seed % 2**63).generate_state(1)[0])


def too_many(block: Block, failed: int, count: int, failures: float) -> FailedSimulations:
    """The error of so many failed simulations, of so many in all."""
    return FailedSimulations(
        f"{failed} of {count} simulations failed already, and `failures` allows the share {failures}; the first "
        f"{block.first}"
    )


def warn_of_failures(block: Block, count: int, *, stacklevel: int) -> None:
    """The warning of failed simulations that are left out, of so many in all."""
    warnings.warn(
        f"{block.failed} of {count} simulations failed and are left out; the first {block.first}. The prior is now "
        "that of the simulations that succeed",
        UserWarning,
        stacklevel=stacklevel,
    )


def _finite(values: Values) -> Block:
    """A block without the rows that hold NaN or infinity."""
    first = ""
    good = None
    for name, value in values.items():
        if value.is_floating_point():
            finite = value.isfinite().flatten(1).all(1) if value.dim() > 1 else value.isfinite()
            good = finite if good is None else good & finite
            if not first and not bool(finite.all()):
                kind = "NaN" if bool(value[~finite][0].isnan().any()) else "infinity"
                first = f"at site {name!r}: it is {kind}"
    if not first:
        return Block(values)
    return Block({name: value[good] for name, value in values.items()}, int((~good).sum()), first)


def _merged(parts: Iterable[Block]) -> Block:
    parts = list(parts)
    failed = [part for part in parts if part.failed]
    first = failed[0] if failed else Block()
    values = _joined([part.values for part in parts if part.values])
    return Block(values, sum(part.failed for part in failed), first.first, first.error)


def _joined(parts: list[Values]) -> Values:
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


class _Blocks(Dataset):
    """Blocks by number, for worker processes."""

    def __init__(self, drawing: Drawing, starts: list[int]) -> None:
        self.drawing, self.starts = drawing, starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> Block:
        return replace(self.drawing.block(self.starts[number]), error=None)  # an exception may not be picklable


def _as_it_is(block: Block) -> Block:
    return block


def _owned(block: Block) -> Block:
    """A block in memory of its own: each tensor that another process shares holds a file open."""
    return replace(block, values={name: value.clone() for name, value in block.values.items()})
