"""The likelihood's gradient by draws of Markov chains."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from pyrogen.arguments import checked, instance_of
from pyrogen.core.batch import joined
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import Context, require_one_context_each
from pyrogen.networks.statistics import Statistic

from .chains import Chains, PersistentChains
from .kernels import require_finite
from .model import EnergyModule

_LIMIT = 100.0  # nats an element


class EnergyObjective(Objective):
    """A loss of an energy, called with events and their contexts; abstract.

    Args:
        energy: What is trained.
    """

    @checked(energy=instance_of(EnergyModule))
    def __init__(self, energy: EnergyModule) -> None:
        super().__init__()
        self.energy = energy

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.energy.read_data(x, context)


class ContrastiveDivergence(EnergyObjective):
    r"""Maximum likelihood, its second phase by Markov chains: :math:`E(x) - E(x^-)` with draws :math:`x^-`.

    Its gradient is that of minus the log-likelihood as far as the chains have come; its value is a difference that
    approaches zero, and no measure of how good the energy is. There is no penalty in it: where it comes to rest, draws
    have the energies of data. Where the energy changes faster than its chains move, the difference runs away: beyond
    100 nats an element ``fit`` takes the run to have diverged. A smaller learning rate, or more steps of the chains, is
    the way out.

    Args:
        energy: What is trained.
        chains: Where draws come from: :class:`~pyrogen.energy.chains.DataChains` for contrastive divergence,
            :class:`~pyrogen.energy.chains.FreshChains` for short runs from noise. ``None``:
            :class:`~pyrogen.energy.chains.PersistentChains` of the energy's kernel, 1,024 chains of 10 steps.

    Raises:
        FloatingPointError: when called, energies of data or draws are not finite; their rows are named.

    References:
        Hinton 2002, "Training products of experts by minimizing contrastive divergence",
        https://doi.org/10.1162/089976602760128018
    """

    unit = "nats of energy between data and draws"
    measures = False

    @checked(chains=instance_of(Chains))
    def __init__(self, energy: EnergyModule, *, chains: Chains | None = None) -> None:
        super().__init__(energy)
        self.chains = PersistentChains(energy.chains.kernel, size=1024, steps=10) if chains is None else chains
        self.chains.prepare(energy)
        self.limit = _LIMIT * max(1, prod(energy.event_shape))

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        energy = self.energy
        require_one_context_each(x, context, energy.event_shape, energy.context_shape)
        data = energy.numbers(x)
        draws = self.chains.draw(energy, len(x), context, data)
        both, contexts = (
            joined([(data, context), (draws.x, draws.context)])
            if context is not None
            else (torch.cat([data, draws.x]), None)
        )
        energies = energy.energies(both, contexts)
        of_data, of_draws = energies[: len(x)], energies[len(x) :]
        require_finite(of_data, "data")
        require_finite(of_draws, "draws")
        return of_data.mean() - of_draws.mean()
