"""Where rows come from: tensors and datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyrogen.arrays import as_tensors

from .batch import Batch, as_batch, kind_of, leaves, map_tensors

Data = Tensor | tuple | Dataset | Iterable


class TensorRows:
    """Rows of one or several tensors of equal length; one row of nothing if there are none.

    Args:
        entries: The tensors, and dicts of them.
        name: What errors call them.
        numbers: The number of each row in the data set that they were chosen from.
        total: How many rows that has.
    """

    def __init__(
        self, entries: Batch, name: str = "data", numbers: Tensor | None = None, total: int | None = None
    ) -> None:
        self.entries = entries
        lengths = {len(tensor) for tensor in leaves(entries, name)}
        if len(lengths) > 1:
            raise ValueError(f"the tensors of `{name}` must have equal lengths, got {sorted(lengths)}")
        self.length = lengths.pop() if lengths else 1
        self.numbers = torch.arange(self.length) if numbers is None else numbers
        self.total = self.length if total is None else total

    @property
    def elements(self) -> int:
        """How many elements a row has."""
        return sum(tensor[:1].numel() for tensor in leaves(self.entries, "data"))

    def __len__(self) -> int:
        return self.length

    def fetch(self, indices: list[Tensor]) -> Iterator[Batch]:
        for index in indices:
            yield self.entries if index.shape[0] == self.length else self._chosen(index)

    def select(self, index: Tensor) -> TensorRows:
        return TensorRows(self._chosen(index), numbers=self.numbers[index], total=self.total)

    def _chosen(self, index: Tensor) -> Batch:
        return map_tensors(self.entries, lambda tensor: tensor.index_select(0, index.to(tensor.device)))


class SimulatedData:
    """Data that a program has drawn, or draws.

    Attributes:
        ema: The decay of the average of the weights that ``fit`` makes on them where it is given none: it does what a
            falling learning rate does, however long the run is.
    """

    ema = 0.99


class TensorData(Dataset):
    """A dataset whose rows lie in tensors, from which minibatches are cut as from tensors by themselves.

    ``fit`` needs not be told when to stop: it holds a tenth of the rows out and stops when these improve no more.

    Attributes:
        entries: Tensors, and dicts of them, of equal lengths: the arguments of an objective.
    """

    entries: Batch


class DatasetRows:
    """Rows of a map-style dataset, collated by torch.

    Args:
        dataset: The dataset.
        numbers, total: As for :class:`TensorRows`.
    """

    def __init__(self, dataset: Dataset, numbers: Tensor | None = None, total: int | None = None) -> None:
        self.dataset = dataset
        self.numbers = torch.arange(len(dataset)) if numbers is None else numbers
        self.total = len(dataset) if total is None else total

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, indices: list[Tensor]) -> Iterator[Batch]:
        # A generator of its own keeps the loader from drawing on torch's.
        order = [index.tolist() for index in indices]
        yield from map(as_batch, DataLoader(self.dataset, batch_sampler=order, generator=torch.Generator()))

    def select(self, index: Tensor) -> DatasetRows:
        return DatasetRows(torch.utils.data.Subset(self.dataset, index.tolist()), self.numbers[index], self.total)


def source_of(data: Data, name: str) -> TensorRows | DatasetRows | None:
    """The rows of data; ``None`` of a loader.

    Raises:
        ValueError: the data are neither, or run out.
    """
    if isinstance(data, (TensorRows, DatasetRows)):
        return data
    data = as_tensors(data, name)
    if isinstance(data, Tensor):
        return TensorRows((data,), name)
    if isinstance(data, tuple):
        return TensorRows(data, name)
    if isinstance(data, TensorData):
        return TensorRows(as_tensors(data.entries, name), name)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return DatasetRows(data)
    if isinstance(data, Iterator):
        raise ValueError(
            f"`{name}` must be a loader that begins anew each epoch, got a {type(data).__name__}, which runs out"
        )
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        return None
    raise ValueError(
        f"`{name}` must be a tensor, an array, a table, a tuple of them, a dataset or a loader, got {kind_of(data)}"
    )
