r"""The twisted particle filter: particles that a twist moves from noise to data, with weights that correct for it.

The target is the path of the prior's chain :math:`x_T, \dots, x_0` times the likelihood :math:`p(y \mid x_0)`. With
twists :math:`\psi_t`, particles move by the chain's Gaussian with its denoised mean shifted by the twist, a
proposal :math:`q`, and gain the weight

.. math:: \frac{p(x_s \mid x_t)}{q(x_s \mid x_t)} \frac{\psi_s(x_s)}{\psi_t(x_t)} .

The last step draws :math:`x_0` from the surrogate's posterior and replaces the twist by the true likelihood, so the
weights of the final cloud are right whatever the twists are, and the average weight is an unbiased estimate of
:math:`p(y)`. Where the measurement is linear and its noise Gaussian, the last step is exact.

References:
    Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo methods",
    https://doi.org/10.1111/j.1467-9868.2009.00736.x
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrogen.numerics.resampling import conditional_systematic, effective_sample_size, order, systematic, take

from .chain import Chain, Level, ReverseStep
from .spread import DenseSpread
from .target import Target
from .twist import Twist


@dataclass
class Cloud:
    """Weighted particles at the end of a filter.

    Attributes:
        values: Of shape ``(P, N, D)``.
        log_weights: Unnormalized, of shape ``(P, N)``.
        log_evidence: The logarithm of the unbiased estimate of :math:`p(y)` for each problem, ``(N,)``.
        effective: The effective sample size before each step and at the end, ``(steps + 1, N)``.
        resampled: At which steps each problem was resampled, ``(steps, N)``.
        roots: How many particles of the first level have descendants in the end, ``(N,)``.
        path: The values of one particle at all levels and at the end, ``(steps + 2, N, D)``, if ``trace``.
    """

    values: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    effective: Tensor
    resampled: Tensor
    roots: Tensor
    path: Tensor | None = None


@dataclass
class _State:
    """Particles at a level: where they are, what they become, what they weigh."""

    x: Tensor
    mean: Tensor
    log_twist: Tensor
    shift: Tensor
    log_weights: Tensor
    roots: Tensor


@dataclass(frozen=True)
class Filter:
    """A twisted particle filter.

    Attributes:
        chain: The chain of the prior.
        twist: The twist.
        particles: How many particles.
        threshold: Resampling where the effective sample size falls below this part of the particles.
        chunk: How many rows the denoiser differentiates at once.
    """

    chain: Chain
    twist: Twist
    particles: int
    threshold: float = 0.5
    chunk: int = 4096

    @torch.no_grad()
    def __call__(self, target: Target, like: Tensor, *, retained: Tensor | None = None, trace: bool = False) -> Cloud:
        """Runs the filter.

        Args:
            target: The prior and the measurements.
            like: A tensor with the dtype and the device of the particles.
            retained: A path to keep as the first particle (conditional SMC), ``(levels + 1, N, D)``.
            trace: Whether to choose one particle at the end and return its path.
        """
        levels = self.chain.levels
        x = self._keep(self.chain.start((self.particles, *target.shape), like), retained, 0)
        state = self._evaluate(target, x, levels[0])
        state.log_weights = state.log_twist
        log_evidence = state.log_weights.new_zeros(target.shape[0])
        effective, resampled, history, parents = [], [], [x], []
        for place, next_level in enumerate(levels[1:], start=1):
            effective.append(effective_sample_size(state.log_weights))
            low = effective[-1] < self.threshold * self.particles
            resampled.append(low)
            gained, chosen = self._resample(state, low, retained is not None)
            log_evidence = log_evidence + gained
            self._move(target, state, self.chain.step(place - 1), next_level, retained, place)
            if trace:
                history.append(state.x)
                parents.append(chosen)
        self._finish(target, state, self.chain.errors[-1], retained)
        effective.append(effective_sample_size(state.log_weights))
        log_evidence = log_evidence + _log_mean(state.log_weights)
        return Cloud(
            values=state.x,
            log_weights=state.log_weights.to(x.dtype),
            log_evidence=log_evidence.to(x.dtype),
            effective=torch.stack(effective),
            resampled=torch.stack(resampled) if resampled else x.new_zeros(0, target.shape[0]).bool(),
            roots=_distinct(state.roots),
            path=_path(state, history, parents) if trace else None,
        )

    def _evaluate(self, target: Target, x: Tensor, level: Level) -> _State:
        """Denoised means and twists, a chunk of particles at a time."""
        parts = [self._evaluate_chunk(target, part, level) for part in x.split(max(1, self.chunk // x.shape[1]))]
        mean, log_twist, shift = (torch.cat(values) for values in zip(*parts, strict=True))
        # Log-weights are sums of large numbers that nearly cancel: in double precision.
        log_twist = log_twist.double().nan_to_num(-torch.inf, torch.inf, -torch.inf)
        roots = torch.arange(len(x), device=x.device).unsqueeze(-1).expand(x.shape[:2])
        return _State(x, mean, log_twist, shift.nan_to_num(0.0).to(x.dtype), log_twist, roots)

    def _evaluate_chunk(self, target: Target, x: Tensor, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        denoised = target.denoised(x, level)
        twisted = self.twist(target, denoised)
        return denoised.mean, twisted.log_value.detach(), twisted.shift.detach()

    def _resample(self, state: _State, low: Tensor, conditional: bool) -> tuple[Tensor, Tensor]:
        """Resamples the problems in ``low``; gives their evidence so far and everybody's parents."""
        log_weights = state.log_weights
        parents = torch.arange(len(log_weights), device=log_weights.device).unsqueeze(-1).expand_as(log_weights)
        if not low.any():
            return torch.zeros_like(log_weights[0]), parents
        if conditional:
            chosen = conditional_systematic(log_weights)
        else:
            along = order(state.mean)
            chosen = take(along, systematic(take(log_weights, along)))
        chosen = torch.where(low, chosen, parents)
        cloud = state.x, state.mean, state.log_twist, state.shift, state.roots
        state.x, state.mean, state.log_twist, state.shift, state.roots = (take(values, chosen) for values in cloud)
        alive = effective_sample_size(log_weights) > 0
        gained = torch.where(low & alive, _log_mean(log_weights), torch.zeros_like(log_weights[0]))
        # A dead cloud stays dead: with weights of one it would pass for a healthy one.
        state.log_weights = torch.where(low & alive, torch.zeros_like(log_weights), log_weights)
        return gained, chosen

    def _move(
        self, target: Target, state: _State, step: ReverseStep, level: Level, retained: Tensor | None, place: int
    ) -> None:
        mean = step.keep * state.x + step.pull * (state.mean + state.shift)
        x = self._keep(mean + step.scale * torch.randn_like(state.x), retained, place)
        # log p - log q of the step, from the noise and the shift of its mean: no large numbers cancel.
        noise, shift = (x - mean) / step.scale, step.pull / step.scale * state.shift
        ratio = -(noise * shift).sum(-1) - 0.5 * shift.square().sum(-1)
        new = self._evaluate(target, x, level)
        log_weights = state.log_weights + ratio + new.log_twist - state.log_twist
        state.x, state.mean, state.shift, state.log_twist = new.x, new.mean, new.shift, new.log_twist
        state.log_weights = log_weights.nan_to_num(-torch.inf, torch.inf, -torch.inf)

    def _finish(self, target: Target, state: _State, variance: Tensor, retained: Tensor | None) -> None:
        """Draws the data and puts the true likelihood in the twist's place."""
        surrogate = target.surrogate(state.mean)
        operator = surrogate.jacobian.double()
        spread = DenseSpread((variance.double() * operator) @ operator.mT)
        surrogate = surrogate.fitted(spread)
        shift = surrogate.draw(variance, spread).nan_to_num(0.0).to(state.x.dtype)  # its weight is zero
        if retained is not None:
            shift[0] = retained[-1] - state.mean[0]
        state.x = self._keep(state.mean + shift, retained, -1)
        ratio = surrogate.evidence_ratio(shift, spread)
        log_weights = state.log_weights + ratio + target.log_likelihood(state.x) - state.log_twist
        state.log_weights = log_weights.nan_to_num(-torch.inf, torch.inf, -torch.inf)

    @staticmethod
    def _keep(x: Tensor, retained: Tensor | None, place: int) -> Tensor:
        if retained is not None:
            x[0] = retained[place]
        return x


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _distinct(roots: Tensor) -> Tensor:
    """How many different numbers each column has."""
    ordered = roots.sort(0).values
    return 1 + (ordered[1:] != ordered[:-1]).sum(0)


def _path(state: _State, history: list[Tensor], parents: list[Tensor]) -> Tensor:
    """The path of one particle of each problem, chosen by weight, from noise to data."""
    weights = state.log_weights.softmax(0).nan_to_num(1 / len(state.log_weights))
    index = torch.multinomial(weights.T, 1).T  # (1, N)
    path = [take(state.x, index)]
    for x, chosen in zip(reversed(history[1:]), reversed(parents), strict=True):
        path.append(take(x, index))
        index = take(chosen, index)
    path.append(take(history[0], index))
    return torch.cat(path[::-1])
