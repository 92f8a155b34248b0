r"""The linear-Gaussian model, where everything is exact.

.. math::
    z_1 \sim \mathcal{N}(\mu_1, \Sigma_1), \qquad z_t = A z_{t-1} + B u_t + b + \eta_t, \qquad
    x_t = C z_t + D u_t + d + \varepsilon_t

with normal :math:`\eta_t` of any covariance :math:`Q` and normal :math:`\varepsilon_t` of independent elements. Where
times are irregular, the state follows :math:`dz = (F z + b) \, dt + L \, dW` instead, so that over a gap :math:`\Delta`

.. math:: A = e^{F \Delta}, \qquad Q = \int_0^\Delta e^{F s} L L^\top e^{F^\top s} \, ds .
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrogen.core.density import Density
from pyrogen.core.module import MaximumLikelihood
from pyrogen.core.parts import given
from pyrogen.core.shapes import Context, Shape, context_batch_shape
from pyrogen.distributions.incomplete import Incomplete
from pyrogen.distributions.normal import DiagonalNormal
from pyrogen.networks.messages import read_observed
from pyrogen.networks.statistics import Standardizer, Statistic
from pyrogen.networks.step_context import StepContext
from pyrogen.numerics.autograd import is_functional

from .gaussian import (
    Belief,
    LinearChain,
    LinearTransition,
    QuadraticPotential,
    apply,
    cholesky,
    filtered,
    in_precision,
    log_evidence,
    smoothed,
)
from .model import TrajectoryModel
from .parts import ObservingPart, SequencePart, in_units

_LOG_2PI = math.log(2 * math.pi)
_MOST_DOUBLINGS = 40
"""Over a gap of so many doublings of the state's own time it has forgotten everything."""


class LinearPrior(SequencePart):
    """A prior of states that is a linear-Gaussian chain; abstract."""

    @abstractmethod
    def chain(self, context: Context = None) -> tuple[Belief, LinearTransition]:
        """The distribution of the first state, and the transitions to each further one."""

    def forward(self, context: Context = None) -> LinearChain:
        batch = context_batch_shape(context, self.context_shape)
        start, move = self.chain(context)
        # Where noise is small beside states, it is lost in a single-precision difference of two states.
        parts = (in_precision(part, torch.float64) for part in (start, move))
        return LinearChain(*parts, batch, self.event_shape, dtype=start.loc.dtype)


class LinearDynamics(LinearPrior):
    """The prior of states: a linear-Gaussian chain.

    Args:
        length: How many steps there are.
        states: Size of a state.
        context: What is given at each step.
    """

    def __init__(self, length: int, states: int, context: StepContext) -> None:
        super().__init__(length, (states,), context, {})
        self.matrix = nn.Parameter((0.5 * math.log(0.1) if context.irregular else 0.9) * torch.eye(states))
        self.shift = nn.Parameter(torch.zeros(states))
        self.root = nn.Parameter(math.log(0.5) * torch.eye(states))
        self.start_loc = nn.Parameter(torch.zeros(states))
        self.start_root = nn.Parameter(torch.zeros(states, states))
        self.effect = nn.Linear(context.size, states, bias=False) if context.size else None

    def chain(self, context: Context = None) -> tuple[Belief, LinearTransition]:
        vectors, gaps = self.given_at(context, context_batch_shape(context, self.context_shape))
        shift = self.shift if vectors is None else self.shift + self.effect(vectors[..., 1:, :])
        shift = shift.expand(*shift.shape[:-2], self.length - 1, -1)
        start = Belief(self.start_loc, rooted(self.start_root))
        if gaps is not None:
            return start, over_gaps(stable(self.matrix), shift, rooted(self.root), gaps)
        matrix, root = (part.expand(self.length - 1, -1, -1) for part in (self.matrix, rooted(self.root)))
        return start, LinearTransition(matrix, shift, root)


class LinearEmissions(SequencePart):
    """The likelihood of observations, linear in the state, with independent normal errors; NaN marks what is missing.

    The linear map is to observations brought to mean zero and scale one, by moments of the data set.

    Args:
        length: How many steps there are.
        observation_shape: Shape of what is observed at one step.
        states: Size of a state.
        context: What is given at each step.
        loading: From states to observations, linear, with a ``weight`` and a ``bias``; all of a state is observed if
            ``None``.
    """

    takes_missing = True

    def __init__(
        self,
        length: int,
        observation_shape: Shape,
        states: int,
        context: StepContext,
        loading: nn.Module | None = None,
    ) -> None:
        super().__init__(length, observation_shape, context, {"z": (states,)})
        size = math.prod(observation_shape)
        self.loading = nn.Linear(states, size) if loading is None else loading
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.units = Standardizer((1, size), name="x", missing=True)
        self.effect = nn.Linear(context.size, size, bias=False) if context.size else None

    def forward(self, context: Context = None) -> Incomplete:
        return self.at(self._own_entry(context), self.given_at(context, self._batch_of_given(context))[0])

    def at(self, z: Tensor, vectors: Tensor | None) -> Incomplete:
        """The distribution of observations at states ``(*batch, length, states)``, of any length."""
        loc = self.loading(z) if vectors is None else self.loading(z) + self.effect(vectors)
        shape = self.event_shape[1:]
        loc = loc.reshape(*loc.shape[:-1], *shape)
        standardized = DiagonalNormal(loc, self.log_scale.reshape(shape).expand_as(loc), len(shape))
        return Incomplete(in_units(standardized, self.units).to_event(1))

    def potentials(self, x: Tensor, vectors: Tensor | None) -> tuple[QuadraticPotential, Tensor]:
        """What observations ``(*batch, length, *observation)`` say about each state, and the constant that it lacks.

        Both are double: where noise is small, the evidence is a small difference of large squares.
        """
        dim = len(self.event_shape) - 1
        x = (x.flatten(-dim) if dim else x.unsqueeze(-1)).double()
        mean, scale = self.units.mean.double(), self.units.scale.double()
        matrix, log_scale = scale.unsqueeze(-1) * self.loading.weight.double(), self.log_scale.double() + scale.log()
        precision = (-2 * log_scale).exp()
        missing = x.isnan()
        base = self.loading.bias if vectors is None else self.loading.bias + self.effect(vectors)
        rest = torch.where(missing, 0.0, x - torch.addcmul(mean, scale, base.double()))
        weights = torch.where(missing, 0.0, precision)
        constant = torch.where(missing, 0.0, -0.5 * (precision * rest.square() + _LOG_2PI) - log_scale)
        # Where all rows have the same gaps, so have all covariances, which are then computed once.
        own = weights.reshape(-1, *weights.shape[-2:])[0] if _alike(missing) else weights
        quadratic = matrix.mT @ (own.unsqueeze(-1) * matrix)
        return QuadraticPotential((weights * rest) @ matrix, quadratic), constant.sum((-1, -2))


class ExactInference(ObservingPart):
    """The posterior of states given observations, by backward messages.

    Args:
        prior: The chain of states.
        likelihood: What is observed of them.
    """

    def __init__(self, prior: LinearPrior, likelihood: LinearEmissions) -> None:
        own = {"x": likelihood.event_shape[1:]}
        super().__init__(prior.length, prior.event_shape[1:], prior.context, own)
        self.prior, self.likelihood = prior, likelihood

    def read_observations(self, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return read_observed(self.likelihood.units, x)

    def over(self, length: int) -> ExactInference:
        twin = super().over(length)
        parts = {"prior": self.prior.over(length), "likelihood": self.likelihood.over(length)}
        twin._modules = {**self._modules, **parts}
        return twin

    def forward(self, context: Context = None) -> LinearChain:
        batch = context_batch_shape(context, self.context_shape)
        start, move, potentials, _ = self.problem(context)
        parts = (in_precision(part, torch.float64) for part in (start, move, potentials))
        return LinearChain(*smoothed(*parts), batch, self.event_shape, dtype=start.loc.dtype)

    def problem(self, context: Context) -> tuple[Belief, LinearTransition, QuadraticPotential, Tensor]:
        """The chain of the prior, what observations say about each state, and the constant that this lacks."""
        start, move = self.prior.chain(given(self.prior, context))
        vectors, _ = self.likelihood.given_at(context, self._batch_of_given(context))
        return start, move, *self.likelihood.potentials(self._own_entry(context), vectors)


class LinearGaussianModel(TrajectoryModel):
    """The linear-Gaussian state-space model: its ``log_prob``, filter, smoother and forecasts are exact.

    Its Pyro guide is the true posterior, so that an evidence lower bound of its model and guide has no gap.

    Args:
        prior: The chain of states.
        likelihood: What is observed of them.
    """

    density: Density = "exact"

    def __init__(self, prior: LinearPrior, likelihood: LinearEmissions) -> None:
        super().__init__(prior, likelihood, ExactInference(prior, likelihood), draws=1)

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        """The exact ``log_prob``, of a single draw that makes no difference."""
        *problem, constant = self.posterior.problem(given(self.posterior, context, x=x))
        return (log_evidence(*problem) + constant).unsqueeze(0).to(torch.result_type(x, self.likelihood.log_scale))

    def filter(self, x: Tensor, context: Context = None) -> dist.MultivariateNormal:
        """The state of each step given the observations up to it, of batch shape ``(*batch, length)``."""
        batch = self.batch_of(x, context)
        start, move, potentials, _ = self.posterior.problem(given(self.posterior, context, x=x))
        beliefs, _ = filtered(start, move, in_precision(potentials, start.loc.dtype))
        loc = torch.stack([belief.loc for belief in beliefs], -2).expand(*batch, *self.latent_shape)
        covariance = torch.stack([belief.covariance for belief in beliefs], -3)
        return dist.MultivariateNormal(loc, covariance.expand(*batch, *covariance.shape[-3:]))

    def smooth(self, x: Tensor, context: Context = None) -> LinearChain:
        """Trajectories given all observations."""
        self.batch_of(x, context)
        return self.posterior_at(x, context)

    def objective(self) -> nn.Module:
        """The default objective, which ``fit`` uses: maximum likelihood."""
        return MaximumLikelihood(self)

    def last_states(self, x: Tensor, context: Context, particles: int = 1000) -> dist.MultivariateNormal:
        beliefs = self.filter(x, context)
        return dist.MultivariateNormal(beliefs.loc[..., -1, :], beliefs.covariance_matrix[..., -1, :, :])


def _alike(rows: Tensor) -> bool:
    """Whether all rows ``(*batch, length, n)`` are known to be the same."""
    flat = rows.reshape(-1, *rows.shape[-2:])
    return len(flat) > 0 and not is_functional((rows,)) and bool((flat == flat[:1]).all())


def rooted(raw: Tensor) -> Tensor:
    """A lower triangle with a positive diagonal, of which the logarithms stand in ``raw``."""
    return raw.tril(-1) + raw.diagonal().exp().diag()


def stable(raw: Tensor) -> Tensor:
    """A drift whose symmetric part is negative definite: every stable one is, in coordinates of its own."""
    root, turn = rooted(raw), raw.triu(1)
    return turn - turn.mT - root @ root.mT


def over_gaps(drift: Tensor, shift: Tensor, root: Tensor, gaps: Tensor) -> LinearTransition:
    """The transitions over gaps in time: those over short parts (Van Loan 1978), doubled until they are whole.

    Args:
        drift: :math:`F`, ``(states, states)``, or one for each gap.
        shift: :math:`b`, ``(*batch, length - 1, states)``.
        root: :math:`L`, as ``drift``.
        gaps: The times between steps, ``(*batch, length - 1)``.
    """
    states, gaps, drift, root = drift.shape[-1], gaps.double(), drift.double(), root.double()
    whole = gaps.detach() * torch.linalg.matrix_norm(drift.detach(), 1)
    doublings = whole.clamp(1e-9, 2.0**_MOST_DOUBLINGS).log2().ceil().clamp(min=0)
    part = (gaps * (-doublings).exp2())[..., None, None]
    zeros, one = torch.zeros_like(drift), torch.eye(states).to(drift).expand_as(drift)
    power = torch.linalg.matrix_exp(_block(-drift, root @ root.mT, zeros, drift.mT) * part)
    matrix = power[..., states:, states:].mT
    covariance = matrix @ power[..., :states, states:]
    moved = torch.linalg.matrix_exp(_block(drift, one, zeros, zeros) * part)[..., :states, states:]
    for count in range(_most(doublings)):
        more = (doublings > count)[..., None, None]
        covariance = torch.where(more, covariance + matrix @ covariance @ matrix.mT, covariance)
        moved = torch.where(more, moved + matrix @ moved, moved)
        matrix = torch.where(more, matrix @ matrix, matrix)
    root = cholesky(0.5 * (covariance + covariance.mT))
    return LinearTransition(matrix.to(shift), apply(moved, shift.double()).to(shift), root.to(shift))


def _most(doublings: Tensor) -> int:
    """How often a matrix is squared, if another decides by row."""
    if is_functional((doublings,)):
        return _MOST_DOUBLINGS
    return int(doublings.nan_to_num().max()) if doublings.numel() else 0


def _block(*parts: Tensor) -> Tensor:
    """A matrix of two times two parts."""
    return torch.cat([torch.cat(parts[:2], -1), torch.cat(parts[2:], -1)], -2)
