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
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from pyrogen.abstract import Abstract
from pyrogen.core.shapes import Context

if TYPE_CHECKING:
    from .model import EnergyModule


class Moved(NamedTuple):
    """Where chains are after some steps.

    Attributes:
        x: Events as numbers, ``(N, *event)``.
        acceptance: The share of steps that each chain accepted, ``(N,)``.
    """

    x: Tensor
    acceptance: Tensor


class Target(NamedTuple):
    """An energy under given contexts, one for each row.

    Attributes:
        module: The energy.
        context: ``(N, *context_shape)``, or ``None``.
    """

    module: EnergyModule
    context: Context

    def log_density(self, x: Tensor) -> Tensor:
        """Minus the energies of events as numbers, ``(N, *event)`` to ``(N,)``."""
        return -self.module.energies(x, self.context)


class Kernel(Abstract):
    """A Markov kernel that leaves the distribution of an energy as it is; abstract.

    Attributes:
        aim: The acceptance at which its step size is best; ``None`` where it has no step size.
    """

    aim: float | None = None

    @abstractmethod
    def __call__(self, target: Target, x: Tensor, steps: int, step_size: Tensor) -> Moved:
        """The chains after so many steps.

        Args:
            target: What they draw from.
            x: Where they are, events as numbers, ``(N, *event)``.
            steps: How many.
            step_size: In standard deviations of the coordinates; a number, in a tensor of no dimensions.
        """

    def first_step_size(self, dimensions: int) -> float:
        """The step size to begin with for events of so many numbers."""
        return 1.0
