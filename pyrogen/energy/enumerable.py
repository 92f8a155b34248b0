"""Energies whose normalizer is a sum, where it has few terms: exact densities, and exact draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from pyrogen.core.density import Density
from pyrogen.core.shapes import Context, context_batch_shape
from pyrogen.networks.context import context_rows

from .boltzmann import Boltzmann
from .chains import started
from .model import EnergyModule


class EnumerableEnergy(EnergyModule):
    """An energy whose normalizer is a sum over states: its density is exact where they are few; abstract."""

    @property
    @abstractmethod
    def enumerable(self) -> bool:
        """Whether there are few enough states."""

    @property
    def density(self) -> Density:
        """Exact where the states can be enumerated."""
        return "exact" if self.enumerable else "unnormalized"

    def forward(self, context: Context = None) -> Boltzmann:
        kind = EnumeratedBoltzmann if self.enumerable else Boltzmann
        return kind(self, context, context_batch_shape(context, self.context_shape), validate_args=False)

    @abstractmethod
    def log_normalizer(self, context: Context = None) -> Tensor:
        r"""The logarithm of :math:`Z(c)`, exactly; its batch shape is that of the context.

        Raises:
            NotImplementedError: there are too many states.
        """

    @abstractmethod
    def exact_draws(self, rows: int, context: Context = None) -> Tensor:
        """Independent draws as numbers, one for each context or so many.

        Args:
            rows: How many, at least one.
            context: A context for each, or ``None``.
        """


class EnumeratedBoltzmann(Boltzmann):
    """The distribution of an energy of few states: exact, and drawn from without chains.

    Args:
        module: The energy.
        context: What it is given.
        batch_shape: That of the context, possibly expanded.
    """

    density: Density = "exact"

    def _expanded(self, batch_shape: torch.Size) -> EnumeratedBoltzmann:
        return EnumeratedBoltzmann(self.module, self.context, batch_shape, validate_args=False)

    def _score(self, value: Tensor) -> Tensor:
        return super()._score(value) - self.module.log_normalizer(self.context)

    @torch.no_grad()
    def advanced(self, sample_shape: Iterable[int] = ()) -> Tensor:
        module, shape = self.module, self._extended_shape(torch.Size(sample_shape))
        batch = shape[: len(shape) - len(self.event_shape)]
        context = context_rows(self.context, module.context_shape, batch)
        rows = batch.numel()
        numbers = module.exact_draws(rows, context) if rows else started(module, 0, context)
        return module.events(numbers).reshape(shape)


def digits(numbers: Tensor, base: int, places: int) -> Tensor:
    """The digits of whole numbers, ``(N,)`` to ``(N, places)``, the first one of the largest value."""
    powers = base ** torch.arange(places - 1, -1, -1, device=numbers.device)
    return numbers.unsqueeze(-1) // powers % base
