"""Reading the whole data set once, before training: statistics are learned from it, and bad rows refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import constraints, transforms

from pyrogen.networks.statistics import Moments, RefusedDataError, Statistic
from pyrogen.numerics.randomness import held
from pyrogen.numerics.values import WrongNumbersError, advice, require_numbers

from .batches import Batch, Batches, Data, LoaderBatches, Minibatch, TensorRows, batches, to_device
from .modes import evaluating
from .shapes import Context, batch_shape_of, common_batch_shape, context_batch_shape

if TYPE_CHECKING:
    from .module import DistributionModule

Read = Callable[..., Iterable[tuple[Statistic, Tensor]]]

_CHUNK = 2**22
"""Elements of tensors in memory that are read at once."""


def moments_of(
    reads: Sequence[Read],
    data: Batches | LoaderBatches,
    *,
    device: torch.device,
    name: str = "data",
    limit: int | None = None,
) -> dict[Statistic, Moments]:
    """Reads a data set once: the moments of the statistics to be learned that depend on no other one.

    Args:
        reads: What reads each minibatch, each a :meth:`ReadsData.read_data
            <pyrogen.networks.statistics.ReadsData.read_data>`.
        data: The data set; of several processes, the share of this one.
        device: Where minibatches are put.
        name: What errors call the data set.
        limit: Largest number of minibatches to read, if there is one.

    Raises:
        ValueError: rows hold values that a reader cannot take.
    """
    moments: dict[Statistic, Moments] = {}
    for number, minibatch in enumerate(islice(_in_chunks(data).epoch(0), limit)):
        with _rows_of_the_data(minibatch, number, name):
            for statistic, rows in unlearned(reads, to_device(minibatch.entries, device)).items():
                moments.setdefault(statistic, Moments()).add(rows if minibatch.weight else rows[:0])
    return moments


def unlearned(reads: Sequence[Read], entries: Batch) -> dict[Statistic, Tensor]:
    """The statistics that are still to be learned, with their rows of a minibatch."""
    found: dict[Statistic, Tensor] = {}
    for read in reads:
        for statistic, rows in read(*entries):
            if not statistic.learned:
                found.setdefault(statistic, rows)
    return found


def learn_statistics(module: DistributionModule, data: Data, batch_size: int) -> None:
    """What :meth:`DistributionModule.learn_statistics` does."""
    found = batches(data, batch_size)
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    with held(), torch.no_grad(), evaluating(module):
        first = to_device(next(iter(found.epoch(0))).entries, device)
        for statistic, _ in list(module.read_data(*first)):
            statistic.reset()
        remaining = True
        while remaining:
            for statistic, moments in moments_of([module.read_data], found, device=device).items():
                statistic.learn(moments)
            remaining = unlearned([module.read_data], first)


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
