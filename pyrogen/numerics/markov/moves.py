r"""Moves: one step of every chain, from the state where they are to the next.

A trajectory of :math:`L` leapfrog steps of size :math:`\epsilon`, with the velocity :math:`v \sim N(0, I)` and the
mass :math:`M^{-1} = A A^\top`, is

.. math:: v \leftarrow v + \tfrac{\epsilon}{2} A^\top \nabla \log f(x), \qquad x \leftarrow x + \epsilon A v, \qquad
    v \leftarrow v + \tfrac{\epsilon}{2} A^\top \nabla \log f(x) .

It preserves volume and can be reversed, and so its end is a draw of the target if it is accepted with probability
:math:`\min\{1, e^{-\Delta H}\}`, of the energy :math:`H = -\log f(x) + |v|^2 / 2`. A single leapfrog step is the
proposal of Langevin dynamics with :math:`h = \epsilon^2 / 2`.

References:
    Neal 2011, "MCMC using Hamiltonian dynamics", https://arxiv.org/abs/1206.1901
    Roberts and Tweedie 1996, "Exponential convergence of Langevin distributions and their discrete approximations",
    https://doi.org/10.2307/3318418
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.numerics.rows import by_datum, column

from .mass import Mass, UnitMass
from .state import ChainState, LogDensity, evaluate

_DIVERGED = 1000.0  # nats of energy that no correct trajectory gains; Stan's threshold
_UNIT = UnitMass()


class Move(NamedTuple):
    """What a move did.

    Attributes:
        state: Where the chains are now.
        acceptance: The probability with which each chain was to move, ``(chains,)``.
        accepted: Whether it did, ``(chains,)``.
        before: Minus the energy where a trajectory began, ``(chains,)``.
        after: Minus the energy where it ended, ``(chains,)``; NaN or minus infinity where it failed.
        proposed: Where the chains were to go.
        velocity: Their velocities there, in the round coordinates of the mass, ``(chains, *event)``.
        time: How long the trajectories were: step size times steps.
    """

    state: ChainState
    acceptance: Tensor
    accepted: Tensor
    before: Tensor
    after: Tensor
    proposed: ChainState
    velocity: Tensor
    time: float | Tensor

    @property
    def diverged(self) -> Tensor:
        """Whether the integrator failed, or the proposed density is not finite, ``(chains,)``."""
        return ~(self.after - self.before > -_DIVERGED)

    @property
    def energy(self) -> Tensor:
        """In nats, of the chains as they are now, ``(chains,)``."""
        return -torch.where(self.accepted, self.after, self.before)


def langevin(
    log_density: LogDensity,
    state: ChainState,
    *,
    step_size: float | Tensor,
    mass: Mass = _UNIT,
    generator: torch.Generator | None = None,
) -> Move:
    r"""A step of unadjusted Langevin dynamics, :math:`x + h M^{-1} \nabla \log f(x) + \sqrt{2 h} A \xi`.

    Its chains draw from a law near the target, as near as the step is small: of a standard normal target the variance
    is :math:`1 / (1 - h / 2)`. A chain whose next density is not finite stays.

    Args:
        log_density: The log-density.
        state: Where the chains are.
        step_size: :math:`h`, one for all chains or ``(chains,)``.
        mass: The scale of the target.
        generator: Where the noise comes from; torch's own if not given.
    """
    size = (2 * step_size) ** 0.5
    velocity = _noise(state.x, generator)
    before = log_joint(state, velocity)
    proposed, velocity = leapfrog(log_density, state, velocity, step_size=size, steps=1, mass=mass)
    after = log_joint(proposed, velocity)
    finite = proposed.log_density.isfinite()
    return Move(proposed.where(finite, state), finite.to(after), finite, before, after, proposed, velocity, size)


def mala(
    log_density: LogDensity,
    state: ChainState,
    *,
    step_size: float | Tensor,
    mass: Mass = _UNIT,
    generator: torch.Generator | None = None,
) -> Move:
    r"""A step of the Metropolis-adjusted Langevin algorithm: :func:`langevin`, accepted so that the target is kept.

    Args:
        log_density: The log-density.
        state: Where the chains are.
        step_size: :math:`h`, one for all chains or ``(chains,)``.
        mass: The scale of the target.
        generator: Where the noise comes from; torch's own if not given.
    """
    size = (2 * step_size) ** 0.5
    return hmc(log_density, state, step_size=size, steps=1, mass=mass, generator=generator)


def hmc(
    log_density: LogDensity,
    state: ChainState,
    *,
    step_size: float | Tensor,
    steps: int,
    mass: Mass = _UNIT,
    generator: torch.Generator | None = None,
) -> Move:
    """A step of Hamiltonian Monte Carlo: a trajectory with a new velocity, and its end accepted or not.

    Args:
        log_density: The log-density.
        state: Where the chains are.
        step_size: Of the leapfrog integrator, one for all chains or ``(chains,)``.
        steps: How many leapfrog steps, each of one gradient.
        mass: The scale of the target.
        generator: Where the noise comes from; torch's own if not given.
    """
    velocity = _noise(state.x, generator)
    before = log_joint(state, velocity)
    proposed, velocity = leapfrog(log_density, state, velocity, step_size=step_size, steps=steps, mass=mass)
    after = log_joint(proposed, velocity)
    ratio = (after - before).exp()  # NaN where either is not finite: such an end is refused
    acceptance = ratio.clamp(max=1).nan_to_num(0.0)
    accepted = torch.rand(ratio.shape, dtype=ratio.dtype, device=ratio.device, generator=generator) < acceptance
    moved = proposed.where(accepted, state)
    return Move(moved, acceptance, accepted, before, after, proposed, velocity, step_size * steps)


def leapfrog(
    log_density: LogDensity,
    state: ChainState,
    velocity: Tensor,
    *,
    step_size: float | Tensor,
    steps: int,
    mass: Mass = _UNIT,
) -> tuple[ChainState, Tensor]:
    """The end of a trajectory, and the velocity there.

    Args:
        log_density: The log-density.
        state: Where the chains are.
        velocity: In the round coordinates of the mass, ``(chains, *event)``.
        step_size: One for all chains or ``(chains,)``.
        steps: How many leapfrog steps.
        mass: The scale of the target.
    """
    size = column(step_size.to(velocity), velocity) if isinstance(step_size, Tensor) else step_size
    half = size / 2
    for _ in range(steps):
        velocity = _moved(velocity, half, mass.adjoint(state.gradient))
        state = evaluate(log_density, _moved(state.x, size, mass.forward(velocity)))
        velocity = _moved(velocity, half, mass.adjoint(state.gradient))
    return state, velocity


def _moved(x: Tensor, time: float | Tensor, velocity: Tensor) -> Tensor:
    """The line :math:`x + t v`, in one operation."""
    return torch.addcmul(x, time, velocity) if isinstance(time, Tensor) else torch.add(x, velocity, alpha=time)


def log_joint(state: ChainState, velocity: Tensor) -> Tensor:
    """The log-density of points and velocities up to a constant, minus the energy, ``(chains,)``."""
    square = by_datum(velocity, velocity.dim() - 1).square().sum(1)
    return torch.sub(state.log_density, square, alpha=0.5)


def _noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
