"""Minibatches: from tensors, datasets or loaders to the tuples an objective takes.

The order of the data in an epoch is a function of a seed and the epoch alone, so a run can resume in the middle of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from pyrogen.arguments import integer
from pyrogen.networks.statistics import listed
from pyrogen.numerics.exclusive import released
from pyrogen.numerics.randomness import Stream

from .batch import Batch, as_batch, digest, rows, single_row
from .sources import Data, DatasetRows, TensorRows, source_of


class Minibatch(NamedTuple):
    """This process's share of a minibatch: what an objective is called with.

    Attributes:
        entries: The arguments of the objective.
        indices: Which rows of the data they are, if that is known.
        weight: Of this share in the mean over the processes.
        size: How many rows the minibatch has in all processes.
        more: Whether the gradient step takes the next one too, if the epoch has one.
    """

    entries: Batch
    indices: Tensor | None
    weight: float
    size: int
    more: bool

    def named(self, rows: list[int], number: int | None = None) -> str:
        """The names of some of its rows: their numbers in the data, or those in it, the minibatch of this number."""
        if self.indices is None:
            return f"{listed('row', rows)} of {'the minibatch' if number is None else f'minibatch {number}'}"
        return listed("row", self.indices[rows].tolist())

    def culprits(self, spoils: Callable[[Batch], bool]) -> list[int]:
        """Its rows that by themselves, each as a batch of its own, spoil something."""
        count = rows(self.entries)
        return [row for row in range(count) if spoils(single_row(self.entries, row, count))]


class Batches:
    """Tensors or a dataset, in minibatches, in a new order each epoch.

    The gradient steps of an epoch are as equal as can be, by a row, and so are the minibatches of a step: a few rows
    left for the last would make a step that is as long as the others and mostly noise.

    Args:
        source: How rows are fetched.
        batch_size: Rows a minibatch at most.
        accumulate: Minibatches a gradient step at most.
        seed: Of the order. ``None`` keeps the order of the data.
        rank: Which share of every minibatch to yield, of ``world`` shares.
        world: How many processes share a minibatch.
    """

    def __init__(
        self,
        source: TensorRows | DatasetRows,
        batch_size: int,
        *,
        accumulate: int = 1,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        """Minibatches an epoch."""
        rows, larger = divmod(self.rows, self.steps)  # of a step, and the steps that have one more
        return larger * ceil((rows + 1) / self.batch_size) + (self.steps - larger) * ceil(rows / self.batch_size)

    @property
    def steps(self) -> int:
        """Gradient steps an epoch."""
        return ceil(self.rows / (self.batch_size * self.accumulate))

    @property
    def rows(self) -> int:
        """How many data there are."""
        return len(self.source)

    @property
    def total(self) -> int:
        """How many there were before some were held out."""
        return self.source.total

    @property
    def whole(self) -> bool:
        """Whether a minibatch is all the data, in their order."""
        return self.world == 1 and self.batch_size >= self.rows

    def sizes(self) -> list[list[int]]:
        """How many rows each minibatch of an epoch has, by gradient step."""
        steps = _even(self.rows, self.steps)
        return [_even(rows, ceil(rows / self.batch_size)) for rows in steps]

    def order(self, epoch: int) -> Tensor:
        """The order of the rows in an epoch."""
        if self.seed is None or self.batch_size >= self.rows:
            return torch.arange(self.rows)
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        return torch.randperm(self.rows, generator=generator)

    def epoch(self, epoch: int, start: int = 0, seen: str | None = None) -> Iterator[Minibatch]:
        """The minibatches of an epoch from number ``start`` on."""
        steps, order = self.sizes(), self.order(epoch)
        sizes = [size for step in steps for size in step]
        more = [number < len(step) for step in steps for number, _ in enumerate(step, 1)]
        indices, numbers = (
            [self._share(part) for part in rows.split(sizes)[start:]] for rows in (order, self.source.numbers[order])
        )
        parts = zip(self.source.fetch(indices), numbers, sizes[start:], more[start:], strict=True)
        for entries, own, size, goes_on in parts:
            share = own.shape[0] if size > self.rank else 0
            yield Minibatch(entries, own, share * self.world / size, size, goes_on)

    def _share(self, rows: Tensor) -> Tensor:
        """This process's rows of a minibatch: the first, with weight zero, where a short one has none for it."""
        if self.world == 1:
            return rows
        return rows[self.rank :: self.world] if len(rows) > self.rank else rows[:1]

    def state_dict(self) -> None:
        """Nothing: the order is a function of seed and epoch."""

    def between_epochs(self) -> None:
        """Nothing to note, for the same reason."""


class LoaderBatches:
    """A loader of the user's own: its order, its batch size, its workers.

    What it draws from the generators of torch, numpy and Python while it makes minibatches comes from a stream that
    depends on a seed and the epoch alone, so that an epoch can be gone through again. Generators that a ``DataLoader``
    holds are noted at the beginning of an epoch.

    Args:
        loader: The loader.
        accumulate: Minibatches a gradient step; the last of an epoch takes those that are left.
        seed: Of the streams; ``None`` for zero.
        name: What errors call it.

    Raises:
        ValueError: it runs out once and for all.
    """

    def __init__(self, loader: Iterable, *, accumulate: int = 1, seed: int | None = None, name: str = "data") -> None:
        self.loader = loader
        self.accumulate = accumulate
        self.seed = seed
        self.name = name
        self._refuse_what_runs_out()
        self._began = self._states()

    def __len__(self) -> int:
        try:
            return len(self.loader)
        except TypeError:
            return 0

    @property
    def steps(self) -> int:
        """Gradient steps an epoch; zero if that is not known."""
        return ceil(len(self) / self.accumulate)

    @property
    def rows(self) -> int | None:
        """How many data there are, where torch's own loader goes through all of them."""
        loader = self.loader
        if not isinstance(loader, DataLoader) or loader.batch_size is None:
            return None
        return len(loader.dataset) if isinstance(loader.sampler, (SequentialSampler, RandomSampler)) else None

    @property
    def total(self) -> int | None:
        """The same: nothing is held out of a loader."""
        return self.rows

    @property
    def whole(self) -> bool:
        """Whether a minibatch is all the data. A loader of unknown length is begun to see."""
        return len(self) == 1 or (not len(self) and len(list(islice(self.epoch(0), 2))) == 1)

    def epoch(self, epoch: int, start: int = 0, seen: str | None = None) -> Iterator[Minibatch]:
        """The minibatches of an epoch; those before ``start`` are drawn and dropped.

        Args:
            epoch: Which.
            start: The first minibatch to give.
            seen: The digest of the one before it, if it is known.

        Raises:
            ValueError: that one is another than it was.
        """
        self._began = self._states()
        stream = Stream(epoch_seed(self.seed or 0, epoch))
        with stream.flowing(), released():
            rest = iter(self.loader)
        for number in count():
            with stream.flowing(), released():
                batch = next(rest, _END)
            if batch is _END:
                if number < start:
                    self._refuse_others(epoch, number)
                return
            if number >= start:
                more = (number + 1) % self.accumulate > 0
                yield Minibatch(entries := as_batch(batch), None, 1.0, rows(entries), more)
            elif number == start - 1 and seen not in (None, digest(as_batch(batch))):
                self._refuse_others(epoch, number)

    def state_dict(self) -> list[Tensor]:
        """The states that the loader's own generators had when the epoch began."""
        return self._began

    def between_epochs(self) -> None:
        """Notes that the next epoch begins where the generators are now."""
        self._began = self._states()

    def load_state_dict(self, states: list[Tensor]) -> None:
        """Puts the loader's own generators where they were when the epoch began."""
        for generator, state in zip(self._generators(), states, strict=True):
            generator.set_state(state)
        self._began = list(states)

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators()]

    def _generators(self) -> list[torch.Generator]:
        if not isinstance(self.loader, DataLoader):
            return []
        sampler = vars(self.loader.sampler) if hasattr(self.loader.sampler, "__dict__") else {}
        found = [self.loader.generator, sampler.get("generator")]
        return list({id(entry): entry for entry in found if isinstance(entry, torch.Generator)}.values())

    def _refuse_what_runs_out(self) -> None:
        source = self.loader.dataset if isinstance(self.loader, DataLoader) else self.loader
        if isinstance(source, Iterable) and iter(source) is iter(source) and not _begins_anew(source):
            raise ValueError(
                f"`{self.name}` must be a loader that begins anew each epoch, got a {type(source).__name__}, which "
                "runs out: iterating over it twice gives the same iterator"
            )

    def _refuse_others(self, epoch: int, number: int) -> None:
        raise ValueError(
            f"`{self.name}` must give the same minibatches in the same order to resume in the middle of an epoch, got "
            f"another minibatch {number} of epoch {epoch}: draw its order from torch's, numpy's or Python's generator "
            "or from that of a DataLoader, or give tensors or a dataset"
        )


_END = object()


def _begins_anew(source: Iterable) -> bool:
    """Whether a source that is its own iterator starts again when it is iterated over again, on the same noise."""
    firsts = []
    for _ in range(2):
        with Stream(0).flowing():
            firsts.append(digest(next(iter(source), None)))
    return firsts[0] == firsts[1]


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch."""
    return (seed * 1_000_003 + epoch) % 2**63


def batches(
    data: Data,
    batch_size: int,
    *,
    accumulate: int = 1,
    seed: int | None = None,
    rank: int = 0,
    world: int = 1,
    name: str = "data",
) -> Batches | LoaderBatches:
    """Minibatches of ``data``.

    Args:
        data: A tensor, an array or a table; a tuple of these or dicts of them, of equal lengths; a map-style dataset;
            an iterable one; or any loader, which is used as it is.
        batch_size: Rows a minibatch at most.
        accumulate: Minibatches a gradient step at most.
        seed: Of the order; ``None`` keeps it.
        rank: Which share of every minibatch to yield.
        world: How many processes share a minibatch.
        name: What errors call the data.

    Raises:
        ValueError: ``data`` is none of these, is empty, or its parts differ in length; or a loader is shared by several
            processes, which only its own sampler can divide.
    """
    integer(batch_size, "batch_size")
    source = source_of(data, name)
    if source is None:
        if world > 1:
            raise ValueError(f"`{name}` must be tensors or a dataset when several processes share it, got a loader")
        if isinstance(data, IterableDataset):
            data = DataLoader(data, batch_size=batch_size)
        return LoaderBatches(data, accumulate=accumulate, seed=seed, name=name)
    if len(source) == 0:
        raise ValueError(f"`{name}` must hold at least one row, got none")
    if not isinstance(source, DatasetRows) and not source.entries:
        rank, world = 0, 1  # nothing to share: every process does the same with noise of its own
    return Batches(source, batch_size, accumulate=accumulate, seed=seed, rank=rank, world=world)


def split(data: Data, fraction: float, seed: int) -> tuple[TensorRows | DatasetRows, TensorRows | DatasetRows]:
    """``data`` without a random fraction of its rows, and that fraction.

    Raises:
        ValueError: ``fraction`` leaves nothing on one side, or ``data`` is a loader, which has no rows to choose from.
    """
    source = source_of(data, "data")
    if source is None:
        raise ValueError("`validation` must be data of its own when `data` is a loader, got a fraction")
    held_out = round(len(source) * fraction)
    if not 0 < held_out < len(source):
        raise ValueError(f"`validation` must leave rows on both sides of {len(source)}, got the fraction {fraction}")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed % 2**63))
    return source.select(order[held_out:]), source.select(order[:held_out])


def _even(count: int, parts: int) -> list[int]:
    """A number as a sum of so many that differ by one at most, the larger first."""
    least, larger = divmod(count, parts)
    return [least + (part < larger) for part in range(parts)]
