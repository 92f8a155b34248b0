"""Observations that feed back: what each step of a sequence is given of those before it."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from pyrogen.arguments import checked, count

from .forms import Form, Plain
from .statistics import Standardizer


class Feedback(nn.Module):
    """A recurrent network that reads observations, step by step; before the first it gives zeros.

    Args:
        observations: How many numbers are observed at each step.
        units: Size of the recurrent state, which is what a step is given.
        form: What is taken of each number that is observed; if ``None`` the number itself.
        standardizer: Brings these to mean zero and scale one; if ``None`` one of its own.

    Example:
        >>> feedback = Feedback(3, units=8)
        >>> feedback.step(torch.zeros(5, 3), None).shape
        torch.Size([5, 8])
    """

    @checked(observations=count)
    def __init__(
        self,
        observations: int,
        *,
        units: int = 64,
        form: Form | None = None,
        standardizer: Standardizer | None = None,
    ) -> None:
        super().__init__()
        self.form = Plain() if form is None else form
        size = observations * self.form.width
        self.standardizer = Standardizer((1, size), name="x", missing=True) if standardizer is None else standardizer
        self.cell = nn.GRUCell(size, units)

    @property
    def units(self) -> int:
        """Size of what a step is given."""
        return self.cell.hidden_size

    def step(self, x: Tensor, memory: Tensor | None) -> Tensor:
        """What the step after an observation is given, ``(*batch, units)``.

        Args:
            x: The observation, complete, ``(*batch, observations)``.
            memory: What its own step was given; ``None`` at the first.
        """
        batch = x.shape[:-1]
        rows = self.standardizer(self.form(x).flatten(-2).unsqueeze(-2)).reshape(prod(batch), self.cell.input_size)
        before = None if memory is None else memory.expand(*batch, -1).reshape(prod(batch), self.units)
        return self.cell(rows, before).reshape(*batch, self.units)
