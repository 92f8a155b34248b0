r"""Learning by classifying data against noise of known density, which finds the normalizer as well.

With :math:`\nu` draws of noise :math:`q` for each datum, the log-odds that an event is one of the data are

.. math:: h(x) = -E(x) - \log Z - \log q(x) - \log \nu ,

and a classifier with these odds has the least log-loss where :math:`e^{-E} / Z` is the density of the data, so that
:math:`\log Z` is a parameter like others. It is learned well where noise and data overlap: where a classifier has
nothing to do, because no noise looks like data, there is nothing to be learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrogen.arguments import checked, instance_of
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import Context, context_of_part, require_one_context_each
from pyrogen.networks.statistics import ReadsData, Statistic
from pyrogen.training.turn import TakesTurns, Turn

from .contrastive import EnergyObjective
from .kernels import repeated, require_finite
from .model import EnergyModule, evaluate_frozen


class NoiseContrastive(EnergyObjective):
    """Noise-contrastive estimation: the log-loss of telling data from noise.

    Args:
        energy: What is trained.
        noise: A distribution of exact density, with no context or that of the energy; what chains of the energy start
            from if ``None``. It is not trained.
        draws: How many draws of noise there are for each datum.

    Attributes:
        log_normalizer: The estimate of the logarithm of the normalizer, a parameter. With contexts it is one number,
            and what it lacks in each of them is left to the energy, which becomes a normalized log-density itself.

    Raises:
        ValueError: the noise has no exact density, or shapes do not fit.

    References:
        Gutmann and Hyvarinen 2012, "Noise-contrastive estimation of unnormalized statistical models, with applications
        to natural image statistics", https://jmlr.org/papers/v13/gutmann12a.html

    Example:
        >>> energy = pg.energy.mlp((2,), hidden=(16,))
        >>> objective = NoiseContrastive(energy, draws=5)
        >>> _ = pg.fit(objective, torch.randn(500, 2), steps=5)
        >>> normalized = energy().log_prob(torch.zeros(2)) - objective.log_normalizer
    """

    unit = "nats of cross-entropy per datum"

    @checked(noise=instance_of(DistributionModule))
    def __init__(self, energy: EnergyModule, *, noise: DistributionModule | None = None, draws: int = 1) -> None:
        super().__init__(energy)
        if noise is not None:
            _check_noise(noise, energy)
        self.noise, self.draws = noise, draws
        self.log_normalizer = nn.Parameter(torch.zeros(()))

    def train(self, mode: bool = True) -> Self:
        """As torch's; frozen noise stays in evaluation mode, in which its draws and their density are of one law."""
        super().train(mode)
        if mode:
            evaluate_frozen(self.noise)
        return self

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        energy = self.energy
        require_one_context_each(x, context, energy.event_shape, energy.context_shape)
        x = energy.events(energy.numbers(x))  # bits of any type as the noise draws them
        if self.noise is None:
            distribution = energy.start(context)
        else:
            distribution = self.noise(context_of_part(context, self.noise.context_shape))
        with torch.no_grad():
            single = not distribution.batch_shape
            y = distribution.sample((self.draws, len(x)) if single else (self.draws,))
            known = torch.cat([distribution.log_prob(x), distribution.log_prob(y).flatten()])
        return self.log_loss(x, y.flatten(0, 1), known, context)

    def log_loss(self, x: Tensor, y: Tensor, log_noise: Tensor, context: Context) -> Tensor:
        """The log-loss of data ``(N, *event)``, and noise for the same contexts in turn, ``(draws N, *event)``.

        Args:
            x: Data.
            y: Noise.
            log_noise: Log-densities of the noise at both, ``(N + draws N,)``.
            context: Contexts of the data.
        """
        energy, contexts = self.energy, repeated(context, 1 + self.draws)
        energies = energy.energies(energy.numbers(torch.cat([x, y])), contexts)
        require_finite(energies[: len(x)], "data")
        require_finite(energies[len(x) :], "draws")
        log_odds = -energies - self.log_normalizer - log_noise - log(self.draws)
        return softplus(-log_odds[: len(x)]).mean() + self.draws * softplus(log_odds[len(x) :]).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        if self.noise is not None:
            yield from self.noise.read_data(x, context_of_part(context, self.noise.context_shape))


class FlowContrastive(TakesTurns, ReadsData, nn.Module):
    r"""An energy and a flow that learn from each other, for ``fit(game, x)``: the flow is the noise of the energy.

    The energy learns to tell data from draws of the flow, and the flow to let it tell less, by its draws and by its
    density. So the noise comes nearer the data as training goes on, which is where it is of use, and both end where the
    data are: the flow as far as a flow can, the energy beyond.

    Args:
        energy: What is trained, by noise-contrastive estimation.
        flow: The noise: exact, with an ``rsample`` that carries gradients, and no context or that of the energy.

    Raises:
        ValueError: the flow has no exact density, or shapes do not fit.

    References:
        Gao, Nijkamp, Kingma, Xu, Dai and Wu 2020, "Flow contrastive estimation of energy-based models",
        https://arxiv.org/abs/1912.00589

    Example:
        >>> flow = pg.flows.affine_coupling((2,), layers=2, hidden=(16,))
        >>> game = FlowContrastive(pg.energy.mlp((2,), hidden=(16,)), flow)
        >>> _ = pg.fit(game, torch.randn(500, 2), steps=3)
    """

    @checked(energy=instance_of(EnergyModule), flow=instance_of(DistributionModule))
    def __init__(self, energy: EnergyModule, flow: DistributionModule) -> None:
        super().__init__()
        self.energy, self.flow = energy, flow
        self.contrast = NoiseContrastive(energy, noise=flow)

    @property
    def log_normalizer(self) -> Tensor:
        """The estimate of the logarithm of the energy's normalizer."""
        return self.contrast.log_normalizer

    def turns(self) -> list[Turn]:
        """The energy's turn, and then the flow's."""
        own = [*self.energy.parameters(), self.contrast.log_normalizer]
        return [Turn(self.contrast, own), Turn(FlowLoss(self), self.flow)]

    def averaged(self) -> nn.Module:
        """The energy with its normalizer, and the flow."""
        return self

    def metric(self, x: Tensor, context: Context = None) -> Tensor:
        """Minus the mean log-likelihood of the flow, which is known exactly."""
        return -self._noise(context).log_prob(x).mean()

    def flow_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """Minus the log-loss of the energy, as a function of the flow."""
        distribution = self._noise(context)
        y = distribution.rsample(() if distribution.batch_shape else (len(x),))
        known = torch.cat([distribution.log_prob(x), distribution.log_prob(y)])
        return -self.contrast.log_loss(x, y, known, context)

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return self.contrast.read_data(*batch)

    def _noise(self, context: Context) -> Any:
        return self.flow(context_of_part(context, self.flow.context_shape))


class FlowLoss(Objective):
    """The flow's loss against an energy, as an objective."""

    unit = "minus nats of cross-entropy per datum"

    def __init__(self, game: FlowContrastive) -> None:
        super().__init__()
        self.game = game

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return self.game.flow_loss(x, context)

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return self.game.read_data(*batch)


def _check_noise(noise: DistributionModule, energy: EnergyModule) -> None:
    fits = noise.event_shape == energy.event_shape and noise.context_shape in (None, energy.context_shape)
    if noise.density != "exact" or not fits:
        raise ValueError(
            f"`noise` must have an exact density, event shape {energy.event_shape} and no context or one of "
            f"{energy.context_shape}, got {noise.density!r}, {noise.event_shape} and {noise.context_shape}"
        )
