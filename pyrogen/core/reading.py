"""Reading the whole data set once, before training: statistics are learned from it, and bad rows refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import constraints, transforms

from pyrogen.networks.statistics import Moments, ReadsData, RefusedDataError, Statistic
from pyrogen.numerics.randomness import held
from pyrogen.numerics.values import WrongNumbersError, advice, require_numbers

from .batches import Batch, Batches, Data, LoaderBatches, Minibatch, TensorRows, batches, to_device
from .processes import FabricProcesses, OneProcess
from .shapes import Context, batch_shape_of, common_batch_shape, context_batch_shape

if TYPE_CHECKING:
    from .module import DistributionModule

_CHUNK = 2**22
"""Elements of tensors in memory that are read at once."""


def read(
    readers: Sequence[ReadsData],
    data: Batches | LoaderBatches,
    processes: OneProcess | FabricProcesses,
    *,
    device: torch.device,
    name: str = "data",
    limit: int | None = None,
    learn: bool = True,
) -> None:
    """Reads a data set: once for what is independent, and once more for each statistic that depends on another.

    All processes end with the same statistics.

    Args:
        readers: What reads it.
        data: The data set.
        processes: Where it runs; each reads its share.
        device: Where minibatches are put.
        name: What errors call the data set.
        limit: Largest number of minibatches to read, if there is one.
        learn: Whether statistics are learned; else bad rows are refused and nothing else.

    Raises:
        ValueError: rows hold values that a reader cannot take.
    """
    data = _in_chunks(data)
    first: Batch | None = None
    while True:
        moments: dict[Statistic, Moments] = {}
        with processes.together():
            for number, minibatch in enumerate(islice(data.epoch(0), limit)):
                entries = to_device(minibatch.entries, device)
                first = entries if first is None else first
                with _rows_of_the_data(minibatch, number, name):
                    for statistic, rows in _unlearned(readers, entries, processes):
                        seen = moments.setdefault(statistic, Moments())
                        seen.add(rows if minibatch.weight else rows[:0])
        if not learn or not moments:
            return
        _learn(moments, processes)
        if not _unlearned(readers, first, processes):
            return


def learn_statistics(module: DistributionModule, data: Data, batch_size: int) -> None:
    """What :meth:`DistributionModule.learn_statistics` does."""
    found = batches(data, batch_size)
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    modes = [(part, part.training) for part in module.modules()]
    with held(), torch.no_grad():
        try:
            module.eval()
            entries = to_device(next(iter(found.epoch(0))).entries, device)
            for statistic, _ in list(module.read_data(*entries)):
                statistic.reset()
            read([module], found, OneProcess(), device=device)
        finally:
            for part, training in modes:
                part.training = training


def require_one_context_each(module: DistributionModule, x: Tensor, context: Context) -> None:
    """Refuses contexts that would broadcast against events: each event would be scored under every context.

    Raises:
        ValueError: the contexts have another batch shape than the events, or one of the two ends in a wrong shape.
    """
    rows = batch_shape_of(x, module.event_shape, "x")
    contexts = context_batch_shape(context, module.context_shape)
    aligned = context is None or len(contexts) == len(rows)  # broadcasting begins on the right, rows are on the left
    if not aligned or common_batch_shape({"x": rows, "context": contexts}) != rows:
        raise ValueError(
            f"`context` must have the batch shape of `x`, {tuple(rows)}, so that each event has its own, "
            f"got {tuple(contexts)}"
        )


def refuse_outside_support(module: DistributionModule, x: Tensor, context: Context) -> None:
    """Refuses events that hold NaN, lie outside the support of a module's distribution, or are of another dtype.

    Raises:
        RefusedDataError: an event does.
        ValueError: events have another shape.
    """
    batch_shape_of(x, module.event_shape, "x")
    if module.density is None:
        return
    try:
        support = _support(module, context)
    except NotImplementedError:  # of a distribution that names none
        return
    try:
        require_numbers(x, support, module.parameters(), "x")
    except WrongNumbersError as error:
        raise RefusedDataError(error.demand, str(error.dtype), []) from error
    inside = support.check(x)
    if inside.all():
        return
    rows = x[~inside]
    (wrong,) = (~inside).reshape(len(x), -1).any(-1).nonzero().T
    if rows.isnan().any():
        raise RefusedDataError("`x` must hold no NaN", "NaN", wrong.tolist())
    got = f"{rows[0].item():g}" if rows[0].numel() == 1 else "an event outside of it"
    raise RefusedDataError(f"`x` must lie in the support {support}{advice(support, x)}", got, wrong.tolist())


def _support(module: DistributionModule, context: Context) -> constraints.Constraint:
    """The support given a context; found from one row of it where that makes no difference, which costs nothing."""
    if context is None:
        return module().support
    one = {key: value[:1] for key, value in context.items()} if isinstance(context, Mapping) else context[:1]
    support = module(one).support
    return module(context).support if _holds_tensors(support) else support


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, constraints.Constraint):
        return any(map(_holds_tensors, vars(value).values()))
    return isinstance(value, (Tensor, transforms.Transform)) or (
        isinstance(value, (list, tuple)) and any(map(_holds_tensors, value))
    )


def _unlearned(
    readers: Iterable[ReadsData], entries: Batch, processes: OneProcess | FabricProcesses
) -> list[tuple[Statistic, Tensor]]:
    """The statistics that are still to be learned, each once, with their rows."""
    found: dict[Statistic, Tensor] = {}
    for reader in readers:
        reads = processes.evaluated(lambda *batch, reader=reader: list(reader.read_data(*batch)))
        for statistic, rows in reads(*entries):
            if not statistic.learned:
                found.setdefault(statistic, rows)
    return list(found.items())


def _learn(moments: dict[Statistic, Moments], processes: OneProcess | FabricProcesses) -> None:
    with torch.no_grad():
        shares = processes.gather([seen.cpu() for seen in moments.values()])
        for place, statistic in enumerate(moments):
            whole = Moments()
            for share in shares:
                whole.merge(share[place])
            statistic.learn(whole)


def _in_chunks(data: Batches | LoaderBatches) -> Batches | LoaderBatches:
    """Tensors in memory in large pieces, all else as it comes; in the order of the data."""
    if not isinstance(data, Batches):
        return data
    size = data.batch_size
    if isinstance(data.source, TensorRows):
        size = max(1, _CHUNK // max(1, data.source.elements))
    return Batches(data.source, size, rank=data.rank, world=data.world)


@contextmanager
def _rows_of_the_data(minibatch: Minibatch, number: int, name: str) -> Iterator[None]:
    """A scope in which refused rows are named as rows of the data set."""
    try:
        yield
    except RefusedDataError as error:
        where = f"{minibatch.named(error.rows, number)} of `{name}`" if error.rows else f"`{name}`"
        raise ValueError(f"{error.demand}, got {error.got} in {where}") from error
