r"""Linear-Gaussian models whose transition switches between regimes, which are summed out.

.. math::
    s_t \sim p(s_t \mid s_{t-1}), \qquad z_t = A_{s_t} z_{t-1} + b_{s_t} + \eta_t, \qquad
    x_t = C z_t + d + \varepsilon_t

The evidence is a sum over all :math:`K^T` paths of regimes, each with a Kalman filter's
(:mod:`~pyrogen.latent.state_space.hypotheses`). Given a trajectory of states alone, the sum over regimes is that of a
hidden Markov model, so that the prior of trajectories is exact in any case.

References:
    Kim 1994, "Dynamic linear models with Markov-switching", https://doi.org/10.1016/0304-4076(94)90036-1
    Fearnhead and Clifford 2003, "On-line inference for hidden Markov models via particle filters",
    https://doi.org/10.1111/1467-9868.00421
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.arguments import checked, integer, several
from pyrogen.core.density import Density
from pyrogen.core.module import MaximumLikelihood
from pyrogen.core.parts import given
from pyrogen.core.shapes import Context, context_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.distributions.mixture import Mixture
from pyrogen.networks.step_context import StepContext
from pyrogen.numerics.special import log_sum_exp
from pyrogen.programs.chain import refuse_chain

from .chain import Trajectories
from .gaussian import Belief, LinearChain, LinearTransition, apply, in_precision, log_normal, smoothed
from .hypotheses import Hypotheses, along, filtered_paths, taken
from .linear import ExactInference, LinearDynamics, LinearEmissions
from .model import TrajectoryModel
from .parts import SequencePart
from .regimes import drawn, followed, forwards


class SwitchingDynamics(SequencePart):
    """The prior of states: a linear-Gaussian chain that switches between regimes.

    Args:
        length: How many steps there are.
        states: Size of a state.
        regimes: How many regimes there are.
        context: What is given at each step.
    """

    @checked(regimes=several)
    def __init__(self, length: int, states: int, regimes: int, context: StepContext) -> None:
        super().__init__(length, (states,), context, {})
        self.regimes = nn.ModuleList(LinearDynamics(length, states, context) for _ in range(regimes))
        self.start = nn.Parameter(torch.zeros(regimes))
        self.logits = nn.Parameter(2 * torch.eye(regimes))
        with torch.no_grad():
            for regime in self.regimes:  # which else would stay the same
                regime.matrix.add_(0.1 * torch.randn_like(regime.matrix))
                regime.shift.add_(0.1 * torch.randn_like(regime.shift))

    def over(self, length: int) -> Self:
        twin = super().over(length)
        twin._modules = {**self._modules, "regimes": nn.ModuleList(regime.over(length) for regime in self.regimes)}
        return twin

    def forward(self, context: Context = None) -> SwitchingChain:
        batch = context_batch_shape(context, self.context_shape)
        return SwitchingChain(self.start, self.logits, *self.chain(context), batch, self.event_shape)

    def chain(self, context: Context = None) -> tuple[Belief, LinearTransition]:
        """First states and transitions, with the regimes as last batch dimension (before the steps)."""
        starts, moves = zip(*(regime.chain(context) for regime in self.regimes), strict=True)
        start = Belief(torch.stack([one.loc for one in starts], -2), torch.stack([one.root for one in starts], -3))
        matrix, root = (torch.stack([getattr(move, name) for move in moves], -4) for name in ("matrix", "root"))
        return start, LinearTransition(matrix, torch.stack([move.shift for move in moves], -3), root)


class SwitchingChain(Trajectories):
    """Trajectories of states that switch between linear-Gaussian regimes.

    Args:
        start: Logits of the first regime, ``(regimes,)``.
        logits: Logits of each regime given the one before, ``(regimes, regimes)``.
        first: The first state, with the regimes as last batch dimension.
        move: The transitions, with the regimes as last batch dimension before the steps.
        batch_shape: Batch dimensions, to which those of the parameters broadcast.
        event_shape: ``(length, states)``.
    """

    def __init__(
        self,
        start: Tensor,
        logits: Tensor,
        first: Belief,
        move: LinearTransition,
        batch_shape: Iterable[int],
        event_shape: Iterable[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.start, self.logits, self.first, self.move = start, logits, first, move
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> SwitchingChain:
        parts = self.start, self.logits, self.first, self.move, batch_shape, self.event_shape
        return SwitchingChain(*parts, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        regime = drawn(self.start.expand(*shape, -1))
        paths = followed(regime, self.logits, self.event_shape[0])
        return LinearChain(*along(paths, self.first, self.move), shape, self.event_shape).rsample()

    @torch.no_grad()
    def continued(self, start: Tensor, step: int) -> Tensor:
        """Draws of the states from a step on, where regime and state are ``start``, ``(*batch, 1 + states)``."""
        regime, z = start[..., 0].long(), start[..., 1:]
        paths = followed(regime, self.logits, self.event_shape[0] - step)
        past = regime.unsqueeze(-1).expand(*regime.shape, step)
        _, move = along(torch.cat([past, paths], -1), self.first, self.move)
        chain = LinearChain(Belief(z, self.first.root[..., 0, :, :]), move, z.shape[:-1], self.event_shape)
        return chain.continued(z, step)

    def score(self, z: Tensor) -> Tensor:
        before, after = z[..., None, :-1, :], z[..., None, 1:, :]  # (..., regimes, length - 1, states)
        first = log_normal(self.first.root, z[..., :1, :] - self.first.loc)
        rest = log_normal(self.move.root, after - self.move.at(before))
        scores = torch.cat([first.unsqueeze(-2), rest.mT], -2)
        return log_sum_exp(forwards(self.start, self.logits, scores)[-1], -1)


class SwitchingInference(ExactInference):
    """The posterior of states given observations: a mixture of the exact posteriors given paths of regimes.

    It is the true one if all paths are kept.

    Args:
        prior: The chain of states.
        likelihood: What is observed of them.
        paths: How many paths of regimes are kept.
    """

    prior: SwitchingDynamics

    @checked
    def __init__(self, prior: SwitchingDynamics, likelihood: LinearEmissions, *, paths: int) -> None:
        super().__init__(prior, likelihood)
        self.paths = integer(paths, "paths")

    def forward(self, context: Context = None) -> Mixture:
        start, move, potentials, _ = self.problem(context)
        last = self.hypotheses(context)[0][-1]
        chain = along(last.paths, *(_beside(part) for part in (start, move)))
        here = type(potentials)(potentials.linear.unsqueeze(-3), potentials.precision.unsqueeze(-4))
        dtype = start.loc.dtype
        components = LinearChain(*smoothed(*chain, in_precision(here, dtype)), last.paths.shape[:-1], self.event_shape)
        return Mixture(_weights(last.log_weights.to(dtype)), components)

    def hypotheses(self, context: Context) -> tuple[list[Hypotheses], Tensor]:
        """The paths at each step given the observations up to it, in double precision, and the constant they lack."""
        start, move, potentials, constant = self.problem(context)
        start, move, logits = in_precision(start, torch.float64), in_precision(move, torch.float64), self.prior.logits
        batch = context_batch_shape(context, self.context_shape)
        log_weights = self.prior.start.double().log_softmax(-1).expand(*batch, -1)
        regimes = torch.arange(len(logits), device=logits.device).expand(log_weights.shape)
        prior = Hypotheses(regimes.unsqueeze(-1), log_weights, start)
        return filtered_paths(prior, move, logits.double().log_softmax(-1), potentials, self.paths), constant


class SwitchingModel(TrajectoryModel):
    """The linear-Gaussian model whose transition switches between regimes.

    Where no more than ``paths`` paths of regimes lead to the last step, ``log_prob``, filter and smoother are exact,
    and the guide is the true posterior. Beyond that ``log_prob`` is the logarithm of an estimate of the evidence
    without bias: a lower bound in expectation.

    Args:
        prior: The chain of states.
        likelihood: What is observed of them.
        paths: How many paths of regimes are kept.
    """

    posterior: SwitchingInference

    def __init__(self, prior: SwitchingDynamics, likelihood: LinearEmissions, *, paths: int) -> None:
        super().__init__(prior, likelihood, SwitchingInference(prior, likelihood, paths=paths), draws=1)

    @property
    def density(self) -> Density:
        """``"exact"`` if all paths are kept, else ``"lower bound"``."""
        return "exact" if len(self.prior.start) ** (self.length - 1) <= self.posterior.paths else "lower bound"

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        if self.density != "exact":
            refuse_chain("a switching model", "keep all paths of regimes, or sample its states at a site of their own")
        found, constant = self.posterior.hypotheses(given(self.posterior, context, x=x))
        evidence = found[-1].log_evidence + constant
        return evidence.unsqueeze(0).to(torch.result_type(x, self.prior.start))

    def filter(self, x: Tensor, context: Context = None) -> Mixture:
        """The state of each step given the observations up to it, of batch shape ``(*batch, length)``."""
        with torch.no_grad():
            found = self._hypotheses(x, context)
            most = max(one.log_weights.shape[-1] for one in found)
            parts = zip(*(_widened(one, most) for one in found), strict=True)
            log_weights, loc, covariance = (
                torch.stack(part, dim) for part, dim in zip(parts, (-2, -3, -4), strict=True)
            )
            return Mixture(_weights(log_weights), dist.MultivariateNormal(loc, covariance))

    def smooth(self, x: Tensor, context: Context = None) -> Mixture:
        """Trajectories given all observations."""
        self.batch_of(x, context)
        return self.posterior_at(x, context)

    def smooth_regimes(self, x: Tensor, context: Context = None) -> dist.Categorical:
        """The regime of each step given all observations, of batch shape ``(*batch, length)``."""
        with torch.no_grad():
            last = self._hypotheses(x, context)[-1]
            alike = nn.functional.one_hot(last.paths, len(self.prior.start)).to(last.log_weights)
            weights = last.log_weights.softmax(-1)[..., None, None]
            return dist.Categorical((weights * alike).sum(-3), validate_args=False)

    def objective(self) -> nn.Module:
        """The default objective, which ``fit`` uses: maximum likelihood."""
        return MaximumLikelihood(self)

    def last_states(self, x: Tensor, context: Context, particles: int = 1000) -> RegimeAndState:
        last = self._hypotheses(x, context)[-1]
        return RegimeAndState(last.log_weights, last.last, in_precision(last.belief, self.prior.start.dtype))

    def _hypotheses(self, x: Tensor, context: Context) -> list[Hypotheses]:
        self.batch_of(x, context)
        return self.posterior.hypotheses(given(self.posterior, context, x=x))[0]


class RegimeAndState(PyrogenDistribution):
    """The distribution of a regime and a state, as one vector ``(1 + states,)``.

    Args:
        log_weights: Logarithms of weights of paths, ``(*batch, paths)``.
        regimes: The regime that each ends in.
        belief: The state given each, of batch shape ``(*batch, paths)``.
    """

    density = None

    def __init__(
        self, log_weights: Tensor, regimes: Tensor, belief: Belief, *, validate_args: bool | None = None
    ) -> None:
        self.log_weights, self.regimes, self.belief = log_weights, regimes, belief
        event_shape = (1 + belief.loc.shape[-1],)
        super().__init__(log_weights.shape[:-1], torch.Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    def _expanded(self, batch_shape: torch.Size) -> RegimeAndState:
        log_weights, regimes = (part.expand(*batch_shape, -1) for part in (self.log_weights, self.regimes))
        return RegimeAndState(log_weights, regimes, self.belief, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        chosen = drawn(self.log_weights.expand(*shape, -1)).unsqueeze(-1)
        regime = self.regimes.expand(*shape, -1).gather(-1, chosen)
        loc = taken(self.belief.loc, chosen, 1).squeeze(-2)
        root = taken(self.belief.root, chosen, 2).squeeze(-3)
        return torch.cat([regime.to(loc), loc + apply(root, torch.randn_like(loc))], -1)


def _beside(part: Belief | LinearTransition) -> Belief | LinearTransition:
    """The same with a dimension for paths before the regimes."""
    if isinstance(part, Belief):
        return Belief(part.loc.unsqueeze(-3), part.root.unsqueeze(-4))
    return LinearTransition(part.matrix.unsqueeze(-5), part.shift.unsqueeze(-4), part.root.unsqueeze(-5))


def _weights(log_weights: Tensor) -> dist.Categorical:
    return dist.Categorical(logits=log_weights, validate_args=False)  # torch cannot validate an empty batch


def _widened(one: Hypotheses, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of paths, with paths of no weight beside until there are so many."""
    places = torch.arange(most, device=one.paths.device)
    count, batch = one.log_weights.shape[-1], one.log_weights.shape[:-1]
    chosen = places.clamp(max=count - 1)
    log_weights = one.log_weights.log_softmax(-1)[..., chosen].masked_fill(places >= count, -torch.inf)
    loc, covariance = one.belief.loc, one.belief.covariance
    loc, covariance = loc.expand(*batch, *loc.shape[-2:]), covariance.expand(*batch, *covariance.shape[-3:])
    return log_weights, loc[..., chosen, :], covariance[..., chosen, :, :]
