r"""State-space models: a sequence is explained by a state that moves on from step to step.

.. math::
    p(x, z) = p(z_1) \prod_{t=2}^{T} p(z_t \mid z_{t-1}, u_t) \prod_{t=1}^{T} p(x_t \mid z_t, u_t)

It is a variational autoencoder whose latent is the whole trajectory :math:`z = (z_1, \dots, z_T)`. The prior is a
chain, drawn step by step and scored in one pass, and so is the posterior; all observations are scored in one pass.
Everything that a VAE has works: its objectives, its bound of the evidence, its Pyro program of the sites ``"z"`` and
``"x"``.

The true posterior is a chain too, that follows the prior's transition, met by what the observations from a step on say
about its state,

.. math:: p(z_t \mid z_{t-1}, x) \propto p(z_t \mid z_{t-1}) \, p(x_{t:T} \mid z_t) ,

and a *structured* posterior has this form, with a Gaussian potential in place of the last factor
(:mod:`~pyrogen.latent.state_space.kernels`). Missing observations (NaN) count nothing. A sequence that ends early is
one whose further steps are missing: what follows the last observation integrates to one, and the posterior leaves it to
the prior, so that it adds nothing to the bound either.

=====================  ===================================================================
:math:`x_t, z_t, u_t`  observation, state, and what is given (controls) at step :math:`t`
:math:`T`              the number of steps
=====================  ===================================================================

References:
    Krishnan, Shalit and Sontag 2017, "Structured inference networks for nonlinear state space models",
    https://arxiv.org/abs/1609.09869
    Johnson, Duvenaud, Wiltschko, Datta and Adams 2016, "Composing graphical models with neural networks for structured
    representations and fast inference", https://arxiv.org/abs/1603.06277
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Self

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution

from pyrogen.arguments import checked, integer, real_tensor
from pyrogen.core.parts import given
from pyrogen.core.shapes import (
    Context,
    Shape,
    batch_shape_of,
    common_batch_shape,
    context_batch_shape,
    flatten_batch,
)
from pyrogen.latent.marginal import MarginalDistribution
from pyrogen.latent.model import VAE
from pyrogen.networks.statistics import require_rows
from pyrogen.numerics.autograd import is_functional
from pyrogen.programs.chain import refuse_chain

from .chain import PosteriorChain, Trajectories
from .forecast import Forecast
from .particles import FilterRun, LogLikelihood, Particles, WeightedStates, particle_filter
from .parts import AmortizedInference, Emissions, SequencePart
from .sequences import Sequences

if TYPE_CHECKING:
    from .process_inference import PosteriorProcess


class TrajectoryModel(VAE):
    """A VAE whose latent is a trajectory of states; abstract.

    Called, it is the distribution of sequences ``(length, *observation)``, in which NaN marks what is missing, whole
    steps or single elements. ``log_prob(x, lengths)`` counts the first steps of each sequence alone.
    """

    @property
    def length(self) -> int:
        """How many steps there are."""
        return self.event_shape[0]

    def over(self, length: int) -> Self:
        """The same model of sequences of another length, with the same parameters."""
        twin = copy(self)
        twin._modules = {**self._modules, **{name: part.over(length) for name, part in self.parts.items()}}
        twin.event_shape = (length, *self.event_shape[1:])
        if isinstance(self.context_shape, dict):
            twin.context_shape = {**self.context_shape, **_by_step(self.context_shape, length)}
        return twin

    def forward(self, context: Context = None) -> SequenceDistribution:
        return SequenceDistribution(self, context_batch_shape(context, self.context_shape), context)

    def continued(self, start: Tensor, prefix: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Draws of the states of the steps after a prefix, and of what is observed of them.

        Args:
            start: What the chain goes on from, ``(*batch, n)``, as :meth:`last_states` gives it.
            prefix: What is known, ``(*batch, steps, *observation)``.
            context: What is given, for the steps of both.
        """
        known = steps_of(prefix, self.event_shape[1:])
        path = self.prior_at(context).continued(start, known - 1)[..., 1:, :]
        vectors, _ = self.likelihood.given_at(context, context_batch_shape(context, self.context_shape))
        return path, self.likelihood.at(path, None if vectors is None else vectors[..., known:, :]).sample()

    @abstractmethod
    def last_states(self, x: Tensor, context: Context, particles: int = 1000) -> TorchDistributionMixin:
        """The distribution of what the chain goes on from after the last step, given the observations."""

    @checked
    def forecast(self, prefix: Tensor, horizon: int, context: Context = None, *, particles: int = 1000) -> Forecast:
        """The distribution of the steps after a prefix, ``(horizon, *observation)``.

        Its ``log_prob`` is exact where that of the model is, else there is none.

        Args:
            prefix: What is known, ``(*batch, steps, *observation)``; NaN where it is missing.
            horizon: How many further steps there are.
            context: What is given, for the steps of both.
            particles: How many particles stand for the last state of the prefix, where it is not known exactly.

        Raises:
            ValueError: the prefix has another shape.
        """
        known = steps_of(prefix, self.event_shape[1:])
        model = self.over(known + integer(horizon, "horizon"))
        context_batch_shape(context, model.context_shape)
        with torch.no_grad():
            model.prior_at(context)  # refuses times that do not increase
            last = self.over(known).last_states(prefix, first_steps(context, known), particles)
        return Forecast(model, prefix, context, last)

    def batch_of(self, x: Tensor, context: Context) -> torch.Size:
        """The batch dimensions of sequences and their contexts.

        Raises:
            ValueError: shapes do not fit; or, where torch validates distributions, ``x`` is infinite somewhere.
        """
        shapes = {"x": batch_shape_of(x, self.event_shape, "x")}
        require_possible(x, self.event_shape)
        shapes["context"] = context_batch_shape(context, self.context_shape)
        return common_batch_shape(shapes)


class ParticleModel(TrajectoryModel):
    """A model whose states are found by particles, with its posterior as proposal; abstract."""

    @abstractmethod
    def run_particles(self, x: Tensor, context: Context, particles: int) -> FilterRun:
        """A run of the particle filter with the posterior as proposal, with gradients."""

    @checked
    def filter(self, x: Tensor, context: Context = None, *, particles: int = 100) -> Particles:
        r"""The state of each step given the observations up to it, :math:`p(z_t \mid x_{1:t})`.

        Args:
            x: Sequences ``(*batch, length, *observation)``.
            context: What is given.
            particles: How many particles there are.
        """
        with torch.no_grad():
            return self.run_particles(x, context, particles).filtered()

    @checked
    def smooth(self, x: Tensor, context: Context = None, *, particles: int = 100) -> Particles:
        r"""Trajectories given all observations, :math:`p(z_{1:T} \mid x_{1:T})`, weighted.

        Args:
            x: Sequences ``(*batch, length, *observation)``.
            context: What is given.
            particles: How many particles there are.
        """
        with torch.no_grad():
            return self.run_particles(x, context, particles).smoothed()

    def last_states(self, x: Tensor, context: Context, particles: int = 1000) -> WeightedStates:
        return self.run_particles(x, context, particles).last()


class StateSpaceModel(ParticleModel):
    r"""A state-space model: a chain of states, observations of each, and a posterior of the whole trajectory.

    Args:
        prior: The chain of states.
        likelihood: Observations given states.
        posterior: States given observations.
        draws: How many draws of the posterior ``log_prob`` averages over, all at once.

    Raises:
        ValueError: shapes do not fit.
    """

    posterior: AmortizedInference

    def __init__(
        self, prior: SequencePart, likelihood: Emissions, posterior: AmortizedInference, *, draws: int = 100
    ) -> None:
        super().__init__(prior, likelihood, posterior, draws=draws)

    def draws_and_rates(
        self, posterior: PosteriorChain | PosteriorProcess, prior: Trajectories, shape: torch.Size
    ) -> tuple[Tensor, Tensor]:
        return posterior.rsample_and_rate(shape)  # the posterior runs through the prior's transition

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        refuse_chain("a state-space model", "sample its states at a site of their own, from `prior_at`")
        z, rate = self.posterior_at(x, context).rsample_and_rate(torch.Size((self.draws,)))
        return self.likelihood_at(z, context).log_prob(x) - rate

    def run_particles(self, x: Tensor, context: Context, particles: int) -> FilterRun:
        shape = torch.Size((particles, *self.batch_of(x, context)))
        proposals = self.posterior.proposals(given(self.posterior, context, x=x))
        return particle_filter(proposals, LogLikelihood(self.likelihood, x, self.given_at(context)), shape)

    def given_at(self, context: Context) -> Tensor | None:
        """What the likelihood is given at each step, ``(*batch, length, features)``."""
        return self.likelihood.given_at(context, context_batch_shape(context, self.context_shape))[0]


class SequenceDistribution(Sequences, MarginalDistribution):
    """The distribution of sequences of a state-space model, see :class:`TrajectoryModel`.

    Args:
        module: The model.
        batch_shape: That of the context, possibly expanded.
        context: What the model is given.
    """

    module: TrajectoryModel

    def __init__(
        self,
        module: TrajectoryModel,
        batch_shape: Iterable[int],
        context: Context = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(module, batch_shape, context, validate_args=validate_args)
        self.density = module.density

    def whole_log_prob(self, value: Tensor) -> Tensor:
        return MarginalDistribution.log_prob(self, value)

    def _expanded(self, batch_shape: torch.Size) -> SequenceDistribution:
        return SequenceDistribution(self.module, batch_shape, self.context, validate_args=False)


def _by_step(context_shape: dict[str, Shape], length: int) -> dict[str, Shape]:
    """The shapes of entries that are given at each step."""
    return {key: (length, *context_shape[key][1:]) for key in ("controls", "times") if key in context_shape}


def first_steps(context: Context, steps: int) -> Context:
    """A context of the first steps alone."""
    if not isinstance(context, Mapping):
        return context
    short = {key: value.narrow(value.dim() - dim, 0, steps) for key, dim in (("controls", 2), ("times", 1))
             if (value := context.get(key)) is not None}  # fmt: skip
    return {**context, **short}


def require_possible(x: Tensor, event_shape: Shape) -> None:
    """Refuses infinite observations, given which no state has a distribution; where torch validates distributions.

    Raises:
        RefusedDataError: a sequence holds one.
    """
    if Distribution._validate_args and not is_functional((x,)):
        rows = flatten_batch(x, event_shape)
        require_rows(~rows.isinf(), rows, "`x` must be finite, or NaN where it is missing")


def steps_of(prefix: Tensor, observation_shape: Shape) -> int:
    """How many steps a prefix ``(*batch, steps, *observation)`` has.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has none, or another shape.
    """
    real_tensor(prefix, "prefix")
    dim = prefix.dim() - len(observation_shape) - 1
    if dim < 0 or tuple(prefix.shape[dim + 1 :]) != tuple(observation_shape) or not prefix.shape[dim]:
        shape = ", ".join(["*batch", "steps", *map(str, observation_shape)])
        raise ValueError(f"`prefix` must have shape ({shape}) with at least one step, got {tuple(prefix.shape)}")
    return prefix.shape[dim]
