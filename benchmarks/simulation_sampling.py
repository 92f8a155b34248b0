"""Posterior draws of a program with a learned likelihood: many particles, from a start to the posterior.

Particles follow the densities proportional to start to the power 1 - t times (prior times likelihood) to the power t,
for t from 0 to 1. The start is the prior, or a learned posterior. Each step of t is as large as keeps half of the
particles effective; after it they are resampled, and moved by a Metropolis walk along differences of other particles,
which fits itself to the posterior and jumps between its modes. No gradients.

References:
    Del Moral, Doucet and Jasra 2006, "Sequential Monte Carlo samplers", https://doi.org/10.1111/j.1467-9868.2006.00553.x
    Ter Braak 2006, "A Markov chain Monte Carlo version of the genetic algorithm differential evolution",
    https://doi.org/10.1007/s11222-006-8769-1
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import biject_to

from pyrogen.simulation import Joint

Density = Callable[[Tensor], Tensor]
ROWS = 10_000
"""Particles that are evaluated at once."""


@torch.no_grad()
def tempered_draws(
    joint: Joint,
    program: Callable[..., object],
    x: Tensor,
    n: int,
    *,
    start: TorchDistributionMixin | None = None,
    moves: int = 10,
    last: int = 20,
) -> Tensor:
    """Draws ``(n, D)`` of the latent site theta given x.

    Args:
        joint: The program that was learned.
        program: The same with a learned likelihood.
        x: What is observed.
        n: How many draws.
        start: Where particles begin, a distribution of theta; ten times as many, so that resampling repeats few. The
            prior if ``None``.
        moves: Moves of every particle after each step.
        last: Moves at the end.
    """
    densities = Densities(joint, program, x, start)
    u = densities.transform.inv(joint.prior(10 * n)["theta"] if start is None else start.sample((10 * n,)))
    begin, end = densities(u)
    t = 0.0
    while t < 1:
        step = _step(end - begin, 1 - t, n / 2)
        t = 1.0 if step == 1 - t else t + step
        chosen = _systematic((step * (end - begin)).softmax(0), n)
        u, begin, end = u[chosen], begin[chosen], end[chosen]
        for _ in range(last if t == 1 else moves):
            u, begin, end = _moved(u, begin, end, t, densities)
    return densities.transform(u[torch.randperm(n)])


class Densities:
    """Log-densities of unconstrained parameters: of the start, and of prior times likelihood."""

    def __init__(
        self, joint: Joint, program: Callable[..., object], x: Tensor, start: TorchDistributionMixin | None
    ) -> None:
        self.transform = biject_to(joint.latents["theta"].support)
        self.width = len(joint.observed["x"].batch_shape)
        self.program, self.x, self.start = program, x, start

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._of(part) for part in u.split(ROWS)]
        return tuple(torch.cat(found) for found in zip(*parts, strict=True))

    def _of(self, u: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.transform(u)
        placed = theta.reshape(len(u), *[1] * self.width, -1)
        # Rounding may take a particle to an end of its interval, where it has no density.
        with pyro.validation_enabled(False), pyro.plate("particles", len(u), dim=-1 - self.width):
            sites = poutine.trace(poutine.condition(self.program, {"theta": placed})).get_trace(self.x)
            sites.compute_log_prob(lambda name, site: name in ("theta", "x"))
            begin = None if self.start is None else self.start.log_prob(theta)
        prior, likelihood = (sites.nodes[name]["log_prob"].reshape(len(u), -1).sum(-1) for name in ("theta", "x"))
        begin = prior if begin is None else begin
        jacobian = self.transform.log_abs_det_jacobian(u, theta)
        return tuple(
            (part + jacobian).nan_to_num(-1e9, posinf=-1e9, neginf=-1e9) for part in (begin, prior + likelihood)
        )


def _step(log_weights: Tensor, most: float, effective: float) -> float:
    """The largest step of t, up to ``most``, whose weights have so many effective particles."""

    def size(step: float) -> float:
        return 1 / (step * log_weights).softmax(0).square().sum().item()

    if size(most) >= effective:
        return most
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) >= effective else (low, middle)
    return low


def _systematic(weights: Tensor, n: int) -> Tensor:
    places = (torch.arange(n, dtype=torch.float64) + torch.rand(n, dtype=torch.float64)) / n
    return torch.searchsorted(weights.double().cumsum(0), places).clamp(max=len(weights) - 1)


def _moved(u: Tensor, begin: Tensor, end: Tensor, t: float, densities: Densities) -> tuple[Tensor, Tensor, Tensor]:
    """One Metropolis move of each particle along the difference of two of the other half."""
    u, begin, end = u.clone(), begin.clone(), end.clone()
    halves = torch.randperm(len(u)).chunk(2)
    for moving, others in (halves, halves[::-1]):
        count, size = len(moving), u.shape[-1]
        first, second = (u[others[torch.randint(len(others), (count,))]] for _ in range(2))
        scale = 2.38 / math.sqrt(2 * size) * (torch.randn(count, 1) - 1.5).exp()
        scale[torch.rand(count) < 0.1] = 1.0  # from mode to mode
        proposal = u[moving] + scale * (first - second) + 1e-4 * torch.randn(count, size)
        new_begin, new_end = densities(proposal)
        change = (1 - t) * (new_begin - begin[moving]) + t * (new_end - end[moving])
        kept = torch.rand(count).log() < change
        accepted = moving[kept]
        u[accepted], begin[accepted], end[accepted] = proposal[kept], new_begin[kept], new_end[kept]
    return u, begin, end
