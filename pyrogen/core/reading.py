"""Reading the whole data set once, before training: statistics are learned from it, and bad rows refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints, transforms

from pyrogen.networks.statistics import Moments, RefusedDataError, Statistic
from pyrogen.numerics.randomness import held
from pyrogen.numerics.supports import contains, outlying
from pyrogen.numerics.values import WrongNumbersError, advice, require_numbers

from .batch import Batch, device_of, to_device
from .batches import Batches, LoaderBatches, Minibatch, batches
from .modes import evaluating
from .shapes import Context
from .sources import Data, TensorRows

Read = Callable[..., Iterable[tuple[Statistic, Tensor]]]

_CHUNK = 2**22
"""Elements of tensors in memory that are read at once."""


def passes(
    reads: Sequence[Read],
    data: Batches | LoaderBatches,
    *,
    device: torch.device,
    name: str = "data",
    limit: int | None = None,
) -> Iterator[dict[Statistic, Moments]]:
    """Reads a data set: once for what is independent, and once more for each statistic that depends on another.

    Args:
        reads: What reads each minibatch, each a :meth:`ReadsData.read_data
            <pyrogen.networks.statistics.ReadsData.read_data>`.
        data: The data set; of several processes, the share of this one.
        device: Where minibatches are put.
        name: What errors call the data set.
        limit: Largest number of minibatches to read, if there is one.

    Yields:
        The moments that statistics are to be learned from, before the next pass.

    Raises:
        ValueError: rows hold values that a reader cannot take, or the first entry is NaN in all of them.
    """
    first: Batch | None = None
    while first is None or _unlearned(reads, first):
        moments: dict[Statistic, Moments] = {}
        blank = []
        for number, minibatch in enumerate(islice(_in_chunks(data).epoch(0), limit)):
            entries = to_device(minibatch.entries, device)
            first = entries if first is None else first
            blank.append(_is_blank(entries[0]) if entries else False)
            with _rows_of_the_data(minibatch, number, name):
                for statistic, rows in _unlearned(reads, entries).items():
                    moments.setdefault(statistic, statistic.moments()).add(rows if minibatch.weight else rows[:0])
        if blank and all(blank):
            raise ValueError(f"`{name}` must hold at least one number that is not missing, got NaN everywhere")
        yield moments


def _is_blank(entry: Any) -> bool:
    """Whether a tensor holds nothing but NaN."""
    return isinstance(entry, Tensor) and entry.numel() > 0 and bool(entry.isnan().all())


def _unlearned(reads: Sequence[Read], entries: Batch) -> dict[Statistic, Tensor]:
    """The statistics that are still to be learned, with their rows of a minibatch."""
    found: dict[Statistic, Tensor] = {}
    for read in reads:
        for statistic, rows in read(*entries):
            if not statistic.learned:
                found.setdefault(statistic, rows)
    return found


def learn_statistics(module: nn.Module, read: Read, data: Data, batch_size: int) -> None:
    """Learns all statistics of a module from a data set, those learned before as well.

    Args:
        module: It is in evaluation mode meanwhile.
        read: What reads a minibatch.
        data: The data set, as for ``fit``.
        batch_size: Rows of a dataset that are read at once; tensors are read in large pieces.
    """
    found = batches(data, batch_size)
    device = device_of(module)
    with held(), torch.no_grad(), evaluating(module):
        first = to_device(next(iter(found.epoch(0))).entries, device)
        for statistic, _ in list(read(*first)):
            statistic.reset()
        for moments in passes([read], found, device=device):
            for statistic, seen in moments.items():
                statistic.learn(seen)


def refuse_outside_support(
    conditional: Callable[[Context], TorchDistributionMixin], x: Tensor, context: Context, parameters: Iterable[Tensor]
) -> None:
    """Refuses events that hold NaN, lie outside the support of their distribution, or are of another dtype.

    Args:
        conditional: Gives the distribution of an event given its context.
        x: Events, each with a context of its own.
        context: Their contexts.
        parameters: Of the distribution, whose precision events have.

    Raises:
        RefusedDataError: an event does.
    """
    try:
        support = _support(conditional, context)
    except NotImplementedError:  # of a distribution that names none
        return
    try:
        require_numbers(x, support, parameters, "x")
    except WrongNumbersError as error:
        raise RefusedDataError(error.demand, str(error.dtype), []) from error
    inside = contains(support, x)
    if inside.all():
        return
    rows = x[~inside]
    (wrong,) = (~inside).reshape(len(x), -1).any(-1).nonzero().T
    if rows.isnan().any():
        raise RefusedDataError("`x` must hold no NaN", "NaN", wrong.tolist())
    demand = f"`x` must lie in the support {support}{advice(support, x)}"
    raise RefusedDataError(demand, outlying(support, rows[0]), wrong.tolist())


def _support(conditional: Callable[[Context], TorchDistributionMixin], context: Context) -> constraints.Constraint:
    """The support given a context; found from one row of it where that makes no difference, which costs nothing."""
    if context is None:
        return conditional(None).support
    one = {key: value[:1] for key, value in context.items()} if isinstance(context, Mapping) else context[:1]
    support = conditional(one).support
    return conditional(context).support if _holds_tensors(support) else support


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
