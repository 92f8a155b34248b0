r"""Stochastic recurrent models: what is observed feeds back into the recurrence.

.. math::
    p(x, z) = \prod_{t=1}^T p(z_t \mid z_{t-1}, h_t) \, p(x_t \mid z_t, h_t), \qquad
    h_t = \mathrm{GRU}(h_{t-1}, x_{t-1})

A state depends on the observations before it, so that trajectories have no prior of their own. The noise that drives
them has: with :math:`z_t = \mu_t + \sigma_t u_t`, where :math:`\mu_t` and :math:`\sigma_t` follow from
:math:`u_{<t}` and :math:`x_{<t}`, the model is a VAE of the latent :math:`u = (u_1, \dots, u_T)`,

.. math:: u \sim \mathcal{N}(0, I), \qquad p(x \mid u) = \prod_{t=1}^T p(x_t \mid x_{<t}, u_{\le t}) ,

whose bounds, weights and Pyro program are right as they stand. Where an observation is missing, what feeds back is a
draw of it from :math:`p(x_t \mid z_t, h_t)`, of each particle by itself, which integrates it out.

References:
    Chung, Kastner, Dinh, Goel, Courville and Bengio 2015, "A recurrent latent variable model for sequential data",
    https://arxiv.org/abs/1506.02216
    Fraccaro, Sønderby, Paquet and Winther 2016, "Sequential neural models with stochastic layers",
    https://arxiv.org/abs/1605.07571
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from pyrogen.core.shapes import Context
from pyrogen.distributions.abilities import log_prob_by_element
from pyrogen.distributions.incomplete import Incomplete
from pyrogen.networks.feedback import Feedback
from pyrogen.networks.messages import last_observed
from pyrogen.numerics.autograd import is_functional

from .kernels import Normal, Step, StepKernel, relaxed
from .parts import Dynamics, Emissions, beside

Drive = Callable[[int, Normal], Tensor]
"""Gives the noise of a step, ``(*batch, states)``, from the prior of its state."""


@dataclass(frozen=True)
class FeedbackRun:
    """States and observations of a run.

    Attributes:
        states: ``(*batch, steps, states)``.
        noise: What drove them, ``(*batch, steps, states)``.
        fed: What was fed back to each step, ``(*batch, steps, units)``.
        completed: Observations with draws of missing ones, ``(*batch, steps, n)``.
    """

    states: Tensor
    noise: Tensor
    fed: Tensor
    completed: Tensor


class Recurrence(StepKernel):
    """The states of a stochastic recurrent model on given observations, step by step.

    What is remembered of a particle is what was fed back to its step, and the memory of the transition beside it.

    Args:
        dynamics: The chain of states, whose network is given what is fed back.
        emissions: The likelihood, whose network is given it, too.
        feedback: What observations feed back.
        x: Observations ``(*batch, length, *observation)``, of which NaN marks missing ones.
        context: What the chain is given.
        vectors: What the likelihood is given at each step, ``(*batch, length, features)``.
        ends: Whether what is missing after the last observation is drawn, too; no evidence depends on it.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        emissions: Emissions,
        feedback: Feedback,
        x: Tensor,
        *,
        context: Context,
        vectors: Tensor | None,
        ends: bool,
    ) -> None:
        self.emissions, self.feedback, self.vectors, self.network = emissions, feedback, vectors, dynamics.network
        self.own_vectors, self.start, self.rates = dynamics.given_start(context)
        batch = x.shape[: x.dim() - len(emissions.event_shape)]
        self.x = x.reshape(*batch, emissions.length, prod(emissions.event_shape[1:])).to(dynamics.loc.dtype)
        self.missing = self.x.isnan()
        self.drawn = [True] * emissions.length
        if not is_functional((x,)):
            drawn = (self.missing if ends else self.inner).any(-1)
            self.drawn = drawn.reshape(prod(batch), emissions.length).any(0).tolist()

    @property
    def first(self) -> Normal:
        return self.start

    def steps(self) -> list[Step]:
        return [partial(self._step, step) for step in range(self.emissions.length - 1)]

    def _step(self, step: int, z: Tensor, memory: Tensor | None) -> tuple[Normal, Tensor]:
        return self.advanced(step, z, self.completed(step, z, memory), memory)

    @property
    def inner(self) -> Tensor:
        """Which entries are missing before the last observation of their sequence, ``(*batch, length, n)``."""
        steps = torch.arange(self.emissions.length, device=self.x.device)
        return self.missing & (steps < last_observed(~self.missing).unsqueeze(-1)).unsqueeze(-1)

    @property
    def is_gapped(self) -> bool:
        """Whether anything is missing that feeds back to what is observed later."""
        return any(self.drawn) and not is_functional((self.x,)) and bool(self.inner.any())

    def is_differentiable(self) -> bool:
        """Whether draws of what is missing carry gradients."""
        like = self.start[0]
        anywhere = like.new_zeros(1, like.shape[-1]), like.new_zeros(self.feedback.units)
        return self.emitted(*anywhere).base_dist.has_rsample

    def completed(self, step: int, z: Tensor, memory: Tensor | None) -> Tensor:
        """What is observed at a step, ``(*batch, n)``, with draws of what is missing at states ``(*batch, states)``."""
        x = self.x[..., step, :]
        if not self.drawn[step]:
            return torch.where(self.missing[..., step, :], 0.0, x).expand(*z.shape[:-1], -1)
        base = self._emitted(step, z, memory).base_dist
        drawn = (base.rsample() if base.has_rsample else base.sample()).reshape(*z.shape[:-1], x.shape[-1]).to(x.dtype)
        return torch.where(x.isnan(), drawn, x)

    def advanced(self, step: int, z: Tensor, seen: Tensor, memory: Tensor | None) -> tuple[Normal, Tensor]:
        """The prior of the state after a step, and what is remembered then."""
        units = self.feedback.units
        fed, own = (None, None) if memory is None else (memory[..., :units], memory[..., units:])
        fed = self.feedback.step(seen, fed)
        given = beside(None if self.own_vectors is None else self.own_vectors[..., step + 1, :], fed)
        rates = None if self.rates is None else self.rates[..., step, :]
        own = own if own is not None and own.shape[-1] else None
        target, own = self.network.step(z, self.network.project(given), own)
        return relaxed(z, target, rates), fed if own is None else torch.cat([fed, own.expand(*fed.shape[:-1], -1)], -1)

    def driven(self, drive: Drive, batch: torch.Size) -> FeedbackRun:
        """A run of batch dimensions ``batch``."""
        prior = tuple(part.expand(*batch, -1) for part in self.start)
        return self._run(drive, prior, None, 0)

    def continued(self, start: Tensor, step: int) -> FeedbackRun:
        """A run of the steps after one whose state and the memory before it are ``start``, ``(*batch, n)``."""
        states = self.start[0].shape[-1]
        z, memory = start[..., :states], start[..., states:] if start.shape[-1] > states else None
        prior, memory = self._step(step, z, memory)
        return self._run(lambda step, prior: torch.randn_like(prior[0]), prior, memory, step + 1)

    def emitted(self, states: Tensor, fed: Tensor) -> Incomplete:
        """The distribution of observations at states ``(*batch, length, states)``."""
        return self.emissions.at(states, beside(self.vectors, fed))

    def log_likelihood(self, step: int, z: Tensor, memory: Tensor | None) -> Tensor:
        """That of what is observed at a step, of states ``(*batch, states)``."""
        x = self.x[..., step, :]
        return self._emitted(step, z, memory).log_prob(x.reshape(*x.shape[:-1], 1, *self.emissions.event_shape[1:]))

    def log_draws(self, run: FeedbackRun) -> Tensor:
        """The log-probability of what was drawn in place of missing entries before the end, ``(*batch)``."""
        base = self.emitted(run.states, run.fed).base_dist
        scores = log_prob_by_element(base, run.completed.reshape(*run.completed.shape[:-1], *base.event_shape[1:]))
        return torch.where(self.inner, scores.reshape(run.completed.shape), 0.0).sum((-1, -2))

    def _run(self, drive: Drive, prior: Normal, memory: Tensor | None, first: int) -> FeedbackRun:
        parts = []
        for step in range(first, self.emissions.length):
            noise = drive(step, prior)
            z = torch.addcmul(prior[0], prior[1].exp(), noise)
            seen = self.completed(step, z, memory)
            parts.append((z, noise, self._fed(memory, z), seen))
            if step < self.emissions.length - 1:
                prior, memory = self.advanced(step, z, seen, memory)
        return FeedbackRun(*(torch.stack(part, -2) for part in zip(*parts, strict=True)))

    def _fed(self, memory: Tensor | None, z: Tensor) -> Tensor:
        """What was fed back to a step."""
        return z.new_zeros(*z.shape[:-1], self.feedback.units) if memory is None else memory[..., : self.feedback.units]

    def _emitted(self, step: int, z: Tensor, memory: Tensor | None) -> Incomplete:
        given = beside(None if self.vectors is None else self.vectors[..., step, :], self._fed(memory, z))
        return self.emissions.at(z.unsqueeze(-2), given.unsqueeze(-2))
