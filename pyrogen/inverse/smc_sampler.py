r"""SMC samplers: the posterior of any Pyro model, and its evidence, by particles that come from the prior.

Particles are draws of :math:`p(z) \, p(y \mid z)^t`, of the prior at :math:`t = 0` and of the posterior at 1. Those at
one power become those of the next by the weight :math:`p(y \mid z)^{t' - t}`. Then they are resampled, and moved by
Metropolis steps. The product of the mean weights estimates :math:`p(y)`, with a bias of order one over the particles,
since powers and steps follow from them.

A step leads along the difference of two other particles, so that its size and direction are those of the posterior by
themselves, and now and then from one mode to another. It needs no gradient. Half of a group moves while the other half,
which the differences are of, stays.

References:
    Del Moral, Doucet and Jasra 2006, "Sequential Monte Carlo samplers",
    https://doi.org/10.1111/j.1467-9868.2006.00553.x
    Ter Braak 2006, "A Markov chain Monte Carlo version of the genetic algorithm differential evolution",
    https://doi.org/10.1007/s11222-006-8769-1
    Goodman and Weare 2010, "Ensemble samplers with affine invariance", https://doi.org/10.2140/camcos.2010.5.65
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide.initialization import init_to_sample
from torch import Tensor

from pyrogen.arguments import checked, inner_share, integer
from pyrogen.numerics.randomness import seeded
from pyrogen.numerics.resampling import effective_sample_size, systematic, take
from pyrogen.training.progress import watched

from .answer import Answer, Results
from .free_sites import started
from .group_diagnostics import GroupDiagnostics
from .latent_density import LatentDensity
from .many_chains import refuse_noise
from .noise import constant
from .particle_diagnostics import prior_evidence

_OPTIMAL, _SMALLER, _WHOLE = 2.38, 1.5, 0.1  # steps: the scale, how much less most of them are, and the share of jumps
_JITTER = 1e-4  # of the spread of particles
_BISECTIONS = 40
_PILED = 0.05  # of draws, that may be one and the same number
_ALONE, _APART = 8, 0.1  # particles whose density is compared with that of single runs, and nats between the two


class SMCSampler(Answer):
    """The posterior of any Pyro model with continuous latent sites and its evidence, by particles, without gradients.

    It finds modes that lie apart, each with its share, and says how probable the data are under the model, so that
    models can be compared. It serves posteriors of up to a few tens of numbers; of more,
    :class:`~pyrogen.inverse.many_chains.ManyChains` makes better use of each run of the model. Sites of constrained
    support are sampled in unconstrained coordinates.

    Particles come in independent groups, whose agreement says how many independent draws they are worth, and how far
    the evidence can be trusted (:meth:`diagnostics`).

    Args:
        model: The Pyro model.
        particles: How many particles, a multiple of ``groups``.
        moves: How many moves each particle makes at each level.
        last_moves: How many at the last one, the posterior.
        ess: The effective sample size that is left at each level, as a share of the particles: the less, the fewer
            levels.
        most_levels: How many levels there are at most: the last one takes what is left in one step. A run that needs
            more has lost the posterior, and says so.
        groups: How many independent groups the particles form, each of at least eight.
        chunk: How many particles the model runs for at once.
        seed: Of all random numbers; torch's generator gives one if it is not given.

    Raises:
        ValueError: a number is out of range; by ``run``: the model has no continuous latent site, data are missing, or
            of a density that is known up to a constant only, many draws of a latent site are the same number, or the
            model gives a draw another density among many than alone.
        NotImplementedError: by ``run``: a latent site is discrete, or a part of an observation, or a mask hides it, or
            the density of the model is another at every call.
        RuntimeError: by ``run``: no draw of the prior makes the data possible.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(x.abs(), 0.1), obs=y)  # two modes
        >>> posterior = SMCSampler(model, seed=0).run(torch.tensor(1.0))
        >>> abs(posterior.log_evidence.item() + 0.726) < 0.2  # log N(1; 0, 1.01) + log 2
        True
        >>> 0.4 < (posterior.get_samples()["x"] > 0).float().mean().item() < 0.6
        True
    """

    @checked(moves=integer, last_moves=integer, ess=inner_share, most_levels=integer, groups=integer)
    def __init__(
        self,
        model: Callable,
        *,
        particles: int = 1024,
        moves: int = 10,
        last_moves: int = 20,
        ess: float = 0.5,
        most_levels: int = 200,
        groups: int = 4,
        chunk: int = 10_000,
        seed: int | None = None,
    ) -> None:
        super().__init__(model)
        if particles % groups or particles < 8 * groups:
            raise ValueError(f"`particles` must be a multiple of `groups` = {groups}, at least 8 each, got {particles}")
        self.particles, self.moves, self.last_moves, self.ess = particles, moves, last_moves, ess
        self.most_levels, self.groups, self.chunk, self.seed = most_levels, groups, chunk, seed

    @torch.no_grad()
    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        with seeded(self.seed), constant(started(self.model, init_to_sample), args, kwargs):
            density = LatentDensity(self.model, args, kwargs)
            x = density.prior(self.particles)
            _refuse_piles(density, x)
            run = _Run(Parts(density, self.chunk), x, self.groups)
            possible = run.x[(run.log_prior + run.log_likelihood).isfinite()]
            if len(possible) > 1:
                refuse_noise(density, possible)
            evidence = prior_evidence(run.log_likelihood.reshape(-1, 1))
            with watched(unit="level") as bar:
                while run.power < 1:
                    run.reweigh(self.ess, last=len(run.accepted) == self.most_levels - 1)
                    run.move(self.moves if run.power < 1 else self.last_moves)
                    bar.update()
            _compare_alone(density, run)
            draws = density.completed(run.draws())
        diagnostics = GroupDiagnostics.of_groups(
            run.x.transpose(0, 1).unsqueeze(2),
            run.roots.reshape(-1, 1),
            run.log_evidence.unsqueeze(1),
            self.particles,
            effective_sample_size=torch.stack(run.effective).unsqueeze(1),
            pilots=0,
            accepted=run.accepted,
            prior=evidence,
        )
        return Results(
            draws,
            diagnostics,
            log_weights=torch.zeros(self.particles),
            log_evidence=diagnostics.log_evidence[0].to(run.x.dtype),
        )


@dataclass(frozen=True)
class Parts:
    """The density of points in two parts: that of the prior, and the likelihood.

    Attributes:
        density: That of the model.
        chunk: How many points it takes at once.
    """

    density: LatentDensity
    chunk: int

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two parts ``batch`` of points ``(*batch, D)``; minus infinity where there is none."""
        parts = [self.density.parts(part) for part in x.flatten(0, -2).split(self.chunk)]
        whole = (torch.cat(part).double().reshape(x.shape[:-1]) for part in zip(*parts, strict=True))
        return tuple(part.nan_to_num(-torch.inf, -torch.inf, -torch.inf) for part in whole)


class _Run:
    """Particles of ``G`` groups on the way to the posterior.

    Args:
        parts: The density.
        x: Draws of the prior, ``(P, D)``.
        groups: How many groups.

    Attributes:
        x: The particles, ``(K, G, D)``.
        log_prior: Their log-density under the prior, ``(K, G)``.
        log_likelihood: That of the data, ``(K, G)``.
        power: That of the likelihood.
        log_evidence: So far, ``(G,)``.
        roots: Of which draw of the prior each particle is, ``(K, G)``.
        effective: The effective sample size on the way to each level, as a share.
        accepted: The share of steps that were taken at each level.
    """

    def __init__(self, parts: Parts, x: Tensor, groups: int) -> None:
        self.parts, self.x = parts, x.unflatten(0, (-1, groups))
        self.log_prior, self.log_likelihood = parts(self.x)
        self.log_likelihood[self.log_prior.isinf()] = -math.inf  # what has no density is not to stay
        self.power, self.log_evidence = 0.0, self.log_prior.new_zeros(groups)
        self.roots = torch.arange(len(x), device=x.device).unflatten(0, (-1, groups))
        self.effective: list[Tensor] = []
        self.accepted: list[float] = []

    def reweigh(self, share: float, *, last: bool) -> None:
        """Weighs particles for the largest power at which such a share of them is effective, and resamples them.

        Args:
            share: Of the particles.
            last: Whether the power becomes one whatever is effective then.
        """
        step = 1 - self.power if last else self._step(share)
        log_weights = self._gained(step)
        self.effective.append(self._effective(step))
        self.log_evidence += log_weights.logsumexp(0) - math.log(len(log_weights))
        self.power = min(1.0, self.power + step)
        chosen = systematic(log_weights)
        for name in ("x", "log_prior", "log_likelihood", "roots"):
            setattr(self, name, take(getattr(self, name), chosen))

    def move(self, moves: int) -> None:
        """Moves all particles so many times."""
        taken = [self._step_of(half) for _ in range(moves) for half in self._halves()]
        self.accepted.append(math.fsum(taken) / len(taken))

    def draws(self) -> Tensor:
        """As many draws, in random order, ``(P, D)``: more of groups with more evidence."""
        x = self.x[torch.randperm(len(self.x), device=self.x.device)].flatten(0, 1)
        drawn = x[systematic(self.log_evidence.expand(self.x.shape[:2]).flatten())]
        return drawn[torch.randperm(len(drawn), device=drawn.device)]

    def _step(self, share: float) -> float:
        possible = self.log_likelihood.isfinite().double().mean()
        if not possible > 0:
            raise RuntimeError(
                "no draw of the prior makes the data possible; use more particles, or another likelihood"
            )
        low, high = 0.0, 1 - self.power
        if self._effective(high) >= share * possible:
            return high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._effective(middle) >= share * possible else (low, middle)
        return high

    def _effective(self, step: float) -> Tensor:
        weights = self._gained(step).flatten()
        return effective_sample_size(weights) / len(weights)

    def _gained(self, step: float) -> Tensor:
        """Log-weights at a power that is larger by a step; what is impossible stays so."""
        return (step * self.log_likelihood).nan_to_num(-math.inf, math.inf, -math.inf)

    def _halves(self) -> tuple[tuple[Tensor, Tensor], ...]:
        first, second = torch.randperm(len(self.x), device=self.x.device).chunk(2)
        return (first, second), (second, first)

    def _step_of(self, half: tuple[Tensor, Tensor]) -> float:
        """One Metropolis step of half of the particles along differences of the others."""
        moving, others = half
        here, other = self.x[moving], self.x[others]
        proposed = here + self._scales(here) * self._differences(other, len(here))
        proposed += _JITTER * other.std(0) * torch.randn_like(here)
        log_prior, log_likelihood = self.parts(proposed)
        gained = log_prior + self.power * log_likelihood
        gained -= self.log_prior[moving] + self.power * self.log_likelihood[moving]
        taken = torch.rand_like(gained).log() < gained  # not where it is NaN
        self.x[moving] = torch.where(taken.unsqueeze(-1), proposed, here)
        self.log_prior[moving] = torch.where(taken, log_prior, self.log_prior[moving])
        self.log_likelihood[moving] = torch.where(taken, log_likelihood, self.log_likelihood[moving])
        return taken.double().mean().item()

    @staticmethod
    def _scales(here: Tensor) -> Tensor:
        """How long steps are, of the difference of two particles, ``(m, G, 1)``: one leads from mode to mode."""
        shape = (*here.shape[:-1], 1)
        scales = _OPTIMAL / math.sqrt(2 * here.shape[-1]) * (torch.randn(shape).to(here) - _SMALLER).exp()
        return torch.where(torch.rand(shape).to(here) < _WHOLE, 1.0, scales)

    @staticmethod
    def _differences(x: Tensor, count: int) -> Tensor:
        """Of two different particles of a group, ``(count, G, D)``."""
        shape = (count, x.shape[1])
        first = torch.randint(len(x), shape, device=x.device)
        second = (first + torch.randint(1, len(x), shape, device=x.device)) % len(x)
        return take(x, first) - take(x, second)


def _refuse_piles(density: LatentDensity, x: Tensor) -> None:
    """Raises a ValueError where draws lie beyond the numbers there are: moves would follow a density without them."""
    for name, part in density.by_site(x).items():
        columns = part.reshape(len(x), -1).nan_to_num().T
        most = max((int(column.unique(return_counts=True)[1].max()) for column in columns), default=0)
        if most > max(1, _PILED * len(x)):
            raise ValueError(
                f"`model` must draw different numbers at a latent site with a density, got {most} of {len(x)} that are "
                f"one and the same at {name!r}: {part.dtype} has none so small, so large, or so near the end of the "
                "support; use double precision, or another prior"
            )


def _compare_alone(density: LatentDensity, run: _Run) -> None:
    """Raises a ValueError where the density of a particle among others is not what a single run gives."""
    x, found = run.x.flatten(0, 1), (run.log_prior + run.log_likelihood).flatten()
    some = torch.randperm(len(x), device=x.device)[:_ALONE]
    found, alone = found[some], density.alone(x[some]).double()
    wrong = (found - alone).abs() > _APART + 1e-3 * alone.abs()
    if wrong.any():
        raise ValueError(
            f"`model` must give a draw the log-density that it has alone, got {found[wrong][0]:.2f} among "
            f"others and {alone[wrong][0]:.2f} alone; compute no number of all draws together, and branch on none"
        )
