"""Trajectories of states as a distribution: drawn step by step, scored in one pass."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.values import require_value

from .kernels import Message, Normal, PosteriorKernel, StateKernel

_LOG_2PI = math.log(2 * math.pi)


class Trajectories(PyrogenDistribution):
    """A distribution of trajectories of states, ``(length, states)``; abstract.

    A row that holds NaN has ``log_prob`` NaN, one that holds an infinity minus infinity (with validation off); neither
    touches the gradients of others.
    """

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 2)

    @abstractmethod
    def score(self, z: Tensor) -> Tensor:
        """The log-probability of trajectories that are finite."""

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        bad = ~value.isfinite()
        score = self.score(torch.where(bad, 0.0, value))
        score = score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))
        missing = value.isnan().flatten(-2).any(-1)
        return torch.where(bad.flatten(-2).any(-1), torch.where(missing, math.nan, -math.inf).to(score), score)


class StateChain(Trajectories):
    r"""A chain of diagonal normals, :math:`p(z) = p(z_1) \prod_t p(z_t \mid z_{t-1})`, or each given all before.

    Args:
        kernel: The distribution of the first state, and of each further one given the one before.
        batch_shape: Batch dimensions, to which those of the kernel broadcast.
        event_shape: ``(length, states)``.
    """

    has_rsample = has_rsample_and_log_prob = True

    def __init__(
        self,
        kernel: StateKernel,
        batch_shape: Iterable[int],
        event_shape: Iterable[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.kernel = kernel
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> StateChain:
        return StateChain(self.kernel, batch_shape, self.event_shape, validate_args=False)

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self._draw(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
        z, noise, log_scale = self._draw(sample_shape)
        return z, _log_prob(noise, log_scale)

    def score(self, z: Tensor) -> Tensor:
        first, rest = self.kernel.first, self.kernel(z[..., :-1, :])
        loc, log_scale = (_joined(start, more) for start, more in zip(first, rest, strict=True))
        return _log_prob((z - loc) / log_scale.exp(), log_scale)

    def continued(self, start: Tensor, step: int) -> Tensor:
        """Draws of the states from a step on, where it and the memory before it are ``start``, ``(*batch, n)``."""
        z, memory = start[..., : self.event_shape[1]], start[..., self.event_shape[1] :]
        states, memory = [z], memory if memory.shape[-1] else None
        for move in self.kernel.steps()[step:]:
            (loc, log_scale), memory = move(states[-1], memory)
            states.append(torch.addcmul(loc, log_scale.exp(), torch.randn_like(loc)))
        return torch.stack(states, -2)

    def _draw(self, sample_shape: Iterable[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Trajectories, their noise, and the log-scales that it was multiplied by."""
        loc, log_scale = self.kernel.first
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        start, *rest = noise.unbind(-2)
        states, scales, memory = [torch.addcmul(loc, log_scale.exp(), start)], [log_scale.expand_as(start)], None
        for step, fresh in zip(self.kernel.steps(), rest, strict=True):
            (loc, log_scale), memory = step(states[-1], memory)
            states.append(torch.addcmul(loc, log_scale.exp(), fresh))
            scales.append(log_scale)
        return torch.stack(states, -2), noise, torch.stack(scales, -2)


class PosteriorChain(StateChain):
    """The chain of a posterior, whose steps go through those of the prior."""

    kernel: PosteriorKernel

    def _expanded(self, batch_shape: torch.Size) -> PosteriorChain:
        return PosteriorChain(self.kernel, batch_shape, self.event_shape, validate_args=False)

    def rsample_and_rate(self, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
        r"""Draws, and :math:`\log q(z) - \log p(z)` of each, of one pass through the transition of the prior."""
        loc, log_scale = self.kernel.kernel.first
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        start, *rest = noise.unbind(-2)
        first, *messages = self.kernel.message.steps()
        steps = zip(self.kernel.kernel.steps(), messages, rest, strict=True)
        prior, memory = (loc.expand_as(start), log_scale.expand_as(start)), None
        taken = [_met(prior, first, start)]
        for step, message, fresh in steps:
            prior, memory = step(taken[-1][0], memory)
            taken.append(_met(prior, message, fresh))
        # What is no link of the chain is computed of all steps at once.
        z, loc, before, after = (torch.stack(each, -2) for each in zip(*taken, strict=True))
        apart = (z - loc) / before.exp()
        return z, (before - after + 0.5 * (apart.square() - noise.square())).sum((-1, -2))


def _met(prior: Normal, message: Message, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A state, the mean and the log-scale that it had before its message, and the log-scale after it."""
    loc, log_scale = message.meet(prior)
    return torch.addcmul(loc, log_scale.exp(), noise), *prior, log_scale


def _joined(first: Tensor, rest: Tensor) -> Tensor:
    """The parameters of all steps, of those of the first and of the others."""
    batch = torch.broadcast_shapes(first.shape[:-1], rest.shape[:-2])
    return torch.cat([part.expand(*batch, -1, -1) for part in (first.unsqueeze(-2), rest)], -2)


def _log_prob(noise: Tensor, log_scale: Tensor) -> Tensor:
    size = noise.shape[-2] * noise.shape[-1]
    return -0.5 * _LOG_2PI * size - torch.add(log_scale, noise.square(), alpha=0.5).sum((-1, -2))
