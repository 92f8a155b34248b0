"""Exponential moving averages of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    r"""The exponential moving average of parameters, :math:`\bar w \leftarrow \beta \bar w + (1 - \beta) w`.

    Early on, when little has been seen, the decay is :math:`\min(\beta, (1 + n) / (10 + n))`.

    Args:
        parameters: What is averaged.
        decay: :math:`\beta`, between zero and one.

    Raises:
        ValueError: ``decay`` is not in (0, 1).
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"`ema` must be a decay between 0 and 1, got {decay}")
        self.parameters = parameters
        self.decay = decay
        self.updates = 0
        self.average = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the present weights in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A scope in which the parameters are their averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def apply(self) -> None:
        """Puts the averages in place of the parameters, for good."""
        torch._foreach_copy_(self.parameters, self.average)

    @torch.no_grad()
    def _swap(self) -> None:
        own = [parameter.detach().clone() for parameter in self.parameters]
        torch._foreach_copy_(self.parameters, self.average)
        torch._foreach_copy_(self.average, own)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """The averages and how many updates made them."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Puts the averages into the given state."""
        self.updates = state["updates"]
        for own, stored in zip(self.average, state["average"], strict=True):
            own.copy_(stored)
