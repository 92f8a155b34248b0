"""Chains: how an energy draws, and what the second phase of its gradient is made of.

They differ in where they begin: at the distribution that an energy starts from, each time anew
(:class:`FreshChains`), at data (:class:`DataChains`), or where they were (:class:`PersistentChains`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked, instance_of
from pyrogen.core.shapes import Context

from .kernels import Kernel, Target

if TYPE_CHECKING:
    from .model import EnergyModule


class Draws(NamedTuple):
    """Where chains ended.

    Attributes:
        x: Events as numbers, ``(N, *event)``.
        context: The contexts that they are drawn under, a row each; ``None`` if there are none.
        acceptance: The share of the last steps that each accepted, ``(N,)``.
    """

    x: Tensor
    context: Context
    acceptance: Tensor


class Chains(Abstract, nn.Module):
    """Markov chains of an energy; abstract.

    Args:
        kernel: What moves them.
        steps: How many steps each takes for a draw.

    Attributes:
        persistent: Whether they go on where they were, so that one draw depends on the one before.
        needs_data: Whether they begin at data, so that there are no draws without.
    """

    persistent: bool = False
    needs_data: bool = False

    @checked(kernel=instance_of(Kernel))
    def __init__(self, kernel: Kernel, *, steps: int) -> None:
        super().__init__()
        self.kernel, self.steps = kernel, steps

    def prepare(self, module: EnergyModule) -> None:
        """Gets ready to draw from an energy; what has chains that go on makes room for them."""

    @abstractmethod
    def draw(self, module: EnergyModule, rows: int, context: Context = None, data: Tensor | None = None) -> Draws:
        """A draw for each row.

        Args:
            module: The energy.
            rows: How many.
            context: A context for each, ``(rows, *context_shape)``.
            data: Data as numbers, ``(rows, *event)``, where there are any.
        """


class FreshChains(Chains):
    """Chains that begin at the distribution that an energy starts from, each time anew.

    The first half of their steps finds the step size at which the kernel accepts as often as it should.

    Args:
        kernel: What moves them.
        steps: How many steps each takes for a draw.
    """

    def draw(self, module: EnergyModule, rows: int, context: Context = None, data: Tensor | None = None) -> Draws:
        with torch.no_grad():
            x = module.numbers(module.start(context).sample((rows,) if context is None else ()))
            target, warming = Target(module, context), self.steps // 2
            size, block = x.new_tensor(self.kernel.first_step_size(x[:1].numel())), 10
            for _ in range(warming // block if self.kernel.aim else 0):
                x, acceptance = self.kernel(target, x, block, size)
                size = size * (2 * (acceptance.mean() - self.kernel.aim)).exp()
            return Draws(*self.kernel(target, x, self.steps - warming, size), context)
