"""Reading the whole data set before the first step: statistics are learned from it, and bad rows refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from pyrogen.core.batches import Batch, Batches, LoaderBatches
from pyrogen.core.reading import Read, moments_of, unlearned
from pyrogen.networks.statistics import Moments, ReadsData, Statistic

from .processes import FabricProcesses, OneProcess


def learn(
    readers: Iterable[ReadsData],
    data: Batches | LoaderBatches,
    first: Batch,
    processes: OneProcess | FabricProcesses,
    *,
    device: torch.device,
    limit: int | None = None,
) -> None:
    """Reads a data set: once for what is independent, and once more for each statistic that depends on another.

    All processes end with the same statistics.

    Args:
        readers: What reads it.
        data: The data set.
        first: Its first minibatch.
        processes: Where it runs; each reads its share.
        device: Where minibatches are put.
        limit: Largest number of minibatches to read, if there is one.

    Raises:
        ValueError: rows hold values that a reader cannot take.
    """
    reads = _reads(readers, processes)
    remaining = True
    while remaining:
        with processes.together():
            moments = moments_of(reads, data, device=device, limit=limit)
        _learn(moments, processes)
        remaining = bool(unlearned(reads, first))


def refuse_bad_rows(
    readers: Iterable[ReadsData],
    data: Batches | LoaderBatches,
    processes: OneProcess | FabricProcesses,
    *,
    device: torch.device,
    name: str,
) -> None:
    """Reads a data set and learns nothing.

    Raises:
        ValueError: rows hold values that a reader cannot take.
    """
    with processes.together():
        moments_of(_reads(readers, processes), data, device=device, name=name)


def _reads(readers: Iterable[ReadsData], processes: OneProcess | FabricProcesses) -> Sequence[Read]:
    return [processes.evaluated(_listing(reader)) for reader in readers]


def _listing(reader: ReadsData) -> Callable[..., list[Any]]:
    """Reads a minibatch to its end, in the precision in which it is called."""
    return lambda *batch: list(reader.read_data(*batch))


def _learn(moments: dict[Statistic, Moments], processes: OneProcess | FabricProcesses) -> None:
    shares = processes.gather([seen.cpu() for seen in moments.values()])
    for place, statistic in enumerate(moments):
        whole = Moments()
        for share in shares:
            whole.merge(share[place])
        statistic.learn(whole)
