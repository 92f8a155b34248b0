"""The dry run: before training, every objective is called once on its first minibatch, with Pyro's validation on.

Lazy modules are initialised, errors of shape and support are raised, and the data plate of a Pyro program is found. The
random generators and buffers are left as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyrogen.core.batch import Batch, rows, single_row, to_device
from pyrogen.core.batches import Batches, LoaderBatches
from pyrogen.core.modes import evaluating
from pyrogen.numerics.randomness import held
from pyrogen.programs.reading import Reading

from .buffers import MovingBuffers, buffers_of, local_buffers, unchanged
from .feed import Feed
from .player import per_datum
from .processes import Processes
from .scopes import naming_data, pyro_scope
from .statements import Statements
from .subsampling import check_minibatches, read_programs
from .turn import Turn


@dataclass
class DryRun:
    """What the dry run found.

    Attributes:
        buffers: The buffers that the objectives move.
        statements: Pyro's statements that they run.
        readings: What the Pyro programs of each feed make of its minibatches.
    """

    buffers: MovingBuffers
    statements: Statements
    readings: list[Reading]


def dry_run(
    feeds: Sequence[Feed],
    everything: nn.Module,
    processes: Processes,
    *,
    held_out: Batches | LoaderBatches | None = None,
    watch: bool = False,
) -> DryRun:
    """Calls every objective on its first minibatch.

    Args:
        feeds: The data, each with its turns.
        everything: All that is trained.
        processes: Where it runs; all have the same tensors afterwards.
        held_out: What the objective of the first turn is also evaluated on.
        watch: Whether to note the networks that can be compiled.

    Raises:
        ValueError: a parameter belongs to no module, an objective fails for what the data are or for a single row at
            their end, or minibatches would change the posterior of a Pyro program.
    """
    everything.train()
    before, statements, readings = buffers_of(everything), Statements(), []
    with unchanged(local_buffers(everything)), pyro_scope(validation=True), held():
        for feed in feeds:
            first = feed.first()
            counting = statements.watching(everything) if watch else statements
            with counting, naming_data(feed, everything):
                readings.append(_reading(feed, first, everything, processes))
    statements.refuse_parameters_outside(everything)
    for feed, reading in zip(feeds, readings, strict=True):
        check_minibatches(reading, feed.data, validated=held_out is not None)
    processes.equalize(everything)
    buffers = MovingBuffers(everything, before)
    for feed in feeds:
        if rows(feed.first()) > 1 and _ends_in_one_row(feed.data, feed.taken):
            problem = _of_one_row(feed.first(), feed.turns, everything, buffers, processes)
            _refuse_one_row(problem, feed.data, "data")
    if held_out is not None and _ends_in_one_row(held_out, None):
        first = to_device(next(iter(held_out.epoch(0))).entries, feeds[0].device)
        first = first if rows(first) > 1 else feeds[0].first()  # which tells whether several rows would do
        with evaluating(everything):
            problem = _of_one_row(first, feeds[0].turns[:1], everything, buffers, processes)
        _refuse_one_row(problem, held_out, "validation")
    return DryRun(buffers, statements, readings)


def _reading(feed: Feed, first: Batch, everything: nn.Module, processes: Processes) -> Reading:
    """Runs the objectives on a minibatch and reads the Pyro programs in them."""

    def play(batch: Batch) -> None:
        _losses(feed.turns, batch, processes)

    return read_programs(play, first, rows(first), everything, feed.data)


def _losses(turns: Sequence[Turn], batch: Batch, processes: Processes) -> Tensor:
    """The losses of turns on a minibatch, outside training."""
    found = [per_datum(turn.objective, processes.evaluated(turn.objective), batch) for turn in turns]
    return torch.stack([loss.detach() for loss in found])


def _of_one_row(
    first: Batch, turns: Sequence[Turn], everything: nn.Module, buffers: MovingBuffers, processes: Processes
) -> str | None:
    """What is wrong when the objectives run on one row of a minibatch that is fine as a whole; ``None`` if nothing."""
    buffers.keep()
    problem = None
    with unchanged(local_buffers(everything)), pyro_scope(validation=True), held():
        try:
            found = _losses(turns, single_row(first, 0, rows(first)), processes)
            if not found.isfinite().all() and _losses(turns, first, processes).isfinite().all():
                problem = f"its loss is {found.tolist()}"
        except Exception as error:
            problem = str(error)
    buffers.restore()
    return next(filter(None, processes.gather(problem)), None)


def _refuse_one_row(problem: str | None, data: Batches, name: str) -> None:
    """Refuses data of which a minibatch has a single row, where that is a problem.

    Raises:
        ValueError: it is.
    """
    if problem is not None:
        count, size = data.rows, data.batch_size
        ways = "use a larger one" if count > 1 else "hold out more of them"
        raise ValueError(
            f"`batch_size` must not leave a single row for a minibatch, as {size} does of {count} rows of "
            f"`{name}`, for `target` needs more ({problem}); {ways}, or give a loader with `drop_last=True`"
        )


def _ends_in_one_row(data: Batches | LoaderBatches, taken: int | None) -> bool:
    """Whether the last minibatch of an epoch, which the run reaches, has one row for some process."""
    if not isinstance(data, Batches) or (taken is not None and taken < len(data)):
        return False
    return min(map(min, data.sizes())) < min(2 * data.world, data.batch_size)
