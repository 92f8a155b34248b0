r"""Sampling: many chains from where they start to draws of the target.

First chains *warm up*. After a few moves that each makes with a step size of its own, all learn one step size and one
trajectory length at every move, and the mass at the end of windows, each half as long again as the one before, from the
draws of all chains in the window. Then the settings are fixed, and moves are draws.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, function, inner_share, integer, positive

from .adaptation import DualAveraging, TrajectoryLength, approach, halton, reasonable_step_size
from .mass import DiagonalMass, LowRankMass, Mass, UnitMass, low_rank_mass
from .moves import Move, hmc, langevin
from .state import ChainState, LogDensity, start

_MASSES = {kind.__name__: kind for kind in (UnitMass, DiagonalMass, LowRankMass)}
_QUIET = 0.1  # of the warm-up before the first window, and twice as much after the last
_FIRST = 0.05  # of the warm-up in the first window
_LEAST = 5  # moves in a window
_GROWTH = 1.5  # of a window over the one before
_ALONE = 40  # moves at most that chains make with step sizes of their own
_SHORT = 10  # leapfrog steps of a trajectory, from which its length is learned anew under another mass


class AdaptiveKernel(ABC):
    """Moves of many chains, whose settings are learned while the chains warm up.

    A kernel is a template: each run has a copy of its own.

    Args:
        mass: What learns the mass from draws ``(chains, draws, D)``.
    """

    def __init__(self, mass: Callable[[Tensor], Mass]) -> None:
        self.learn_mass, self.mass = mass, UnitMass()

    @abstractmethod
    def move(self, log_density: LogDensity, state: ChainState, number: int, generator: torch.Generator) -> Move:
        """A move of all chains, the ``number``-th of the run."""

    @abstractmethod
    def begin(self, log_density: LogDensity, state: ChainState, generator: torch.Generator) -> None:
        """Finds the first settings for a mass."""

    @abstractmethod
    def learn(self, before: ChainState, move: Move) -> None:
        """Learns from a move, and from where the chains were before."""

    def shape(self, draws: Tensor) -> None:
        """Learns the mass from draws of all chains, ``(chains, draws, D)``."""
        self.mass = self.learn_mass(draws)

    def settle(self) -> None:  # noqa: B027
        """Fixes the settings: the chains are warm."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the kernel was made with, in numbers and words: a run goes on with the same."""
        return {"kernel": type(self).__name__, "learn_mass": getattr(self.learn_mass, "__name__", "")}

    def state_dict(self) -> dict[str, Any]:
        """All that was learned, in numbers and tensors."""
        kept = [getattr(self.mass, entry.name) for entry in fields(self.mass)] if self.mass.__dict__ else []
        return {"mass": type(self.mass).__name__, "tensors": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what another copy of the kernel has learned."""
        self.mass = _MASSES[state["mass"]](*state["tensors"])


class AdaptiveHMC(AdaptiveKernel):
    """Hamiltonian Monte Carlo whose step size, trajectory length (by ChEES) and mass are learned from all chains.

    With ``steps=1`` this is the Metropolis-adjusted Langevin algorithm.

    Args:
        steps: How many leapfrog steps a trajectory has on average, if not learned; their numbers are spread evenly.
        target_acceptance: The harmonic mean over chains of their acceptance; .65 if not given, .574 for one step.
        mass: What learns the mass from draws ``(chains, draws, D)``:
            :func:`~pyrogen.numerics.markov.mass.diagonal_mass` where there are thousands of numbers.
        most_steps: The most leapfrog steps that trajectories may have on average.

    References:
        Hoffman, Radul and Sountsov 2021, "An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
        Carlo", https://proceedings.mlr.press/v130/hoffman21a.html
    """

    @checked(target_acceptance=inner_share, mass=function, most_steps=integer)
    def __init__(
        self,
        *,
        steps: int | None = None,
        target_acceptance: float | None = None,
        mass: Callable[[Tensor], Mass] = low_rank_mass,
        most_steps: int = 500,
    ) -> None:
        super().__init__(mass)
        self.steps, self.most_steps = steps, most_steps
        self.target_acceptance = target_acceptance or (0.574 if steps == 1 else 0.65)
        self.step: DualAveraging | None = None
        self.length: TrajectoryLength | None = None

    def begin(self, log_density: LogDensity, state: ChainState, generator: torch.Generator) -> None:
        first = 1.0 if self.step is None else self.step.step_size
        size = reasonable_step_size(log_density, state, step_size=first, mass=self.mass, generator=generator)
        # Of a standard normal target, to which a mass brings others, the best length is about one; but a mass learned
        # from chains on their way may be far too wide, and then as long a trajectory takes very many steps.
        self.length = TrajectoryLength(2 * size if self.step is None else min(_SHORT * size, 1.0))
        self.step = DualAveraging(size, target=self.target_acceptance)

    def move(self, log_density: LogDensity, state: ChainState, number: int, generator: torch.Generator) -> Move:
        size, steps = self.step.step_size, self._steps(number)
        return hmc(log_density, state, step_size=size, steps=steps, mass=self.mass, generator=generator)

    def learn(self, before: ChainState, move: Move) -> None:
        if self.steps is None:
            self.length.update(before, move, mass=self.mass)
        self.step.update(move)

    def settle(self) -> None:
        self.step.step_size, self.length.length = self.step.average, self.length.average

    @property
    def settings(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("steps", "target_acceptance", "most_steps")}
        return {**super().settings, **own}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "step": asdict(self.step), "length": asdict(self.length)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.step, self.length = DualAveraging(**state["step"]), TrajectoryLength(**state["length"])

    def _steps(self, number: int) -> int:
        """Evenly from one up, with the mean that is wanted."""
        mean = self.steps or max(1.0, min(self.length.length / self.step.step_size, self.most_steps))
        return 1 + math.floor(halton(number) * (2 * mean - 1))


class UnadjustedLangevin(AdaptiveKernel):
    r"""Unadjusted Langevin dynamics: one gradient a draw, of a law near the target.

    Chains warm up by the adjusted algorithm, from which the mass comes.

    Args:
        step_size: :math:`h`, in units of the mass: of a standard normal target the variance is :math:`1 / (1 - h / 2)`.
        mass: What learns the mass from draws ``(chains, draws, D)``.
    """

    @checked(step_size=positive, mass=function)
    def __init__(self, *, step_size: float = 0.1, mass: Callable[[Tensor], Mass] = low_rank_mass) -> None:
        super().__init__(mass)
        self.step_size, self.settled = step_size, False
        self.adjusted = AdaptiveHMC(steps=1, mass=mass)

    def begin(self, log_density: LogDensity, state: ChainState, generator: torch.Generator) -> None:
        self.adjusted.mass = self.mass
        self.adjusted.begin(log_density, state, generator)

    def move(self, log_density: LogDensity, state: ChainState, number: int, generator: torch.Generator) -> Move:
        if not self.settled:
            return self.adjusted.move(log_density, state, number, generator)
        return langevin(log_density, state, step_size=self.step_size, mass=self.mass, generator=generator)

    def learn(self, before: ChainState, move: Move) -> None:
        self.adjusted.learn(before, move)

    def settle(self) -> None:
        self.settled = True

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "step_size": self.step_size}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "settled": self.settled, "adjusted": self.adjusted.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.settled = state["settled"]
        self.adjusted.load_state_dict(state["adjusted"])


class Sampling:
    """Chains on their way: they warm up, and then every move gives a draw of each.

    Args:
        log_density: The log-density.
        x: Where the chains start, ``(chains, D)``.
        kernel: How they move.
        warmup: How many moves warm them up.
        generator: Where the noise comes from.

    Attributes:
        number: How many moves there were.
        state: Where the chains are.

    Raises:
        ValueError: the log-density or its gradient is not finite where a chain starts.

    Example:
        >>> chains = Sampling(lambda x: -x.square().sum(1) / 2, torch.zeros(8, 2), AdaptiveHMC(), warmup=50)
        >>> draws = torch.stack([move.state.x for move in chains.moves(100)], 1)
        >>> draws.shape
        torch.Size([8, 100, 2])
    """

    def __init__(
        self,
        log_density: LogDensity,
        x: Tensor,
        kernel: AdaptiveKernel,
        *,
        warmup: int,
        generator: torch.Generator | None = None,
    ) -> None:
        self.log_density, self.kernel, self.warmup = log_density, deepcopy(kernel), warmup
        self.generator = generator or torch.Generator(x.device).manual_seed(torch.randint(2**62, ()).item())
        self.windows = windows(warmup)
        self.number, self.seen = 0, []
        alone = min(warmup, _ALONE)
        self.state = approach(log_density, start(log_density, x), moves=alone, generator=self.generator)
        self.kernel.begin(log_density, self.state, self.generator)

    @property
    def warm(self) -> bool:
        """Whether the next move is a draw."""
        return self.number >= self.warmup

    def move(self) -> Move:
        """One move, and what is learned from it while chains warm up."""
        before, warm = self.state, self.warm
        move = self.kernel.move(self.log_density, before, self.number, self.generator)
        self.state, self.number = move.state, self.number + 1
        if not warm:
            self._learn(before, move)
        return move

    def moves(self, draws: int) -> Iterator[Move]:
        """The moves of so many draws, after those of the rest of the warm-up."""
        while not self.warm:
            self.move()
        return (self.move() for _ in range(draws))

    def _learn(self, before: ChainState, move: Move) -> None:
        self.kernel.learn(before, move)
        if self.windows and self.number > self.windows[0]:
            self.seen.append(move.state.x)
        if self.number in self.windows[1:]:
            self.kernel.shape(torch.stack(self.seen, 1))
            self.kernel.begin(self.log_density, self.state, self.generator)
            self.seen = []
        if self.number == self.warmup:
            self.kernel.settle()

    def state_dict(self) -> dict[str, Any]:
        """All that the moves to come depend on, in numbers and tensors."""
        return {
            "number": self.number,
            "warmup": self.warmup,
            "state": tuple(self.state),
            "seen": list(self.seen),
            "kernel": self.kernel.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where another run of the same chains was, to the last random number."""
        self.number, self.warmup = state["number"], state["warmup"]
        self.windows = windows(self.warmup)
        self.state, self.seen = ChainState(*state["state"]), list(state["seen"])
        self.kernel.load_state_dict(state["kernel"])
        self.generator.set_state(state["generator"].cpu())


def windows(warmup: int) -> list[int]:
    """The moves between which masses are learned: where the first window begins, and where each ends."""
    ends, last = [round(_QUIET * warmup)], round((1 - 2 * _QUIET) * warmup)
    size = max(_LEAST, round(_FIRST * warmup))
    while ends[-1] + (1 + _GROWTH) * size <= last:  # there is room for another one
        ends.append(ends[-1] + size)
        size = round(_GROWTH * size)
    return [*ends, last] if last - ends[-1] >= _LEAST else []
