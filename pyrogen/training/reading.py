"""Reading the whole data set before the first step: statistics are learned from it, and bad rows refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from pyrogen.core.batches import Batches, LoaderBatches
from pyrogen.core.module import DistributionModule
from pyrogen.core.reading import Read, passes
from pyrogen.networks.statistics import Moments, ReadsData, Statistic
from pyrogen.numerics.randomness import held

from .feed import Feed
from .processes import Processes
from .scopes import naming_data, pyro_scope


def learn_statistics(feeds: Sequence[Feed], everything: nn.Module, processes: Processes) -> None:
    """Reads the data sets: once for what is independent, and once more for each statistic that depends on another.

    Modules are left in evaluation mode. All processes end with the same statistics.

    Args:
        feeds: The data, each with its turns.
        everything: All that is trained.
        processes: Where it runs; each reads its share.

    Raises:
        ValueError: rows hold values that a reader cannot take.
    """
    everything.eval()
    for feed in feeds:
        reads = _reads([turn.objective for turn in feed.turns], processes)
        limit = None if len(feed.data) else feed.taken  # a stream of unknown length may have no end
        moments = passes(reads, feed.data, device=feed.device, limit=limit) if reads else iter(())
        with _reading(feed, everything):
            while (found := _next(moments, processes)) is not None:
                _learn(found, processes)


def refuse_bad_rows(
    objective: Callable[..., Tensor],
    held_out: Batches | LoaderBatches,
    feed: Feed,
    everything: nn.Module,
    processes: Processes,
) -> None:
    """Reads held-out data, of which nothing is learned.

    Raises:
        ValueError: rows hold values that the objective cannot take.
    """
    reads = _reads([objective], processes)
    if reads:
        with _reading(feed, everything):
            _next(passes(reads, held_out, device=feed.device, name="validation"), processes)


def _next(moments: Iterator[dict[Statistic, Moments]], processes: Processes) -> dict[Statistic, Moments] | None:
    with processes.together():
        return next(moments, None)


@contextmanager
def _reading(feed: Feed, everything: nn.Module) -> Iterator[None]:
    with pyro_scope(validation=False), held(), torch.no_grad(), naming_data(feed, everything):
        yield


def _reads(objectives: Sequence[Callable[..., Tensor]], processes: Processes) -> Sequence[Read]:
    """What of objectives reads the data set: themselves, or the models of Pyro's ELBOs."""
    found = [objective.model if isinstance(objective, ELBOModule) else objective for objective in objectives]
    readers = [part for part in found if isinstance(part, ReadsData) and not isinstance(part, DistributionModule)]
    return [processes.evaluated(_listing(reader)) for reader in readers]


def _listing(reader: ReadsData) -> Callable[..., list[Any]]:
    """Reads a minibatch to its end, in the precision in which it is called."""
    return lambda *batch: list(reader.read_data(*batch))


def _learn(moments: dict[Statistic, Moments], processes: Processes) -> None:
    shares = processes.gather([seen.cpu() for seen in moments.values()])
    for place, statistic in enumerate(moments):
        whole = statistic.moments()
        for share in shares:
            whole.merge(share[place])
        statistic.learn(whole)
