r"""Linear-Gaussian chains: Kalman filtering towards the future, information filtering towards the past.

A *belief* is a normal distribution of a state, :math:`\mathcal{N}(\mu, R R^\top)`, with any root :math:`R`; a
*potential* is what observations say about a state, :math:`\psi(z) = e^{h^\top z - z^\top J z / 2}`, where :math:`J` may
be singular. With :math:`C C^\top = I + R^\top J R` and :math:`v = C^{-1} R^\top (h - J \mu)`, a belief met by a
potential is normal again, of root :math:`R C^{-\top}`, mean :math:`\mu + R C^{-\top} v` and normalizer

.. math:: \log \int \mathcal{N}(z; \mu, R R^\top) \, \psi(z) \, dz
    = h^\top \mu - \tfrac12 \mu^\top J \mu + \tfrac12 v^\top v - \log |C| .

That one step filters (the potential of an observation meets what is predicted), and makes the posterior of a state
given the one before (the potential of all further observations meets the transition).

References:
    Kalman 1960, "A new approach to linear filtering and prediction problems", https://doi.org/10.1115/1.3662552
    Särkkä 2013, "Bayesian filtering and smoothing", chapters 4 and 8, https://doi.org/10.1017/CBO9781139344203
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from pyrogen.numerics.linear import log_abs_det, solved

from .chain import Trajectories

_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Belief:
    """A normal distribution of a state.

    Attributes:
        loc: Its mean, ``(*batch, states)``.
        root: A root of its covariance, ``(*batch, states, states)``.
    """

    loc: Tensor
    root: Tensor

    @property
    def covariance(self) -> Tensor:
        """Its covariance, ``(*batch, states, states)``."""
        return self.root @ self.root.mT


@dataclass(frozen=True)
class LinearTransition:
    r"""Linear transitions :math:`z' \sim \mathcal{N}(A z + b, R R^\top)`, of one step or of all.

    Attributes:
        matrix: :math:`A`, ``(*batch, states, states)``.
        shift: :math:`b`, ``(*batch, states)``.
        root: :math:`R`, ``(*batch, states, states)``.
    """

    matrix: Tensor
    shift: Tensor
    root: Tensor

    def at(self, z: Tensor) -> Tensor:
        """The mean of the next state."""
        return apply(self.matrix, z) + self.shift

    def predict(self, belief: Belief) -> Belief:
        """What is believed of the next state."""
        spread = self.matrix @ belief.root
        covariance = spread @ spread.mT + self.root @ self.root.mT
        return Belief(self.at(belief.loc), cholesky(covariance))

    def steps(self) -> list[LinearTransition]:
        """Those of each step, of tensors that have the steps before their last one or two dimensions."""
        parts = self.matrix.unbind(-3), self.shift.unbind(-2), self.root.unbind(-3)
        return [LinearTransition(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class QuadraticPotential:
    """What observations say about a state.

    Attributes:
        linear: :math:`h`, ``(*batch, states)``.
        precision: :math:`J`, ``(*batch, states, states)``.
    """

    linear: Tensor
    precision: Tensor

    def __add__(self, other: QuadraticPotential) -> QuadraticPotential:
        return QuadraticPotential(self.linear + other.linear, self.precision + other.precision)

    def at(self, z: Tensor) -> Tensor:
        """Its logarithm at a state."""
        return ((self.linear - 0.5 * apply(self.precision, z)) * z).sum(-1)

    def meet(self, belief: Belief) -> tuple[Belief, Tensor]:
        """The belief after the observations, and how probable they were: the logarithm of the normalizer."""
        loc, root = belief.loc, belief.root
        score = self.linear - apply(self.precision, loc)
        factor = cholesky(_identity(root) + root.mT @ self.precision @ root)
        v = torch.linalg.solve_triangular(factor, apply(root.mT, score).unsqueeze(-1), upper=False)
        new_root = torch.linalg.solve_triangular(factor, root.mT, upper=False).mT
        log_normalizer = 0.5 * ((self.linear + score) * loc).sum(-1) + 0.5 * v.square().sum((-1, -2))
        return Belief(loc + (new_root @ v).squeeze(-1), new_root), log_normalizer - factor.diagonal(
            dim1=-2, dim2=-1
        ).log().sum(-1)

    def pulled_back(self, move: LinearTransition) -> QuadraticPotential:
        r"""What they say about the state before, :math:`\int p(z' \mid z) \, \psi(z') \, dz'`, up to a factor."""
        widened = _identity(self.precision) + self.precision @ (move.root @ move.root.mT)
        precision = solved(widened, self.precision)
        linear = solved(widened, self.linear.unsqueeze(-1)).squeeze(-1)
        linear = apply(move.matrix.mT, linear - apply(precision, move.shift))
        precision = move.matrix.mT @ precision @ move.matrix
        return QuadraticPotential(linear, 0.5 * (precision + precision.mT))

    def steps(self) -> list[QuadraticPotential]:
        """Those of each step."""
        pairs = zip(self.linear.unbind(-2), self.precision.unbind(-3), strict=True)
        return [QuadraticPotential(*pair) for pair in pairs]


class LinearChain(Trajectories):
    r"""A Markov chain of normals whose means are linear in the state before.

    Args:
        start: The distribution of the first state.
        move: The transitions, with the steps in front of the last one or two dimensions.
        batch_shape: Batch dimensions, to which those of the parameters broadcast.
        event_shape: ``(length, states)``.
        dtype: That of draws; the parameters, in which everything is computed, may be more precise.
    """

    has_rsample = True

    def __init__(
        self,
        start: Belief,
        move: LinearTransition,
        batch_shape: Iterable[int],
        event_shape: Iterable[int],
        *,
        dtype: torch.dtype | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.start, self.move = start, move
        self.dtype = start.loc.dtype if dtype is None else dtype
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return torch.stack([belief.loc for belief in self.marginals()], -2).expand(self.shape()).to(self.dtype)

    @property
    def variance(self) -> Tensor:
        scales = torch.stack([belief.root.square().sum(-1) for belief in self.marginals()], -2)
        return scales.expand(self.shape()).to(self.dtype)

    def marginals(self) -> list[Belief]:
        """The distribution of the state at each step by itself."""
        beliefs = [self.start]
        for move in self.move.steps():
            beliefs.append(move.predict(beliefs[-1]))
        return beliefs

    def _expanded(self, batch_shape: torch.Size) -> LinearChain:
        options = {"dtype": self.dtype, "validate_args": False}
        return LinearChain(self.start, self.move, batch_shape, self.event_shape, **options)

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.dtype, device=self.start.loc.device).to(self.start.loc)
        first = self.start.loc + apply(self.start.root, noise[..., 0, :])
        return self._continued(first, noise[..., 1:, :], 0).to(self.dtype)

    def continued(self, z: Tensor, step: int) -> Tensor:
        """Draws of the states from a step on, where it is ``z``, ``(*batch, states)``."""
        count = self.event_shape[0] - step - 1
        noise = torch.randn(*z.shape[:-1], count, z.shape[-1], dtype=z.dtype, device=z.device)
        return self._continued(z.to(self.start.loc), noise.to(self.start.loc), step).to(z.dtype)

    def score(self, z: Tensor) -> Tensor:
        dtype = torch.promote_types(z.dtype, self.dtype)
        z = z.to(torch.promote_types(z.dtype, self.start.loc.dtype))
        first = log_normal(self.start.root, z[..., 0, :] - self.start.loc)
        return (first + log_normal(self.move.root, z[..., 1:, :] - self.move.at(z[..., :-1, :])).sum(-1)).to(dtype)

    def _continued(self, z: Tensor, noise: Tensor, step: int) -> Tensor:
        states = [z]
        for move, fresh in zip(self.move.steps()[step:], noise.unbind(-2), strict=True):
            states.append(move.at(states[-1]) + apply(move.root, fresh))
        return torch.stack(states, -2)


Part = TypeVar("Part", Belief, LinearTransition, QuadraticPotential)


def filtered(start: Belief, move: LinearTransition, observations: QuadraticPotential) -> tuple[list[Belief], Tensor]:
    """What is believed of each state given the observations up to it, and the logarithm of the evidence.

    Potentials are without their constant, which the evidence lacks.
    """
    first, *rest = observations.steps()
    belief, evidence = first.meet(start)
    beliefs = [belief]
    for step, potential in zip(move.steps(), rest, strict=True):
        belief, more = potential.meet(step.predict(belief))
        beliefs.append(belief)
        evidence = evidence + more
    return beliefs, evidence


def log_evidence(start: Belief, move: LinearTransition, observations: QuadraticPotential) -> Tensor:
    r"""The logarithm of the evidence, ``batch``, by a parallel scan, which takes :math:`\log_2 T` rounds.

    What is observed of a state and the transition from it make a :class:`Segment` of the chain; neighbours are joined
    two by two, in double precision. Covariances are not inverted: they may be close to singular, as those of smooth
    processes are. A row with a parameter that is not finite is NaN.

    References:
        Särkkä and García-Fernández 2021, "Temporal parallelization of Bayesian smoothers",
        https://arxiv.org/abs/1905.13002
    """
    like = observations.linear
    segments, kept = _finite(_segments(*(in_precision(part, torch.float64) for part in (start, move, observations))))
    while (count := segments.shift.shape[-2]) > 1:
        pairs = segments.at(slice(0, count - 1, 2)).then(segments.at(slice(1, count, 2)))
        segments = pairs.followed_by(segments.at(slice(count - count % 2, count)))
    return torch.where(kept, segments.log_normalizer.squeeze(-1), math.nan).to(like)


@dataclass(frozen=True)
class Segment:
    r"""What lies between two states of a chain, from what is observed of the first to the second.

    .. math:: f(z, z') = e^{c + h^\top z - z^\top J z / 2} \, \mathcal{N}(z'; A z + b, C)

    All tensors have the segments in front of their last one or two dimensions; where all rows have the same matrices,
    these have no batch.

    Attributes:
        matrix: :math:`A`, ``(*batch, segments, states, states)``.
        covariance: :math:`C`, ``(*batch, segments, states, states)``.
        precision: :math:`J`, ``(*batch, segments, states, states)``.
        shift: :math:`b`, ``(*batch, segments, states)``.
        linear: :math:`h`, ``(*batch, segments, states)``.
        log_normalizer: :math:`c`, ``(*batch, segments)``.
    """

    matrix: Tensor
    covariance: Tensor
    precision: Tensor
    shift: Tensor
    linear: Tensor
    log_normalizer: Tensor

    def at(self, places: slice) -> Segment:
        """Some of them."""
        matrices = (part[..., places, :, :] for part in (self.matrix, self.covariance, self.precision))
        vectors = (part[..., places, :] for part in (self.shift, self.linear))
        return Segment(*matrices, *vectors, self.log_normalizer[..., places])

    def then(self, later: Segment) -> Segment:
        """Each joined with a later one: the state between them is integrated out."""
        states = self.shift.shape[-1]
        gate = _identity(self.covariance) + self.covariance @ later.precision
        matrix, covariance = solved(gate, torch.cat([self.matrix, self.covariance], -1)).split(states, -1)
        news = later.linear - apply(later.precision, self.shift)
        moved = apply(covariance, news)
        gain = (later.linear + news) * self.shift + news * moved
        return Segment(
            later.matrix @ matrix,
            later.matrix @ covariance @ later.matrix.mT + later.covariance,
            matrix.mT @ later.precision @ self.matrix + self.precision,
            apply(later.matrix, self.shift + moved) + later.shift,
            apply(matrix.mT, news) + self.linear,
            self.log_normalizer + later.log_normalizer + 0.5 * (gain.sum(-1) - log_abs_det(gate)),
        )

    def followed_by(self, more: Segment) -> Segment:
        """These and more of them."""
        dims = (-3, -3, -3, -2, -2, -1)
        pairs = zip(vars(self).values(), vars(more).values(), dims, strict=True)
        return Segment(*(_joined(first, second, dim) for first, second, dim in pairs))


def _segments(start: Belief, move: LinearTransition, observations: QuadraticPotential) -> Segment:
    """A chain as segments: one that ends in the first state, those between states, and one after the last."""
    around = lambda first, rest, last, dim: _joined(_joined(first, rest, dim), last, dim)  # noqa: E731
    nowhere, still = torch.zeros_like(start.root)[..., None, :, :], torch.zeros_like(start.loc)[..., None, :]
    matrix = around(nowhere, move.matrix, nowhere, -3)
    covariance = around(start.covariance[..., None, :, :], move.root @ move.root.mT, nowhere, -3)
    precision, linear = _joined(nowhere, observations.precision, -3), _joined(still, observations.linear, -2)
    shift = around(start.loc[..., None, :], move.shift, still, -2)
    alike = torch.broadcast_shapes(*(part.shape for part in (matrix, covariance, precision)))
    matrices = [part.expand(alike) for part in (matrix, covariance, precision)]
    vectors = torch.broadcast_tensors(shift, linear, shift.new_zeros(*alike[:-2], 1))[:2]
    return Segment(*matrices, *vectors, torch.zeros_like(vectors[0][..., 0]))


def _finite(segments: Segment) -> tuple[Segment, Tensor]:
    """Segments in which zeros stand for tensors that are not finite, and in which rows there were none."""
    parts, kept = [], torch.ones_like(segments.log_normalizer, dtype=torch.bool)
    for part, dims in zip(vars(segments).values(), ((-1, -2),) * 3 + ((-1,),) * 2, strict=False):
        finite = part.isfinite().all(dims[0]).all(-1) if len(dims) == 2 else part.isfinite().all(-1)
        parts.append(torch.where(finite.reshape(*finite.shape, *(1,) * len(dims)), part, 0.0))
        kept = kept & finite
    return Segment(*parts, segments.log_normalizer), kept.all(-1)


def _joined(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Along a dimension counted from the end, with the batch dimensions in front of it broadcast."""
    batch = torch.broadcast_shapes(first.shape[:dim], second.shape[:dim])
    return torch.cat([part.expand(*batch, *part.shape[dim:]) for part in (first, second)], dim)


def smoothed(
    start: Belief, move: LinearTransition, observations: QuadraticPotential
) -> tuple[Belief, LinearTransition]:
    """The chain of states given all observations: its first state and its transitions."""
    first, *rest = ahead(move, observations)
    met = [_met(step, message) for step, message in zip(move.steps(), rest, strict=True)]
    return first.meet(start)[0], _stacked(met, move)


def ahead(move: LinearTransition, observations: QuadraticPotential) -> list[QuadraticPotential]:
    """What the observations from each step on say about its state, up to a factor."""
    parts = observations.steps()
    messages = [parts[-1]]
    for step, potential in zip(reversed(move.steps()), reversed(parts[:-1]), strict=True):
        messages.append(potential + messages[-1].pulled_back(step))
    return messages[::-1]


def _met(move: LinearTransition, potential: QuadraticPotential) -> LinearTransition:
    """A transition that a potential of the next state meets: linear again."""
    belief, _ = potential.meet(Belief(move.shift, move.root))
    gain = belief.root @ belief.root.mT @ potential.precision
    return LinearTransition(move.matrix - gain @ move.matrix, belief.loc, belief.root)


def _stacked(moves: list[LinearTransition], like: LinearTransition) -> LinearTransition:
    if not moves:
        return like
    shift = torch.stack([move.shift for move in moves], -2)
    return LinearTransition(
        torch.stack([move.matrix for move in moves], -3), shift, torch.stack([move.root for move in moves], -3)
    )


def in_precision(part: Part, dtype: torch.dtype) -> Part:
    """The same in another floating-point precision."""
    return replace(part, **{field.name: getattr(part, field.name).to(dtype) for field in fields(part)})


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices on vectors, batch by batch."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def log_normal(root: Tensor, difference: Tensor) -> Tensor:
    """The log-density of normals at a difference from their means, of roots of covariances."""
    batch = torch.broadcast_shapes(root.shape[:-2], difference.shape[:-1])
    noise = solved(root.expand(*batch, -1, -1), difference.expand(*batch, -1).unsqueeze(-1))
    size = difference.shape[-1]
    return -0.5 * (noise.square().sum((-1, -2)) + size * _LOG_2PI) - log_abs_det(root)


def cholesky(matrix: Tensor) -> Tensor:
    """The Cholesky factor of each matrix; NaN of one that has none, which leaves the others alone."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where((failed == 0)[..., None, None], factor, math.nan)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
