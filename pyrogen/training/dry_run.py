"""The dry run: before training, every objective is called once on its first minibatch, with Pyro's validation on.

Lazy modules are initialised, errors of shape and support are raised, and the data plate of a Pyro program is found. The
random generators and buffers are left as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyrogen.core.batch import Batch, rows, single_row
from pyrogen.core.batches import Batches, LoaderBatches
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
    validated: bool = False,
    watch: bool = False,
) -> DryRun:
    """Calls every objective on its first minibatch.

    Args:
        feeds: The data, each with its turns.
        everything: All that is trained.
        processes: Where it runs; all have the same tensors afterwards.
        validated: Whether an objective is also evaluated on held-out data.
        watch: Whether to note the networks that can be compiled.

    Raises:
        ValueError: a parameter belongs to no module, an objective fails for what the data are, or minibatches would
            change the posterior of a Pyro program.
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
        check_minibatches(reading, feed.data, validated=validated)
    processes.equalize(everything)
    buffers = MovingBuffers(everything, before)
    for feed in feeds:
        _try_one_row(feed, everything, buffers, processes)
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


def _try_one_row(feed: Feed, everything: nn.Module, buffers: MovingBuffers, processes: Processes) -> None:
    """Runs the objectives of a feed on a single row, where the last minibatch of an epoch has no more.

    Raises:
        ValueError: an objective raises, or gives no finite number of a row that is fine among others.
    """
    data, first = feed.data, feed.first()
    count = rows(first)
    if count == 1 or not _ends_in_one_row(data, feed.taken):
        return
    buffers.keep()
    problem = None
    with unchanged(local_buffers(everything)), pyro_scope(validation=True), held():
        try:
            found = _losses(feed.turns, single_row(first, 0, count), processes)
            if not found.isfinite().all() and _losses(feed.turns, first, processes).isfinite().all():
                problem = f"its loss is {found.tolist()}"
        except Exception as error:
            problem = str(error)
    buffers.restore()
    problem = next(filter(None, processes.gather(problem)), None)
    if problem is not None:
        count, size = data.rows, data.batch_size
        other = next((other for other in range(size - 1, 1, -1) if count % other != 1), count)
        raise ValueError(
            f"`batch_size` must not leave a single row for the last minibatch, as {size} does of {count} rows, for "
            f"`target` needs more ({problem}); use batch_size={other}, drop a row, or give a loader with "
            "`drop_last=True`"
        )


def _ends_in_one_row(data: Batches | LoaderBatches, taken: int | None) -> bool:
    """Whether the last minibatch of an epoch, which the run reaches, has one row for some process."""
    if not isinstance(data, Batches) or (taken is not None and taken < len(data)):
        return False
    return 0 < data.rows % data.batch_size < 2 * data.world
