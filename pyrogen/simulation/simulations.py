"""Simulations: rows of latent values and of what was observed with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from pyrogen.core.batches import TensorData

Values = Mapping[str, Tensor]


class Simulations(TensorData):
    """Rows of latent values, and of what was observed with them.

    ``fit`` calls an objective with minibatches ``(latents, observed)`` of them. ``len`` is the number of rows, ``+``
    joins, a slice or a tensor of numbers chooses rows, and a number one row, as two dicts.

    Args:
        latents: By site, the latent values, rows first.
        observed: By site, the observed values.
        failed: How many further simulations failed, whose rows were left out.

    Raises:
        ValueError: entries have different numbers of rows, or there is none.

    Example:
        >>> simulations = Simulations({"theta": torch.zeros(5, 2)}, {"x": torch.zeros(5)})
        >>> len(simulations), len(simulations[:3] + simulations)
        (5, 8)
    """

    def __init__(self, latents: Values, observed: Values, *, failed: int = 0) -> None:
        self.latents, self.observed, self.failed = dict(latents), dict(observed), failed
        lengths = {name: len(value) for name, value in (self.latents | self.observed).items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"`latents` and `observed` must have equally many rows, got {lengths or 'no entry'}")

    @property
    def entries(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Latent and observed values: the arguments of an objective."""
        return self.latents, self.observed

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return self._changed(lambda tensor: tensor.to(device), failed=self.failed)

    def _changed(self, change: Callable[[Tensor], Tensor], failed: int = 0) -> Self:
        latents, observed = ({name: change(value) for name, value in part.items()} for part in self.entries)
        return type(self)(latents, observed, failed=failed)

    def __len__(self) -> int:
        return len(next(iter((self.latents | self.observed).values())))

    def __getitem__(self, rows: int | slice | Tensor) -> Any:
        if isinstance(rows, int):
            return tuple({name: value[rows] for name, value in part.items()} for part in self.entries)
        return self._changed(lambda tensor: tensor[rows])

    def __add__(self, other: Simulations) -> Self:
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
