"""Simulations: rows of latent values and of what was observed with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from pyrogen.arrays import as_tensors
from pyrogen.core import archive
from pyrogen.core.sources import SimulatedData, TensorData

KIND = "simulations"


class Simulations(TensorData, SimulatedData):
    """Rows of latent values, and of what was observed with them.

    ``fit`` calls an objective with minibatches ``(latents, observed)`` of them. ``len`` is the number of rows; ``+``
    joins; a slice, numbers or a mask choose rows, and one number a single row, as two dicts.

    Args:
        latents: By site, the latent values, rows first.
        observed: By site, the observed values.
        failed: How many further simulations failed, whose rows were left out.

    Raises:
        TypeError: values are no dicts of tensors.
        ValueError: entries have different numbers of rows, or there is none.

    Example:
        >>> simulations = Simulations({"theta": torch.zeros(5, 2)}, {"x": torch.zeros(5)})
        >>> simulations[:3] + simulations
        <Simulations: 8 rows of theta (2,); x ()>
    """

    def __init__(self, latents: Mapping[str, Tensor], observed: Mapping[str, Tensor], *, failed: int = 0) -> None:
        latents, observed = as_tensors(latents, "latents"), as_tensors(observed, "observed")
        for name, part in (("latents", latents), ("observed", observed)):
            if not isinstance(part, Mapping) or not all(isinstance(value, Tensor) for value in part.values()):
                raise TypeError(f"`{name}` must be a dict of tensors by the names of sites, got {type(part).__name__}")
        self.latents, self.observed, self.failed = dict(latents), dict(observed), failed
        lengths = {name: len(value) if value.dim() else 0 for part in self.entries for name, value in part.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"`latents` and `observed` must have equally many rows, got {lengths or 'no entry'}")

    @property
    def entries(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Latent and observed values: the arguments of an objective."""
        return self.latents, self.observed

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return self._changed(lambda value: value.to(device), self.failed)

    def save(self, path: str | os.PathLike) -> None:
        """Writes them to a file: safetensors with a JSON header, written atomically.

        Raises:
            OSError: it cannot be written.
        """
        places = {f"{place}.{name}": value for place, part in enumerate(self.entries) for name, value in part.items()}
        archive.write(path, KIND, {"failed": self.failed, "order": list(places)}, places)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads them from a file; it runs no code.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is another kind of file, or was altered.
        """
        document, tensors = archive.read(path, KIND)
        parts: tuple[dict[str, Tensor], ...] = ({}, {})
        for place in document["order"]:
            parts[int(place[0])][place[2:]] = tensors[place]
        return cls(*parts, failed=document["failed"])

    def __len__(self) -> int:
        return len(next(iter((self.latents | self.observed).values())))

    def __getitem__(self, rows: int | slice | Tensor | list[int]) -> Any:
        if isinstance(rows, int):
            return tuple({name: value[rows] for name, value in part.items()} for part in self.entries)
        return self._changed(lambda value: value[rows.to(value.device) if isinstance(rows, Tensor) else rows])

    def __add__(self, other: Simulations) -> Self:
        if not isinstance(other, Simulations):
            return NotImplemented
        if any(one.keys() != two.keys() for one, two in zip(self.entries, other.entries, strict=True)):
            raise ValueError(f"`other` must have the sites of {self!r}, got {other!r}")
        for one, two in zip(self.entries, other.entries, strict=True):
            if any(value.shape[1:] != two[name].shape[1:] for name, value in one.items()):
                raise ValueError(f"`other` must have rows of the shapes of {self!r}, got {other!r}")
        latents, observed = (
            {name: torch.cat([value, others[name]]) for name, value in part.items()}
            for part, others in zip(self.entries, other.entries, strict=True)
        )
        return type(self)(latents, observed, failed=self.failed + other.failed)

    def __repr__(self) -> str:
        shapes = [
            ", ".join(f"{name} {tuple(value.shape[1:])}" for name, value in part.items()) for part in self.entries
        ]
        lost = f", {self.failed} failed" if self.failed else ""
        return f"<Simulations: {len(self)} rows of {'; '.join(shapes)}{lost}>"

    def _changed(self, change: Callable[[Tensor], Tensor], failed: int = 0) -> Self:
        latents, observed = ({name: change(value) for name, value in part.items()} for part in self.entries)
        return type(self)(latents, observed, failed=failed)
