r"""Proposals of particles: the chain of a posterior, step by step, each step weighed against the prior.

The next state of each particle is drawn from :math:`q(z_t \mid z_{t-1})`, and its weight changes by

.. math:: \frac{p(z_t \mid z_{t-1})}{q(z_t \mid z_{t-1})} = \frac{Z_t(z_{t-1})}{\psi_t(z_t)} ,

where :math:`\psi_t` is what observations say about the state, and :math:`Z_t` about the particle before it is drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pyrogen.numerics.resampling import take

from .gaussian import Belief, LinearTransition, QuadraticPotential, apply
from .kernels import Message, Normal, Step, StepKernel


@dataclass(frozen=True)
class Proposal(ABC):
    """The distribution of the next state of each particle; abstract.

    Attributes:
        memory: What is remembered of the states before, ``(*shape, n)``, if anything.
    """

    memory: Tensor | None

    @property
    @abstractmethod
    def log_normalizer(self) -> Tensor:
        r""":math:`\log Z_t`, how probable what comes is, ``(*shape)``; zeros where that is unknown."""

    @abstractmethod
    def chosen(self, places: Tensor) -> Self:
        """That of other particles, which are taken from these ``(particles, *batch)``."""

    @abstractmethod
    def drawn(self) -> tuple[Tensor, Tensor]:
        """States ``(*shape, states)``, and the logarithms of what their weights change by."""


Propose = Callable[[Tensor, Tensor | None], Proposal]
"""From states, and the memory of those before them, to the proposal of the next."""


class Proposals(ABC):
    """The proposals of all steps; abstract."""

    @abstractmethod
    def first(self, shape: torch.Size) -> Proposal:
        """That of the first state, of particles ``shape``."""

    @abstractmethod
    def steps(self) -> list[Propose]:
        """For each further step, what gives its proposal."""


@dataclass(frozen=True)
class NormalProposals(Proposals):
    """The steps of a chain of diagonal normals.

    Attributes:
        kernel: That of the prior.
        message: What observations say about each state.
    """

    kernel: StepKernel
    message: Message

    def first(self, shape: torch.Size) -> Proposal:
        prior = tuple(part.expand(*shape, -1) for part in self.kernel.first)
        return _NormalProposal(None, prior, self.message.first())

    def steps(self) -> list[Propose]:
        pairs = zip(self.kernel.steps(), self.message.steps()[1:], strict=True)
        return [_NormalStep(step, message) for step, message in pairs]


@dataclass(frozen=True)
class _NormalStep:
    step: Step
    message: Message

    def __call__(self, z: Tensor, memory: Tensor | None) -> Proposal:
        prior, memory = self.step(z, memory)
        return _NormalProposal(memory, prior, self.message)


@dataclass(frozen=True)
class _NormalProposal(Proposal):
    prior: Normal
    message: Message

    @property
    def log_normalizer(self) -> Tensor:
        return self.message.log_normalizer(self.prior)

    def chosen(self, places: Tensor) -> Self:
        loc, log_scale = self.prior
        memory = None if self.memory is None else take(self.memory, places)
        return replace(self, memory=memory, prior=(take(loc, places), take(log_scale.expand_as(loc), places)))

    def drawn(self) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.message.meet(self.prior)
        noise = torch.randn_like(loc)
        z = torch.addcmul(loc, log_scale.exp(), noise)
        apart = (z - self.prior[0]) / self.prior[1].exp()
        change = 0.5 * (noise.square() - apart.square()) + log_scale - self.prior[1]
        return z, change.sum(-1)


@dataclass(frozen=True)
class LinearProposals(Proposals):
    """The steps of a linear-Gaussian chain.

    Attributes:
        start: The first state under the prior.
        moves: Transitions to each further one.
        messages: What the observations from each step on say about its state.
        dtype: That of states, which are computed in the precision of the others.
    """

    start: Belief
    moves: list[LinearTransition]
    messages: list[QuadraticPotential]
    dtype: torch.dtype

    def first(self, shape: torch.Size) -> Proposal:
        loc = self.start.loc.expand(*shape, -1)
        return _LinearProposal(None, Belief(loc, self.start.root), self.messages[0], self.dtype)

    def steps(self) -> list[Propose]:
        pairs = zip(self.moves, self.messages[1:], strict=True)
        return [_LinearStep(move, message, self.dtype) for move, message in pairs]


@dataclass(frozen=True)
class _LinearStep:
    move: LinearTransition
    message: QuadraticPotential
    dtype: torch.dtype

    def __call__(self, z: Tensor, memory: Tensor | None) -> Proposal:
        prior = Belief(self.move.at(z.to(self.move.shift)), self.move.root)
        return _LinearProposal(memory, prior, self.message, self.dtype)


@dataclass(frozen=True)
class _LinearProposal(Proposal):
    prior: Belief
    message: QuadraticPotential
    dtype: torch.dtype

    @property
    def log_normalizer(self) -> Tensor:
        return self.message.meet(self.prior)[1].to(self.dtype)

    def chosen(self, places: Tensor) -> Self:
        return replace(self, prior=Belief(take(self.prior.loc, places), self.prior.root))

    def drawn(self) -> tuple[Tensor, Tensor]:
        belief, log_normalizer = self.message.meet(self.prior)
        z = (belief.loc + apply(belief.root, torch.randn_like(belief.loc))).to(self.dtype)
        return z, (log_normalizer - self.message.at(z.to(belief.loc))).to(self.dtype)
