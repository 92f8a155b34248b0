"""A minibatch: the tuple that an objective takes, of tensors, dicts of tensors and whatever else it is called with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyrogen.arrays import as_tensors

Batch = tuple[Any, ...]


def rows(batch: tuple) -> int:
    """How many data a batch holds: the length of its first tensor, one if it has none."""
    for entry in batch:
        tensor = next(iter(entry.values()), None) if isinstance(entry, Mapping) else entry
        if isinstance(tensor, torch.Tensor) and tensor.dim():
            return tensor.shape[0]
    return 1


def row_numbers(batch: Batch) -> list[Tensor]:
    """The vectors of integers in a batch, which may be the numbers of its rows."""
    entries = [part for entry in batch for part in (entry.values() if isinstance(entry, Mapping) else (entry,))]
    return [part for part in entries if isinstance(part, Tensor) and part.dim() == 1 and not part.is_floating_point()]


def single_row(batch: Batch, row: int, rows: int) -> Batch:
    """One row of a batch of so many, as a batch of its own."""
    return _map_rows(batch, rows, lambda tensor: tensor[row : row + 1])


def without_last_row(batch: Batch, rows: int) -> Batch:
    """A batch of so many rows without the last."""
    return _map_rows(batch, rows, lambda tensor: tensor[:-1])


def joined(parts: Sequence[Batch]) -> Batch:
    """The rows of several batches as one batch."""
    if len(parts) == 1:
        return parts[0]
    return tuple(
        {key: torch.cat([part[key] for part in entries]) for key in entries[0]}
        if isinstance(entries[0], Mapping)
        else torch.cat(entries)
        for entries in zip(*parts, strict=True)
    )


def map_tensors(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with all its tensors changed; other entries stay."""

    def changed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: changed(part) for key, part in value.items()}
        return change(value) if isinstance(value, Tensor) else value

    return tuple(map(changed, batch))


def _map_rows(batch: Batch, rows: int, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with those tensors changed that have a row for each datum."""
    return map_tensors(batch, lambda tensor: change(tensor) if tensor.dim() and len(tensor) == rows else tensor)


def leaves(batch: Batch, name: str) -> Iterator[Tensor]:
    """Its tensors.

    Args:
        batch: The minibatch, or a whole data set.
        name: What errors call it.

    Raises:
        ValueError: it holds something else, or a tensor without rows.
    """
    for entry in batch:
        values = entry.values() if isinstance(entry, Mapping) else (entry,)
        for tensor in values:
            if not isinstance(tensor, Tensor) or not tensor.dim():
                raise ValueError(f"`{name}` must hold tensors with rows, got among them {kind_of(tensor)}")
            yield tensor


def as_batch(batch: Any) -> Batch:
    """What a loader gives as a tuple of tensors; a single entry becomes one."""
    return as_tensors(tuple(batch) if isinstance(batch, (tuple, list)) else (batch,), "batch")


def device_of(module: nn.Module) -> torch.device:
    """Where a module's minibatches go: to its parameters."""
    return next((tensor.device for tensor in module.parameters()), torch.device("cpu"))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with all its tensors on ``device``."""
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def digest(batch: Any) -> str:
    """A digest of the tensors and numbers of a minibatch."""
    found = hashlib.sha256()
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            found.update(leaf.detach().cpu().contiguous().resolve_conj().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(leaf, (bool, int, float, str)):
            found.update(repr(leaf).encode())
    return found.hexdigest()


def kind_of(value: Any) -> str:
    """What something is, in the words of an error."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
