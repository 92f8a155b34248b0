r"""The stochastic recurrent model, whose latent is the noise that drives its states.

The theory is in :mod:`~pyrogen.latent.state_space.feedback`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Self

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.core.density import Density
from pyrogen.core.parts import given
from pyrogen.core.shapes import Context, Shape, batch_shape_of, context_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.distributions.normal import UnitNormal
from pyrogen.networks.feedback import Feedback
from pyrogen.networks.messages import RecurrentMessages
from pyrogen.networks.step_context import StepContext
from pyrogen.programs.chain import refuse_chain

from .chain import Trajectories
from .feedback import FeedbackRun, Recurrence
from .kernels import Message, Normal, Replacement
from .model import ParticleModel, steps_of
from .particles import FilterRun, particle_filter
from .parts import AmortizedInference, Dynamics, Emissions, SequencePart
from .proposals import NormalProposals

_LOG_2PI = math.log(2 * math.pi)


class Innovations(SequencePart):
    """The prior of the noise that drives states: independent standard normal numbers.

    Args:
        dynamics: The chain of states.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__(dynamics.length, dynamics.event_shape[1:], dynamics.context, {})
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, context: Context = None) -> UnitNormal:
        batch = context_batch_shape(context, self.context_shape)
        self.given_at(context, batch)  # refuses times that do not increase
        return UnitNormal(self.event_shape, self.zero, batch, validate_args=False)


class FeedbackLikelihood(SequencePart):
    """The likelihood of sequences given the noise that drives their states; NaN marks what is missing.

    Args:
        dynamics: The chain of states, whose network is given what is fed back.
        emissions: Observations given states and what is fed back.
        feedback: What observations feed back.
    """

    takes_missing = weighs_without_bias = True
    density: Density = "lower bound"  # exact where nothing is missing

    def __init__(self, dynamics: Dynamics, emissions: Emissions, feedback: Feedback) -> None:
        own = {"z": dynamics.event_shape[1:]}
        super().__init__(emissions.length, emissions.event_shape[1:], emissions.context, own)
        self.dynamics, self.emissions, self.feedback = dynamics, emissions, feedback

    def over(self, length: int) -> Self:
        twin = super().over(length)
        parts = {"dynamics": self.dynamics.over(length), "emissions": self.emissions.over(length)}
        twin._modules = {**self._modules, **parts}
        return twin

    def forward(self, context: Context = None) -> DrivenSequences:
        noise = self._own_entry(context)
        return DrivenSequences(self, noise, context, context_batch_shape(context, self.context_shape))

    def recurrence(self, x: Tensor, context: Context, *, ends: bool = True) -> Recurrence:
        """The model on observations; see there for ``ends``."""
        vectors, _ = self.given_at(context, self._batch_of_given(context))
        own = given(self.dynamics, context)
        return Recurrence(self.dynamics, self.emissions, self.feedback, x, context=own, vectors=vectors, ends=ends)


class DrivenSequences(PyrogenDistribution):
    """The distribution of sequences given the noise that drives their states.

    Where something is missing, ``log_prob`` is the logarithm of an estimate without bias.

    Args:
        part: The likelihood.
        noise: ``(*batch, length, states)``.
        context: What is given.
        batch_shape: Batch dimensions.
    """

    density = "lower bound"
    takes_missing = True

    def __init__(
        self,
        part: FeedbackLikelihood,
        noise: Tensor,
        context: Context,
        batch_shape: Iterable[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.part, self.noise, self.context = part, noise, context
        super().__init__(torch.Size(batch_shape), torch.Size(part.event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        recurrence = self.part.recurrence(self._unknown(), self.context)
        return recurrence.emitted(self.noise, self.noise.new_zeros(self.part.feedback.units)).support

    def _expanded(self, batch_shape: torch.Size) -> DrivenSequences:
        return DrivenSequences(self.part, self.noise, self.context, batch_shape, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            return self._completed(self._unknown(), torch.Size(sample_shape), ends=True)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        return self._completed(value, torch.Size(), ends=False)[1]

    def complete(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences with their missing entries drawn, and the logarithm of the weight of each.

        Raises:
            NotImplementedError: a gradient is wanted of missing entries whose draws have none.
        """
        return self._completed(value, torch.Size(), ends=True)

    def _completed(self, value: Tensor, sample_shape: torch.Size, *, ends: bool) -> tuple[Tensor, Tensor]:
        recurrence = self.part.recurrence(value, self.context, ends=ends)
        if recurrence.is_gapped and torch.is_grad_enabled() and not recurrence.is_differentiable():
            raise NotImplementedError(
                "missing entries feed back as draws, which of discrete observations have no gradient: use `BetaElbo`"
            )
        batch = torch.broadcast_shapes(batch_shape_of(value, self.event_shape, "value"), self.batch_shape)
        run = recurrence.driven(lambda step, prior: self.noise[..., step, :].expand_as(prior[0]), sample_shape + batch)
        completed = run.completed.reshape(*run.completed.shape[:-1], *self.event_shape[1:])
        return completed.to(value.dtype), recurrence.emitted(run.states, run.fed).log_prob(value)

    def _unknown(self) -> Tensor:
        return self.noise.new_full(self.event_shape, torch.nan)


class FeedbackInference(AmortizedInference):
    """The posterior of the noise that drives states: their prior, met at each step by a message of the observations.

    Args:
        likelihood: The model that the noise drives.
        observation_shape: Shape of what is observed at one step.
        network: From observations, what is given at each step, and gaps, to two vectors for each step.
        context: What is given at each step.
        structured: Whether a message is a potential, which the prior of a state meets; else it is a distribution of
            the state by itself (mean field).
    """

    def __init__(
        self,
        likelihood: FeedbackLikelihood,
        observation_shape: Shape,
        network: RecurrentMessages,
        context: StepContext,
        *,
        structured: bool = True,
    ) -> None:
        super().__init__(likelihood.dynamics, observation_shape, network, context)
        self.likelihood = likelihood
        self.structured = structured

    def over(self, length: int) -> Self:
        twin = super().over(length)
        twin._modules = {**twin._modules, "likelihood": self.likelihood.over(length)}
        return twin

    def forward(self, context: Context = None) -> NoisePosterior:
        batch = context_batch_shape(context, self.context_shape)
        recurrence = self.likelihood.recurrence(self._own_entry(context), context, ends=False)
        return NoisePosterior(recurrence, self.message(context), batch, self.event_shape)

    def proposals(self, context: Context) -> NormalProposals:
        recurrence = self.likelihood.recurrence(self._own_entry(context), context)
        return NormalProposals(recurrence, self.message(context))

    def message(self, context: Context) -> Message:
        """What the observations say about each state."""
        return self.potential(context) if self.structured else Replacement(*self.normals(context))


class NoisePosterior(Trajectories):
    """The distribution of the noise that drives states, given observations: normals, step by step.

    Args:
        recurrence: The model on the observations.
        message: What these say about each state.
        batch_shape: Batch dimensions.
        event_shape: ``(length, states)``.
    """

    has_rsample_and_log_prob = True

    def __init__(
        self,
        recurrence: Recurrence,
        message: Message,
        batch_shape: Iterable[int],
        event_shape: Iterable[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.recurrence, self.message = recurrence, message
        self.has_rsample = not recurrence.is_gapped or recurrence.is_differentiable()
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> NoisePosterior:
        return NoisePosterior(self.recurrence, self.message, batch_shape, self.event_shape, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.run(torch.Size(sample_shape))[0].noise

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.run(torch.Size(sample_shape))[0].noise

    def rsample_and_log_prob(self, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
        run, rate = self.run(torch.Size(sample_shape))
        return run.noise, rate + _log_normal(run.noise)

    def score(self, z: Tensor) -> Tensor:
        if self.recurrence.is_gapped:
            raise NotImplementedError(
                "missing entries before the last observation feed back as draws, with which the density of the "
                "posterior is no closed form: train by `pg.fit` with `BetaElbo` or `Filtering`, and use `log_prob` of "
                "the model, `filter` and `smooth`"
            )
        normals: list[Normal] = []

        def drive(step: int, prior: Normal) -> Tensor:
            normals.append(_relative(steps[step].meet(prior), prior))
            return z[..., step, :].expand_as(prior[0])

        steps = self.message.steps()
        self.recurrence.driven(drive, torch.broadcast_shapes(z.shape[:-2], self.batch_shape))
        loc, log_scale = (torch.stack(part, -2) for part in zip(*normals, strict=True))
        return _log_normal((z - loc) / log_scale.exp()) - log_scale.sum((-1, -2))

    def run(self, sample_shape: torch.Size) -> tuple[FeedbackRun, Tensor]:
        r"""Runs of the model by draws, and :math:`\log q(u) - \log p(u)` of each."""
        steps, rates = self.message.steps(), []

        def drive(step: int, prior: Normal) -> Tensor:
            loc, log_scale = _relative(steps[step].meet(prior), prior)
            fresh = torch.randn_like(prior[0])
            noise = torch.addcmul(loc, log_scale.exp(), fresh)
            rates.append(0.5 * (noise.square() - fresh.square()) - log_scale)
            return noise

        run = self.recurrence.driven(drive, sample_shape + self.batch_shape)
        return run, torch.stack(rates, -2).sum((-1, -2))


class StochasticRecurrentModel(ParticleModel):
    """A stochastic recurrent model: a chain of states, of which each depends on the observations before it, too.

    Its latent ``"z"`` is the noise that drives the states; ``filter`` and ``smooth`` give states.

    Args:
        likelihood: The chain of states, and observations given the noise that drives it.
        posterior: The noise given observations.
        draws: How many draws of the posterior ``log_prob`` averages over, all at once.

    Raises:
        ValueError: shapes do not fit.
    """

    likelihood: FeedbackLikelihood
    posterior: FeedbackInference

    def __init__(self, likelihood: FeedbackLikelihood, posterior: FeedbackInference, *, draws: int = 100) -> None:
        super().__init__(Innovations(likelihood.dynamics), likelihood, posterior, draws=draws)

    def states(self, noise: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """The states that noise drives on observations, ``(*batch, length, states)``.

        Args:
            noise: The latent, ``(*batch, length, states)``.
            x: Sequences ``(*batch, length, *observation)``; draws stand for what is missing.
            context: What is given.
        """
        recurrence = self.likelihood.recurrence(x, context)
        batch = torch.broadcast_shapes(noise.shape[:-2], self.batch_of(x, context))
        return recurrence.driven(lambda step, prior: noise[..., step, :].expand_as(prior[0]), batch).states

    def bound_terms(
        self,
        x: Tensor,
        context: Context,
        posterior: NoisePosterior,
        prior: TorchDistributionMixin,
        shape: torch.Size,
    ) -> tuple[Tensor, Tensor]:
        """Log-likelihood and rate of runs by the posterior; where draws have no gradient, with that of their score."""
        run, rate = posterior.run(shape)
        recurrence = posterior.recurrence
        log_likelihood = recurrence.emitted(run.states, run.fed).log_prob(x)
        if posterior.has_rsample or not torch.is_grad_enabled():
            return log_likelihood, rate
        score = recurrence.log_draws(run)
        score = score - score.detach()
        return log_likelihood + log_likelihood.detach() * score, rate + rate.detach() * score

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        refuse_chain("a stochastic recurrent model", "sample its noise at a site of its own, from `prior_at`")
        shape = torch.Size((self.draws,))
        terms = self.bound_terms(x, context, self.posterior_at(x, context), self.prior_at(context), shape)
        return terms[0] - terms[1]

    def run_particles(self, x: Tensor, context: Context, particles: int) -> FilterRun:
        shape = torch.Size((particles, *self.batch_of(x, context)))
        proposals = self.posterior.proposals(given(self.posterior, context, x=x))
        return particle_filter(proposals, proposals.kernel.log_likelihood, shape)

    def continued(self, start: Tensor, prefix: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        observation = self.event_shape[1:]
        known = steps_of(prefix, observation)
        batch = prefix.shape[: prefix.dim() - len(self.event_shape)]
        later = prefix.new_full((*batch, self.length - known, *observation), torch.nan)
        recurrence = self.likelihood.recurrence(torch.cat([prefix, later], len(batch)), context)
        run = recurrence.continued(start, known - 1)
        return run.states, run.completed.reshape(*run.completed.shape[:-1], *observation)


def _relative(normal: Normal, prior: Normal) -> Normal:
    """A normal of a state as one of the noise that drives it."""
    return (normal[0] - prior[0]) / prior[1].exp(), normal[1] - prior[1]


def _log_normal(noise: Tensor) -> Tensor:
    return -0.5 * (noise.square() + _LOG_2PI).sum((-1, -2))
