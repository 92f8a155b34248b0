r"""Annealing: the weight :math:`\beta` of the rate as a function of the training step.

Early in training a decoder that has learned nothing makes it cheapest to ignore the latent; a rate that costs little at
first leaves the latent time to become useful. The step is counted in a buffer, so that a run resumed from a checkpoint
goes on where it was.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked, non_negative


class Annealing(Abstract, nn.Module):
    r"""A weight that depends on how many gradient steps were taken.

    Called, it gives the weight of the present step and, in training mode and with gradients on, counts it; the dry
    run of ``fit`` counts as one. Subclasses define :meth:`weight`.
    """

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        weight = self.weight(self.step)
        if self.training and torch.is_grad_enabled():
            self.step.add_(1)
        return weight

    @abstractmethod
    def weight(self, step: Tensor) -> Tensor:
        """The weight of a step, counted from zero."""


class LinearAnnealing(Annealing):
    r"""A weight that goes from one value to another in a straight line, and stays there.

    Args:
        steps: How many gradient steps it takes.
        start: Its first value.
        end: Its last value.

    Raises:
        ValueError: ``steps`` is not positive, or a weight is negative.

    References:
        Bowman et al. 2016, "Generating sentences from a continuous space", https://arxiv.org/abs/1511.06349

    Example:
        >>> beta = LinearAnnealing(2)
        >>> [beta().item() for _ in range(4)]
        [0.0, 0.5, 1.0, 1.0]
    """

    @checked(start=non_negative, end=non_negative)
    def __init__(self, steps: int, *, start: float = 0.0, end: float = 1.0) -> None:
        super().__init__()
        self.steps = steps
        self.start = start
        self.end = end

    def weight(self, step: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * (step / self.steps).clamp(max=1)


class CyclicAnnealing(Annealing):
    r"""A weight that rises in every cycle and falls back at its end; after the last cycle it stays up.

    Args:
        steps: How many gradient steps a cycle takes.
        cycles: How many cycles there are.
        rising: The share of a cycle in which the weight rises; in the rest it is ``end``.
        start: The value at the begin of a cycle.
        end: The value the rise ends with.

    Raises:
        ValueError: ``steps`` or ``cycles`` is not positive, a weight is negative, or ``rising`` is not in (0, 1].

    References:
        Fu et al. 2019, "Cyclical annealing schedule: a simple approach to mitigating KL vanishing",
        https://arxiv.org/abs/1903.10145

    Example:
        >>> beta = CyclicAnnealing(4, cycles=2)
        >>> [beta().item() for _ in range(9)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """

    @checked(start=non_negative, end=non_negative)
    def __init__(
        self, steps: int, *, cycles: int = 4, rising: float = 0.5, start: float = 0.0, end: float = 1.0
    ) -> None:
        super().__init__()
        self.steps = steps
        self.cycles = cycles
        self.rising = rising
        self.start = start
        self.end = end

    def weight(self, step: Tensor) -> Tensor:
        risen = (step % self.steps / (self.rising * self.steps)).clamp(max=1)
        risen = torch.where(step < self.cycles * self.steps, risen, 1.0)
        return self.start + (self.end - self.start) * risen
