"""Whether the chains of an energy have mixed, and how many independent draws theirs are worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrogen.arguments import checked
from pyrogen.core.modes import evaluating
from pyrogen.core.shapes import Context, context_batch_shape
from pyrogen.networks.context import context_rows
from pyrogen.numerics.markov.convergence import effective_sample_size, r_hat

from .chains import FreshChains
from .kernels import EnergyTarget
from .model import EnergyModule

_MOST = 1.05


@dataclass(frozen=True)
class ChainMixing:
    """How well chains mix.

    Attributes:
        r_hat: The largest over the elements of events and the energy; near one where chains from different starts
            draw alike.
        effective_sample_size: The smallest over the same, of all draws together.
        acceptance: The mean share of steps that were accepted.
        draws: How many there were.
    """

    r_hat: float
    effective_sample_size: float
    acceptance: float
    draws: int

    @property
    def mixed(self) -> bool:
        """Whether the chains have met: an R-hat of at most 1.05."""
        return self.r_hat <= _MOST

    def __str__(self) -> str:
        verdict = "mixed" if self.mixed else "NOT MIXED: more steps, another kernel, or a base nearer the target"
        return (
            f"R-hat {self.r_hat:.3f}, {self.effective_sample_size:.0f} effective of {self.draws} draws, acceptance "
            f"{self.acceptance:.2f}: {verdict}"
        )


@checked
@torch.no_grad()
def mixing(
    energy: EnergyModule, context: Context = None, *, chains: int = 64, draws: int = 50, every: int = 5
) -> ChainMixing:
    """Runs chains of an energy side by side from where they start, and compares them.

    Chains that all miss a mode agree with each other: no comparison of chains shows what none of them has found.

    Args:
        energy: What they draw from; its chains have a kernel, and the number of steps that are left out at first.
        context: A single context, if it has any.
        chains: How many.
        draws: How many of each, at least four.
        every: How many steps there are from one to the next.

    Raises:
        ValueError: there are several contexts.

    Example:
        >>> print(mixing(pg.energy.mlp((2,), hidden=(8,)), chains=32).mixed)
        True
    """
    if context_batch_shape(context, energy.context_shape):
        raise ValueError("`context` must be a single one, got several")
    rows = context_rows(context, energy.context_shape, (chains,))
    with evaluating(energy):
        warm = FreshChains(energy.chains.kernel, steps=energy.chains.steps)
        warm.prepare(energy)
        target, (x, _, _), size = EnergyTarget(energy, rows), warm.draw(energy, chains, rows), warm.step_size
        moved, found, acceptance = energy.chains.kernel(target, x, 0, size), [], x.new_zeros(())
        for _ in range(draws):
            moved = energy.chains.kernel.go_on(target, moved, every, size)
            found.append(torch.cat([moved.x.reshape(chains, -1), target.log_density(moved.x).unsqueeze(-1)], -1))
            acceptance = acceptance + moved.acceptance.mean() / draws
    return _compared(torch.stack(found, 1).double(), acceptance.item())


def _compared(values: Tensor, acceptance: float) -> ChainMixing:
    """Chains ``(chains, draws, numbers)``; numbers that never change are left out."""
    moving = values[..., values.flatten(0, 1).var(0) > 0]
    worst = r_hat(moving).nan_to_num(torch.inf, posinf=torch.inf).max().item() if moving.shape[-1] else float("inf")
    size = effective_sample_size(moving).nan_to_num(0.0).min().item() if moving.shape[-1] else 0.0
    return ChainMixing(worst, size, acceptance, values.shape[0] * values.shape[1])
