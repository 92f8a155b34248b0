r"""Particle filters whose proposals are learned posteriors.

At each step, :math:`P` particles are drawn from :math:`q(z_t \mid z_{t-1})` and weighed by

.. math:: w_t = w_{t-1} \frac{p(z_t \mid z_{t-1}) \, p(x_t \mid z_t)}{q(z_t \mid z_{t-1})} ,

so that their average weight is :math:`p(x_{1:t})` in expectation. Where few particles carry the weight they are drawn
anew, in proportion to :math:`w_{t-1} Z_t(z_{t-1})`: with a structured posterior :math:`Z_t` is what it says about the
observations to come, as an auxiliary or twisted particle filter needs it. If its messages are exact, the evidence is so
with a single particle.

References:
    Pitt and Shephard 1999, "Filtering via simulation: auxiliary particle filters",
    https://doi.org/10.1080/01621459.1999.10474153
    Guarniero, Johansen and Lee 2017, "The iterated auxiliary particle filter", https://arxiv.org/abs/1511.06286
    Maddison et al. 2017, "Filtering variational objectives", https://arxiv.org/abs/1705.09279
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.arguments import integer, whole_share
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.resampling import effective_sample_size, systematic, take

from .parts import Emissions
from .proposals import Proposals


@dataclass(frozen=True)
class Particles:
    """Weighted states of sequences, or whole trajectories of them.

    A *filter* weighs the states of each step by themselves; draws of it are independent between steps. A *smoother*
    weighs whole trajectories.
    """

    values: Tensor
    """States, ``(particles, *batch, length, states)``."""

    log_weights: Tensor
    """Logarithms of normalized weights, ``(particles, *batch, length)``; of trajectories ``(particles, *batch, 1)``."""

    log_evidence: Tensor
    """Logarithm of an unbiased estimate of the probability of all observations, in nats, ``batch``."""

    @property
    def mean(self) -> Tensor:
        """The mean of each state, ``(*batch, length, states)``."""
        return (self._weights * self.values).sum(0)

    @property
    def variance(self) -> Tensor:
        """The variance of each element of each state, ``(*batch, length, states)``."""
        return (self._weights * (self.values - self.mean).square()).sum(0)

    @property
    def effective_particles(self) -> Tensor:
        """How many particles of equal weight would be as precise, ``(*batch, length)`` or ``(*batch, 1)``."""
        return effective_sample_size(self.log_weights)

    def quantile(self, level: float) -> Tensor:
        """The value below which each element lies with probability ``level``, ``(*batch, length, states)``.

        Raises:
            ValueError: ``level`` is not between 0 and 1.
        """
        whole_share(level, "level")
        values, order = self.values.sort(0)
        below = self._weights.expand_as(self.values).gather(0, order).cumsum(0)
        place = (below < level * below[-1:]).sum(0, keepdim=True).clamp(max=len(values) - 1)
        return values.gather(0, place).squeeze(0)

    def sample(self, draws: int) -> Tensor:
        """Draws of equal weight, ``(draws, *batch, length, states)``."""
        integer(draws, "draws")
        chosen = torch.multinomial(self.log_weights.flatten(1).T.exp(), draws, replacement=True)
        chosen = chosen.T.reshape(draws, *self.log_weights.shape[1:])
        return take(self.values, chosen.expand(draws, *self.values.shape[1:-1]))

    @property
    def _weights(self) -> Tensor:
        return self.log_weights.exp().unsqueeze(-1)


@dataclass(frozen=True)
class FilterRun:
    """A run of a particle filter: everything at each step."""

    states: list[Tensor]
    """``(particles, *batch, states)``."""

    log_weights: list[Tensor]
    """Logarithms of weights whose average is the evidence so far in expectation, ``(particles, *batch)``."""

    ancestors: list[Tensor | None]
    """Which particle of the step before each one follows; ``None``: its own."""

    memory: Tensor | None = None
    """That of the states before the last one, ``(particles, *batch, n)``, if the transition has any."""

    @property
    def log_evidence(self) -> Tensor:
        """The logarithm of an unbiased estimate of the evidence, ``batch``."""
        return _average(self.log_weights[-1])

    def filtered(self) -> Particles:
        """The states of each step given the observations up to it."""
        log_weights = torch.stack(self.log_weights, -1).log_softmax(0)
        return Particles(torch.stack(self.states, -2), log_weights, self.log_evidence)

    def last(self) -> WeightedStates:
        """The last state, with the memory of those before it, given all observations."""
        start = self.states[-1] if self.memory is None else torch.cat([self.states[-1], self.memory], -1)
        return WeightedStates(start, self.log_weights[-1])

    def smoothed(self) -> Particles:
        """Trajectories given all observations."""
        state, path = self.states[-1], [self.states[-1]]
        chosen = None
        for states, ancestors in zip(reversed(self.states[:-1]), reversed(self.ancestors[1:]), strict=True):
            if ancestors is not None:
                chosen = ancestors if chosen is None else ancestors.gather(0, chosen)
            path.append(states if chosen is None else take(states, chosen))
        log_weights = self.log_weights[-1].log_softmax(0).unsqueeze(-1)
        return Particles(torch.stack(path[::-1], -2).expand(*state.shape[:-1], -1, -1), log_weights, self.log_evidence)


LogLikelihoods = Callable[[int, Tensor, Tensor | None], Tensor]
"""The log-likelihood of what is observed at a step, from states there, and the memory of those before."""


def particle_filter(proposals: Proposals, log_likelihoods: LogLikelihoods, shape: torch.Size) -> FilterRun:
    """Runs a particle filter with a posterior's chain as proposal.

    Clouds are resampled, each by itself, where they are worth less than half of their particles. Gradients go through
    draws and weights, not through the choice of particles.

    Args:
        proposals: Those of the posterior.
        log_likelihoods: The log-likelihood of each step's observation, at states ``(*shape, states)``.
        shape: ``(particles, *batch)``.
    """
    proposal = proposals.first(shape)
    z, log_weight = proposal.drawn()
    log_weight = log_weight + log_likelihoods(0, z, proposal.memory)
    run = FilterRun([z], [log_weight], [None])
    for step, propose in enumerate(proposals.steps(), 1):
        proposal = propose(z, proposal.memory)
        log_weight, chosen = _resampled(log_weight, proposal.log_normalizer)
        if chosen is not None:
            proposal = proposal.chosen(chosen)
        z, change = proposal.drawn()
        log_weight = log_weight + change + log_likelihoods(step, z, proposal.memory)
        run.states.append(z)
        run.log_weights.append(log_weight)
        run.ancestors.append(chosen)
    return replace(run, memory=proposal.memory)


class LogLikelihood:
    """The log-likelihood of what is observed at each step.

    Args:
        emissions: The likelihood.
        x: Observations ``(*batch, length, *observation)``.
        given: What is given at each step, ``(*batch, length, features)``.
    """

    def __init__(self, emissions: Emissions, x: Tensor, given: Tensor | None) -> None:
        self.emissions, self.x, self.given = emissions, x, given
        self.dim = x.dim() - len(emissions.event_shape)

    def __call__(self, step: int, z: Tensor, memory: Tensor | None) -> Tensor:
        """At states ``(particles, *batch, states)`` of a step, ``(particles, *batch)``."""
        given = None if self.given is None else self.given[..., step : step + 1, :]
        x = self.x.narrow(self.dim, step, 1)
        return self.emissions.at(z.unsqueeze(-2), given).log_prob(x)


class WeightedStates(PyrogenDistribution):
    """The distribution that weighted particles stand for: it draws one of them.

    Args:
        values: States, ``(particles, *batch, states)``.
        log_weights: Logarithms of their weights, ``(particles, *batch)``.
    """

    density = None

    def __init__(self, values: Tensor, log_weights: Tensor, *, validate_args: bool | None = None) -> None:
        self.values, self.log_weights = values, log_weights
        super().__init__(log_weights.shape[1:], values.shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return (self.log_weights.softmax(0).unsqueeze(-1) * self.values).sum(0)

    def _expanded(self, batch_shape: torch.Size) -> WeightedStates:
        return WeightedStates(
            *(_widened(part, batch_shape, self.batch_shape) for part in (self.values, self.log_weights))
        )

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        weights = self.log_weights.softmax(0).unsqueeze(-1).flatten(1).T
        chosen = torch.multinomial(weights, max(shape.numel(), 1), replacement=True).T[: shape.numel()]
        drawn = take(self.values, chosen.reshape(shape.numel(), *self.batch_shape))
        return drawn.reshape(self._extended_shape(shape))


def _widened(part: Tensor, batch: torch.Size, own: torch.Size) -> Tensor:
    """Particles with other batch dimensions, to which their own broadcast."""
    part = part.reshape(len(part), *(1,) * (len(batch) - len(own)), *part.shape[1:])
    return part.expand(len(part), *batch, *part.shape[1 + len(batch) :])


def _resampled(log_weight: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weights after resampling, and which particles were chosen; none where every cloud is left as it is."""
    total = log_weight + ahead
    poor = effective_sample_size(total.detach()) < 0.5 * len(total)
    if not bool(poor.any()):
        return log_weight, None
    places = torch.arange(len(total), device=total.device).reshape(-1, *(1,) * poor.dim())
    chosen = torch.where(poor, systematic(total.detach()), places)
    return torch.where(poor, _average(total) - ahead.gather(0, chosen), log_weight), chosen


def _average(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))
