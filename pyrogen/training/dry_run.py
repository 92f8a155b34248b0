"""The dry run: before training, every objective is called once on its first minibatch, with Pyro's validation on.

Lazy modules come to be, mistakes of shape and support show, and what a Pyro program makes of a minibatch is found out.
No noise is used up and no buffer moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyrogen.core.batches import Batch, Batches, LoaderBatches, rows, single_row
from pyrogen.numerics.randomness import held
from pyrogen.programs.reading import Reading

from .buffers import MovingBuffers, local_buffers, unchanged
from .feed import Source
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
        readings: What the Pyro programs of each source make of its minibatches.
    """

    buffers: MovingBuffers
    statements: Statements
    readings: list[Reading]


def dry_run(
    sources: Sequence[Source],
    everything: nn.Module,
    processes: Processes,
    *,
    validated: bool = False,
    watch: bool = False,
) -> DryRun:
    """Calls every objective on its first minibatch.

    Args:
        sources: The turns, by their data.
        everything: All that is trained.
        processes: Where it runs; all have the same tensors afterwards.
        validated: Whether an objective is also evaluated on held-out data.
        watch: Whether to note the networks that can be compiled.

    Raises:
        ValueError: a parameter belongs to no module, an objective fails for what the data are, or minibatches would
            change the posterior of a Pyro program.
    """
    everything.train()
    found = DryRun(MovingBuffers(everything), Statements(), [])
    with unchanged(local_buffers(everything)), pyro_scope(validation=True), held():
        for source in sources:
            first = source.feed.first()
            counting = found.statements.watching(everything) if watch else found.statements
            with counting, naming_data(source.feed, everything):
                found.readings.append(_reading(source, first, everything, processes))
    found.statements.refuse_parameters_outside(everything)
    for source, reading in zip(sources, found.readings, strict=True):
        check_minibatches(reading, source.feed.data, validated=validated)
    processes.equalize(everything)
    found.buffers.find()
    for source in sources:
        _try_one_row(source, everything, found.buffers, processes)
    return found


def _reading(source: Source, first: Batch, everything: nn.Module, processes: Processes) -> Reading:
    """Runs the objectives on a minibatch and reads the Pyro programs in them."""

    def play(batch: Batch) -> None:
        _losses(source.turns, batch, processes)

    return read_programs(play, first, rows(first), everything, source.feed.data)


def _losses(turns: Sequence[Turn], batch: Batch, processes: Processes) -> Tensor:
    """The losses of turns on a minibatch, outside training."""
    found = [per_datum(turn.objective, processes.evaluated(turn.objective), batch) for turn in turns]
    return torch.stack([loss.detach() for loss in found])


def _try_one_row(source: Source, everything: nn.Module, buffers: MovingBuffers, processes: Processes) -> None:
    """Runs the objectives of a source on a single row, where the last minibatch of an epoch has no more.

    Raises:
        ValueError: an objective raises, or gives no finite number of a row that is fine among others.
    """
    data, first = source.feed.data, source.feed.first()
    count = rows(first)
    if count == 1 or not _ends_in_one_row(data, source.taken):
        return
    buffers.keep()
    problem = None
    with unchanged(local_buffers(everything)), pyro_scope(validation=True), held():
        try:
            found = _losses(source.turns, single_row(first, 0, count), processes)
            if not found.isfinite().all() and _losses(source.turns, first, processes).isfinite().all():
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
