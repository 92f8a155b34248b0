r"""Kernels: what moves the chains of an energy, and leaves its distribution as it is.

A kernel moves many chains at once, one for each row, and each as if it were alone. Events are numbers here: real
events as they are, bits as zeros and ones, symbols as one-hot vectors. Chains of real events move in the *coordinates*
of the energy, in which the distribution that they start from is standard normal: noise sent through the coordinates'
transform :math:`T` is an event, and the target in them is :math:`-E(T(z)) + \log |\det \partial T / \partial z|`.
There are no bounds to run into, data units do not matter, and a flow as base makes the coordinates those of its noise.

References:
    Hoffman, Sountsov, Dillon, Langmore, Tran and Vasudevan 2019, "NeuTra-lizing bad geometry in Hamiltonian Monte Carlo
    using neural transport", https://arxiv.org/abs/1903.03704
    Nijkamp, Gao, Sountsov, Vasudevan, Pang, Zhu and Wu 2020, "MCMC should mix: learning energy-based model with neural
    transport latent space MCMC", https://arxiv.org/abs/2006.06897
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import isfinite, prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked, integer, positive
from pyrogen.core.batch import map_tensors
from pyrogen.core.shapes import Context
from pyrogen.networks.statistics import listed
from pyrogen.numerics.markov import discrete
from pyrogen.numerics.markov.moves import Move, hmc, langevin
from pyrogen.numerics.markov.state import ChainState, LogDensity, evaluate
from pyrogen.transforms.transform import Transform

if TYPE_CHECKING:
    from .model import EnergyModule


class Moved(NamedTuple):
    """Where chains are after some steps.

    Attributes:
        x: Events as numbers, ``(N, *event)``.
        acceptance: The share of steps that each chain accepted, ``(N,)``.
        state: Of chains of real events the state in the coordinates, with the gradient there, to go on from.
    """

    x: Tensor
    acceptance: Tensor
    state: ChainState | None = None


@dataclass(frozen=True)
class EnergyTarget:
    """An energy under given contexts, one for each row.

    Args:
        module: The energy.
        context: ``(N, *context_shape)``, or ``None``.
    """

    module: EnergyModule
    context: Context

    def log_density(self, x: Tensor) -> Tensor:
        """Minus the energies of events as numbers, ``(N, *event)`` to ``(N,)``."""
        return -self.module.energies(x, self.context)

    @cached_property
    def in_coordinates(self) -> tuple[Transform, LogDensity]:
        """The coordinates of real events, and the log-density in them."""
        return self.module.in_coordinates(self.context)

    def repeated(self, times: int) -> EnergyTarget:
        """The same for so many times the rows, one set after the other."""
        return self if times == 1 else EnergyTarget(self.module, repeated(self.context, times))


@dataclass(frozen=True)
class NearTarget(EnergyTarget):
    r"""An energy near points: :math:`e^{-E} e^{-|z - z_0|^2 / 2 \sigma^2}` in the coordinates.

    Args:
        module: The energy.
        context: ``(N, *context_shape)``, or ``None``.
        centre: The points, in coordinates, ``(N, *event_shape)``.
        spread: The deviation from them.
    """

    centre: Tensor
    spread: float

    @cached_property
    def in_coordinates(self) -> tuple[Transform, LogDensity]:
        coordinates, log_density = super().in_coordinates

        def near(z: Tensor) -> Tensor:
            distance = (z - self.centre).square().reshape(len(z), -1).sum(1)
            return log_density(z) - distance / (2 * self.spread**2)

        return coordinates, near


class TransitionKernel(Abstract):
    """A Markov kernel that leaves the distribution of an energy as it is; abstract.

    Attributes:
        aim: The acceptance at which its step size is best; ``None`` where it has no step size.
    """

    aim: float | None = None

    def require(self, module: EnergyModule) -> None:
        """Refuses energies whose events it cannot move; here it moves any.

        Raises:
            NotImplementedError: it cannot.
        """

    @abstractmethod
    def __call__(self, target: EnergyTarget, x: Tensor, steps: int, step_size: Tensor) -> Moved:
        """The chains after so many steps.

        Args:
            target: What they draw from.
            x: Where they are, events as numbers, ``(N, *event)``.
            steps: How many.
            step_size: In standard deviations of the coordinates: one, in a tensor of no dimensions, or one for each
                chain, ``(N,)``.
        """

    def go_on(self, target: EnergyTarget, moved: Moved, steps: int, step_size: Tensor) -> Moved:
        """The chains so many steps further, from where a call for the same target left them."""
        return self(target, moved.x, steps, step_size)

    def first_step_size(self, dimensions: int) -> float:
        """The step size to begin with for events of so many numbers."""
        return 1.0


class GradientKernel(TransitionKernel):
    """A kernel of real events, whose moves follow the gradient in the coordinates; abstract.

    Attributes:
        lossless: Whether a proposal of an energy that is not finite is an error, and not one that is refused.
    """

    lossless: bool = False

    def require(self, module: EnergyModule) -> None:
        if module.symbols is not None:
            raise NotImplementedError(
                f"{type(self).__name__} moves real events, got {module.support}; use Gibbs or GibbsWithGradients"
            )

    @abstractmethod
    def move(self, step_size: float | Tensor) -> Callable[[LogDensity, ChainState], Move]:
        """What moves chains a step, of one size or of one for each, ``(N,)``."""

    @torch.no_grad()
    def __call__(self, target: EnergyTarget, x: Tensor, steps: int, step_size: Tensor) -> Moved:
        coordinates, log_density = target.in_coordinates
        state = evaluate(log_density, coordinates._inverse(x))
        require_finite(state.log_density, "points that chains start from")
        return self.go_on(target, Moved(x, state.log_density, state), steps, step_size)

    @torch.no_grad()
    def go_on(self, target: EnergyTarget, moved: Moved, steps: int, step_size: Tensor) -> Moved:
        coordinates, log_density = target.in_coordinates
        move = self.move(step_size if step_size.dim() else step_size.item())
        state, acceptance = moved.state, torch.zeros_like(moved.acceptance)
        for _ in range(steps):
            found = move(log_density, state)
            if self.lossless:
                require_finite(found.proposed.log_density, "chains")
            state = found.state
            acceptance += found.acceptance
        return Moved(coordinates(state.x), acceptance / max(steps, 1), state)


class Langevin(GradientKernel):
    r"""Langevin dynamics with a step size that stays, and no correction of its error.

    The chains draw from a law near the target's: of a standard normal in the coordinates, the variance is
    :math:`1 / (1 - h / 2)` for the step size :math:`h` of :math:`z - h \nabla E + \sqrt{2 h}\, \xi`.

    Args:
        step_size: :math:`h`, in squared standard deviations of the coordinates.

    Raises:
        FloatingPointError: when it moves, an energy is not finite.
    """

    lossless = True

    @checked(step_size=positive)
    def __init__(self, step_size: float = 0.1) -> None:
        self.step_size = step_size

    def first_step_size(self, dimensions: int) -> float:
        return self.step_size

    def move(self, step_size: float | Tensor) -> Callable[[LogDensity, ChainState], Move]:
        return partial(langevin, step_size=step_size)


class AdjustedLangevin(GradientKernel):
    """Langevin dynamics whose steps are accepted so that the distribution is kept exactly (MALA)."""

    aim = 0.574

    def first_step_size(self, dimensions: int) -> float:
        return dimensions ** (-1 / 3)

    def move(self, step_size: float | Tensor) -> Callable[[LogDensity, ChainState], Move]:
        return partial(hmc, step_size=(2 * step_size) ** 0.5, steps=1)


class HamiltonianMonteCarlo(GradientKernel):
    """Trajectories of several gradients, whose ends are accepted so that the distribution is kept exactly.

    Step sizes vary by a fifth from trajectory to trajectory: one that goes around an orbit would come to nothing new.

    Args:
        leapfrog_steps: How many gradients a trajectory has.
    """

    aim = 0.7

    @checked(leapfrog_steps=integer)
    def __init__(self, leapfrog_steps: int = 5) -> None:
        self.leapfrog_steps = leapfrog_steps

    def first_step_size(self, dimensions: int) -> float:
        return dimensions**-0.25

    def move(self, step_size: float | Tensor) -> Callable[[LogDensity, ChainState], Move]:
        def moved(log_density: LogDensity, state: ChainState) -> Move:
            jitter = 0.8 + 0.4 * torch.rand(len(state.x), dtype=state.x.dtype, device=state.x.device)
            return hmc(log_density, state, step_size=step_size * jitter, steps=self.leapfrog_steps)

        return moved


class DiscreteKernel(TransitionKernel):
    """A kernel of bits or symbols; abstract."""

    def require(self, module: EnergyModule) -> None:
        if module.symbols is None:
            raise NotImplementedError(
                f"{type(self).__name__} moves bits or symbols, got {module.support}; use AdjustedLangevin or "
                "HamiltonianMonteCarlo"
            )


class Gibbs(DiscreteKernel):
    """Sweeps in which every bit or symbol is drawn given all others."""

    def __call__(self, target: EnergyTarget, x: Tensor, steps: int, step_size: Tensor) -> Moved:
        drawn = discrete.gibbs(_of_vectors(target, x), _vectors(target, x), sweeps=steps)
        return Moved(drawn.reshape(x.shape), x.new_ones(len(x)))


class GibbsWithGradients(DiscreteKernel):
    """Single changes of bits or symbols, proposed by how much the gradient predicts that they gain.

    Args:
        changes: How many are proposed a step.
    """

    @checked(changes=integer)
    def __init__(self, changes: int = 1) -> None:
        self.changes = changes

    def __call__(self, target: EnergyTarget, x: Tensor, steps: int, step_size: Tensor) -> Moved:
        steps *= self.changes
        drawn, acceptance = discrete.gibbs_with_gradients(_of_vectors(target, x), _vectors(target, x), steps=steps)
        return Moved(drawn.reshape(x.shape), acceptance)


def repeated(context: Context, times: int) -> Context:
    """The rows of a context so many times, one set after the other."""
    return map_tensors((context,), lambda rows: torch.cat([rows] * times))[0]


def require_finite(energies: Tensor, what: str) -> None:
    """Refuses energies, or log-densities, that are not finite.

    Raises:
        FloatingPointError: some are not; their rows are named.
    """
    if isfinite(energies.detach().sum()):  # which is quicker to see than of each, and may overflow all the same
        return
    numbers = (~energies.isfinite()).nonzero().flatten().tolist()
    if numbers:
        raise FloatingPointError(
            f"the energies of {len(numbers)} of {len(energies)} {what} are not finite, {listed('row', numbers)}: the "
            "energy has no ground there (give it a `base`, or bounds), or a step of training was too large"
        )


def _vectors(target: EnergyTarget, x: Tensor) -> Tensor:
    """Bits ``(N, D)`` or one-hot symbols ``(N, D, K)`` of events of any shape."""
    size = prod(target.module.event_shape)
    return x.reshape(len(x), size, *x.shape[1 + len(target.module.event_shape) :])


def _of_vectors(target: EnergyTarget, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The log-density of bits or symbols in a row."""

    def log_density(vectors: Tensor) -> Tensor:
        return target.repeated(len(vectors) // len(x)).log_density(vectors.reshape(len(vectors), *x.shape[1:]))

    return log_density
