r"""Paths of densities: from one that is normalized and easy to draw, to a target known up to a constant.

A path has a density :math:`f_\beta` at every inverse temperature :math:`\beta` from 0, where it is normalized, to 1,
where it is the target. Most are geometric, :math:`\log f_\beta = (1 - \beta) \log q + \beta \log f`. What anneals and
tempers (:mod:`~pyrogen.numerics.markov.annealing`, :mod:`~pyrogen.numerics.markov.tempering`) needs of a path is exact
draws at 0, differences of the log-density between two inverse temperatures, and a Markov kernel at each.

Kernels are reversible, so that a path can be walked in both directions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from math import ceil, pi

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyrogen.abstract import Abstract

from .adaptation import reasonable_step_size
from .discrete import block_gibbs, drawn, gibbs_with_gradients
from .mass import DiagonalMass, diagonal_mass
from .moves import hmc
from .state import LogDensity, evaluate

_ACCEPTANCE = 0.9  # high, since a chain that stays adds the same error to its weight once more
_LENGTH = pi / 2  # of a trajectory, after which a normal coordinate of scale one has forgotten where it was


class DensityPath(Abstract):
    """Densities from one that is normalized to the target; abstract.

    Inverse temperatures are tensors, one for all chains or ``(chains,)``.
    """

    @abstractmethod
    def draw(self, chains: int) -> Tensor:
        """Independent exact draws at inverse temperature 0, ``(chains, *event)``."""

    @abstractmethod
    def increment(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The log-density at one inverse temperature minus that at another, ``(chains,)``, in double precision."""

    @abstractmethod
    def move(self, x: Tensor, at: Tensor) -> Tensor:
        """The chains a step further, by a reversible kernel that leaves the density at ``at`` as it is."""

    def tune(self, x: Tensor, at: Tensor) -> Tensor:
        """Moves chains as a pilot run does, whose moves may learn from all chains what later ones use."""
        return self.move(x, at)


class GeometricPath(DensityPath):
    r"""A path on which the log-density goes in a straight line, :math:`(1 - \beta) \log q + \beta \log f`; abstract.

    Args:
        draw: Gives so many exact draws of :math:`q`.
        log_base: The normalized :math:`\log q`.
        log_target: :math:`\log f`.

    Raises:
        FloatingPointError: on the way, the log-density of the target is NaN or infinity.
    """

    def __init__(self, draw: Callable[[int], Tensor], log_base: LogDensity, log_target: LogDensity) -> None:
        self._draw, self.log_base, self.log_target = draw, log_base, log_target

    def draw(self, chains: int) -> Tensor:
        return self._draw(chains)

    def increment(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        with torch.no_grad():
            log_target, log_base = self.log_target(x).double(), self.log_base(x).double()
        lost = log_target.isnan() | log_target.isposinf() | log_base.isnan()
        if lost.any():
            raise FloatingPointError(
                f"the log-density of the target must be below infinity, got {int(lost.sum())} rows of {len(lost)} "
                f"where it is NaN or infinite, the first being {lost.nonzero().flatten()[:10].tolist()}"
            )
        return (end - start) * (log_target - log_base)

    def log_density(self, at: Tensor) -> LogDensity:
        """The log-density at an inverse temperature above 0."""

        def between(x: Tensor) -> Tensor:
            share = at.to(x)
            return (1 - share) * self.log_base(x) + share * self.log_target(x)

        return between


class HamiltonianPath(GeometricPath):
    """A geometric path of densities of real numbers, moved along by Hamiltonian Monte Carlo.

    Trajectories go a quarter around the orbit of a normal coordinate, or as far as their steps take them. Step sizes
    and scales of the coordinates at each inverse temperature are learned in :meth:`tune`, from all chains, and fixed
    afterwards: moves that went on learning would bias the weights of annealing.

    Args:
        draw: Gives so many exact draws of the base.
        log_base: Its log-density.
        log_target: That of the target, up to a constant.
        leapfrog_steps: The most of a trajectory.
    """

    def __init__(
        self, draw: Callable[[int], Tensor], log_base: LogDensity, log_target: LogDensity, *, leapfrog_steps: int
    ) -> None:
        super().__init__(draw, log_base, log_target)
        self.leapfrog_steps = leapfrog_steps
        self._knots: list[tuple[float, Tensor, Tensor]] = []  # inverse temperature, logarithms of step size and scales

    def move(self, x: Tensor, at: Tensor) -> Tensor:
        log_step, log_scale = self._learned(at, x)
        return self._moved(x, at, log_step.exp(), DiagonalMass(log_scale.exp()))[0]

    def tune(self, x: Tensor, at: Tensor) -> Tensor:
        mass = diagonal_mass(x.unsqueeze(1))
        step = self._learned(at, x)[0].exp() if self._knots else self._first_step(x, at, mass)
        for _ in range(4):
            x, acceptance = self._moved(x, at, step, mass)
            step = (step * (acceptance.mean() - _ACCEPTANCE).exp()).clamp(max=_LENGTH)
        self._knots.append((float(at), step.log(), diagonal_mass(x.unsqueeze(1)).scale.log()))
        return x

    def _first_step(self, x: Tensor, at: Tensor, mass: DiagonalMass) -> Tensor:
        log_density = self.log_density(at)
        return x.new_tensor(reasonable_step_size(log_density, evaluate(log_density, x), mass=mass))

    def _moved(self, x: Tensor, at: Tensor, step: Tensor, mass: DiagonalMass) -> tuple[Tensor, Tensor]:
        log_density = self.log_density(at)
        steps = min(ceil(_LENGTH / float(step.min())), self.leapfrog_steps)
        jittered = step.clamp(max=_LENGTH / steps) * (0.8 + 0.4 * torch.rand(len(x), dtype=x.dtype, device=x.device))
        move = hmc(log_density, evaluate(log_density, x), step_size=jittered, steps=steps, mass=mass)
        return move.state.x, move.acceptance

    def _learned(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithms of step size and scales at inverse temperatures, in straight lines between those learned."""
        places, log_steps, log_scales = zip(*self._knots, strict=True)
        places = torch.tensor(places, dtype=torch.double, device=x.device)
        above = torch.searchsorted(places, at.to(places)).clamp(max=len(places) - 1)
        below = (above - 1).clamp(min=0)
        share = ((at - places[below]) / (places[above] - places[below]).clamp(min=1e-300)).clamp(0, 1).to(x)
        steps, scales = torch.stack(log_steps), torch.stack(log_scales)
        wide = share.reshape(share.shape + (1,) * (x.dim() - 1))
        return torch.lerp(steps[below], steps[above], share), torch.lerp(scales[below], scales[above], wide)


class Elements:
    """Independent bits or symbols, from which a path of discrete states begins.

    Args:
        logits: Of each bit, ``(D,)``, or of the symbols of each element, ``(D, K)``.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits if logits.dim() == 1 else logits.log_softmax(-1)

    def draw(self, chains: int) -> Tensor:
        """Independent draws, bits ``(chains, D)`` or one-hot symbols ``(chains, D, K)``."""
        return drawn(self.logits.expand(chains, *self.logits.shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """Their log-probability, linear in the states, ``(chains,)``."""
        constant = softplus(self.logits).sum() if self.logits.dim() == 1 else 0.0
        return (x * self.logits).flatten(1).sum(1) - constant


class InformedPath(GeometricPath):
    """A geometric path of densities of discrete states, moved along by Gibbs sampling with gradients.

    Args:
        base: Where it begins.
        log_target: The log-density of the target, up to a constant, differentiable between the states.
        steps: Of each move; a step changes one element.
    """

    def __init__(self, base: Elements, log_target: LogDensity, *, steps: int) -> None:
        super().__init__(base.draw, base.log_prob, log_target)
        self.steps = steps

    def move(self, x: Tensor, at: Tensor) -> Tensor:
        return gibbs_with_gradients(self.log_density(at), x, steps=self.steps)[0]


class BlockPath(GeometricPath):
    """A geometric path of multilinear densities of discrete states, moved along by Gibbs sampling in blocks.

    Args:
        base: Where it begins.
        log_target: The log-density of the target, up to a constant, linear in each element of the states.
        blocks: For each block which elements are in it, boolean, ``(D,)``: independent given the others.
    """

    def __init__(self, base: Elements, log_target: LogDensity, *, blocks: Sequence[Tensor]) -> None:
        super().__init__(base.draw, base.log_prob, log_target)
        self.blocks = [*blocks, *reversed(blocks[:-1])]  # there and back, which is reversible

    def move(self, x: Tensor, at: Tensor) -> Tensor:
        log_density = self.log_density(at)
        return block_gibbs(lambda x: evaluate(log_density, x).gradient, x, self.blocks)
