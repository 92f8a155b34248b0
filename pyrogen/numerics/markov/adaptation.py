r"""Adaptation: step sizes and trajectory lengths, learned while chains warm up and fixed afterwards.

All chains share them, so every chain contributes to what the next move of all is.

References:
    Hoffman and Gelman 2014, "The No-U-Turn sampler", https://www.jmlr.org/papers/v15/hoffman14a.html
    Hoffman, Radul and Sountsov 2021, "An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
    Carlo", https://proceedings.mlr.press/v130/hoffman21a.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pyrogen.numerics.rows import by_datum

from .mass import Mass, UnitMass
from .moves import Move, hmc
from .state import ChainState, LogDensity

_STUCK = 0.01  # acceptance of a chain that counts as stuck
_APPROACH = 3  # leapfrog steps of a trajectory before all chains share a step size


@dataclass
class DualAveraging:
    r"""The step size at which chains accept as often as wanted (section 3.2 of Hoffman and Gelman 2014).

    The acceptance of many chains is their harmonic mean, which a chain that is stuck pulls down: the step is one at
    which all chains move, and their plain mean is higher.

    Attributes:
        step_size: For the next move.
        target: The wanted acceptance.
        centre: Towards which the logarithm of the step size is drawn: that of the first one.
        error: The running mean of how far acceptance falls short.
        log_average: The logarithm of the average step size.
        count: How many updates there were.
    """

    step_size: float
    target: float = 0.65
    centre: float | None = None
    error: float = 0.0
    log_average: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        if self.centre is None:
            self.centre = math.log(self.step_size)

    def update(self, move: Move) -> None:
        """Learns from a move."""
        self.count += 1
        acceptance = 1 / (1 / move.acceptance.clamp(min=_STUCK)).mean().item()
        self.error += (self.target - acceptance - self.error) / (self.count + 10)
        log_step = self.centre - self.count**0.5 / 0.05 * self.error
        self.log_average += self.count**-0.75 * (log_step - self.log_average)
        self.step_size = math.exp(log_step)

    @property
    def average(self) -> float:
        """The step size to keep when warming up is over."""
        return math.exp(self.log_average) if self.count else self.step_size


@dataclass
class TrajectoryLength:
    r"""The length of trajectories that moves the squared distance from the centre most (ChEES).

    Of chains at :math:`z` whose proposals are at :math:`z'`, in the round coordinates of the mass, the criterion is
    :math:`\tfrac14 E[(|z' - E z'|^2 - |z - E z|^2)^2]`. Its gradient in the length of the trajectory comes from the
    velocities :math:`v'` at the end, and Adam climbs it. Trajectories are spread evenly from zero to twice the
    length by a Halton sequence, without which chains come back to where they were where the target is periodic.

    Attributes:
        length: The mean length of trajectories, in time.
        rate: The learning rate of the logarithm of the length.
        square: The running mean of the squared gradient.
        log_average: The logarithm of the average length.
        count: How many updates there were.
    """

    length: float
    rate: float = 0.05
    square: float = 0.0
    log_average: float = 0.0
    count: int = 0

    def update(self, before: ChainState, move: Move, *, mass: Mass) -> None:
        """Learns from a move.

        Args:
            before: Where the chains were.
            move: What it did.
            mass: The mass it was made with.
        """
        weight = move.acceptance / move.acceptance.sum().clamp(min=1e-10)
        event_dim = move.velocity.dim() - 1
        old, new = (by_datum(mass.inverse(state.x), event_dim) for state in (before, move.proposed))
        old = old - old.mean(0)
        new = torch.where(weight.unsqueeze(1) > 0, new, 0.0)
        new = new - weight @ new
        grown = new.square().sum(1) - old.square().sum(1)
        slope = move.time * weight * grown * (new * by_datum(move.velocity, event_dim)).sum(1)
        self._climb(slope.nan_to_num(0.0, 0.0, 0.0).sum().item())

    def _climb(self, gradient: float) -> None:
        self.count += 1
        self.square += 0.05 * (gradient**2 - self.square)
        size = (self.square / (1 - 0.95**self.count)) ** 0.5
        log_length = math.log(self.length) + self.rate * gradient / (size + 1e-20)
        self.log_average += self.count**-0.75 * (log_length - self.log_average)
        self.length = math.exp(log_length)

    @property
    def average(self) -> float:
        """The length to keep when warming up is over."""
        return math.exp(self.log_average) if self.count else self.length


def halton(number: int) -> float:
    """A number of the Halton sequence in base two, from 1/2 on: its binary digits mirrored at the point."""
    digits = f"{number + 1:b}"
    return int(digits[::-1], 2) / 2 ** len(digits)


def approach(
    log_density: LogDensity, state: ChainState, *, moves: int, generator: torch.Generator | None = None
) -> ChainState:
    """Chains some moves nearer to where the density is high, each with a step size of its own.

    Where chains start, the density of one may be millions of times as steep as that of another: steps that all can make
    would let most stand still. A step size doubles when its chain is likely to move, and is halved otherwise.

    Args:
        log_density: The log-density.
        state: Where the chains are.
        moves: How many.
        generator: Where the noise comes from; torch's own if not given.
    """
    size = torch.ones_like(state.log_density)
    for _ in range(moves):
        move = hmc(log_density, state, step_size=size, steps=_APPROACH, generator=generator)
        state, size = move.state, size * torch.where(move.acceptance > 0.5, 2.0, 0.5)
    return state


def reasonable_step_size(
    log_density: LogDensity,
    state: ChainState,
    *,
    step_size: float = 1.0,
    mass: Mass | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """A step size, found by doubling or halving, at which about half of single leapfrog steps are accepted.

    Algorithm 4 of Hoffman and Gelman 2014, for the mean acceptance of all chains.

    Args:
        log_density: The log-density.
        state: Where the chains are.
        step_size: Where the search starts.
        mass: The scale of the target; one if not given.
        generator: Where the noise comes from; torch's own if not given.
    """
    mass = mass or UnitMass()

    def often(size: float) -> bool:
        move = hmc(log_density, state, step_size=size, steps=1, mass=mass, generator=generator)
        return move.acceptance.mean().item() > 0.5

    up = often(step_size)
    for _ in range(50):
        following = step_size * (2.0 if up else 0.5)
        if often(following) != up:
            return step_size if up else following
        step_size = following
    return step_size
