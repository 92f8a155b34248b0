"""Tempered SMC: posteriors under a diffusion prior where hundreds or thousands of numbers are measured."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from pyrogen.arguments import checked, count, inner_share, instance_of, integer
from pyrogen.numerics.grids import Grid
from pyrogen.training.checkpoint import Checkpoint
from pyrogen.training.progress import watched

from .answer import Answer, Results
from .particle_diagnostics import prior_evidence
from .problem import InverseProblem
from .saved import as_checkpoint, saved
from .split_move import beginning, split_move, started
from .tempered_diagnostics import TemperedDiagnostics
from .tempering import Tempering
from .unknowns import Unknowns

if TYPE_CHECKING:
    from tqdm import tqdm


class TemperedSMC(Answer):
    r"""The posterior of a diffusion prior under a measurement of many numbers, exact as particles are added.

    Where tens to thousands of numbers are measured it needs far fewer particles than
    :class:`~pyrogen.inverse.smc.TwistedSMC`. Under a linear measurement with Gaussian noise moves are exact; under any
    other likelihood (counts, outliers, saturation, rounding, nonlinear operators) they have a Metropolis correction.
    Other latent sites on which measurements depend, such as a noise scale or the width of a blur, move along.

    Exact means: for the law that the prior's chain of ``steps`` steps leaves as it is when it undoes noise of any size.
    A denoiser whose levels do not agree with each other, as a network's never quite do, has no such law.

    Particles come in independent groups, whose agreement says how many independent draws they are worth, and how far
    the evidence can be trusted (:meth:`diagnostics`).

    Args:
        model: The Pyro model. Its distribution at ``site`` has a ``denoiser`` with a ``schedule``, and perhaps a
            ``context``.
        site: The name of the latent site with the diffusion prior.
        particles: How many particles, a multiple of ``groups``.
        moves: How many moves of split Gibbs each particle makes at each level. All that they pass through is weighed
            for the next one.
        ess: The effective sample size that is left at each level, as a share of what is weighed: the less, the fewer
            levels.
        groups: How many independent groups the particles form. Moves that are not Gibbs moves are fitted to the first
            group, if there are several, and the evidence is that of the others.
        last_levels: How many levels, the last ones, have the posterior itself as their target. Nothing is weighed any
            more from one to the next; moves make particles forget the ancestors that they share, and cost least there.
        levels: The widths :math:`\tau` to go through, falling to 0, such as those of an earlier run,
            ``diagnostics().widths``: the noise of their own that data have, in data units, or where the measurement is
            not linear and Gaussian, or too large to be decomposed, that of the measurement in its own units, whose
            log-likelihood counts :math:`1 / (1 + \tau^2)` times. If not given, they are chosen by ``ess``.
        steps: How many steps the chain of the prior has, from noise to data.
        backward: How many backward passes through the denoiser each of these steps makes, so that it draws data with
            their covariance (:class:`~pyrogen.diffusion.samplers.CovarianceAncestral`); with 0 their numbers are drawn
            independently, with variances of a pilot run. It does not matter where the denoiser draws data exactly.
        grid: The noise levels of that chain; if not given, as for :class:`~pyrogen.inverse.smc.TwistedSMC`.
        chunk: How many particles (of all problems together) the denoiser takes at once.
        checkpoint: Where the run is saved after levels, if anywhere. A run that finds its file goes on from there, to
            the last random number; one that was finished, with more ``last_levels``, goes on to these.

    Raises:
        ValueError: a number is out of range; by ``run``: ``checkpoint`` holds a run of other settings, another model or
            other data.
        NotImplementedError: by ``run``: another latent site is discrete, or the site depends on it, or it on the site.
        RuntimeError: by ``run``: no draw of the prior makes the data possible.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
        >>> standard = dist.Normal(torch.zeros(20), 1.0).to_event(1)
        >>> prior = Diffusion(GaussianMixtureDenoiser(standard, LinearVP()))
        >>> def model(y):
        ...     x = pyro.sample("x", prior())
        ...     pyro.sample("y", dist.Normal(x[:10], 0.1).to_event(1), obs=y)
        >>> posterior = TemperedSMC(model, site="x").run(torch.zeros(10))
        >>> posterior.get_samples()["x"].shape
        torch.Size([256, 20])
        >>> posterior.diagnostics().collapsed
        False
    """

    @checked(
        ess=inner_share, moves=integer, groups=integer, last_levels=integer, grid=instance_of(Grid), backward=count
    )
    def __init__(
        self,
        model: Callable,
        *,
        site: str,
        particles: int = 256,
        moves: int = 4,
        ess: float = 0.7,
        groups: int = 4,
        last_levels: int = 1,
        levels: Sequence[float] | None = None,
        steps: int = 50,
        backward: int = 0,
        grid: Grid | None = None,
        chunk: int = 4096,
        checkpoint: str | os.PathLike | Checkpoint | None = None,
    ) -> None:
        super().__init__(model, site=site)
        if particles % groups:
            raise ValueError(f"`particles` must be a multiple of `groups` = {groups}, got {particles}")
        self.particles, self.moves, self.ess, self.groups = particles, moves, ess, groups
        self.last_levels = last_levels
        self.levels = None if levels is None else _levels(levels)
        self.steps, self.grid, self.chunk, self.backward = steps, grid, chunk, backward
        self.checkpoint = as_checkpoint(checkpoint)

    @torch.no_grad()
    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        with saved(self.checkpoint) as file:
            problem = InverseProblem(self.model, args, kwargs, self.site)
            problem.check_plain()
            unknowns = Unknowns(problem)
            move = split_move(unknowns, self.grid, self.steps, self.chunk, self.backward)
            run = Tempering(move, started(unknowns, move, self.particles), self.groups)
            evidence = prior_evidence(move.likelihood.constant + run.log_likelihood(0.0))
            file.resume(run, partial(beginning, unknowns, move), **self._settings(run))
            if self._zeros_due(run) < 0:
                raise ValueError(f"`last_levels` must be no fewer than in `checkpoint`, got {self.last_levels}")
            with watched(unit="level", initial=len(run.widths)) as bar:
                for width in self._widths(run):
                    run.go(width, self.moves)
                    file.save(run, last=self._zeros_due(run) == 0)
                    _show(bar, run)
        diagnostics = TemperedDiagnostics.of(run, evidence)
        return Results(
            unknowns.values(run.draws()),
            diagnostics,
            log_weights=torch.zeros(self.particles),
            log_evidence=diagnostics.log_evidence.to(run.x.dtype).reshape(unknowns.problems.shape),
        )

    def _widths(self, run: Tempering) -> Iterator[float]:
        """Those that were given, or down to zero, each as small as the effective sample size allows, and zero again."""
        yield from (self.levels or ())[len(run.widths) :]
        while run.width > 0:
            yield run.next_width(self.ess)
        yield from [0.0] * self._zeros_due(run)

    def _zeros_due(self, run: Tempering) -> int:
        """How many levels at the posterior itself are still to come."""
        return (self.levels or (0.0,)).count(0.0) + self.last_levels - 1 - run.widths.count(0.0)

    def _settings(self, run: Tempering) -> dict[str, Any]:
        """What a run that goes on must have in common with the one before it."""
        settings = {"method": "TemperedSMC", "shape": [self.particles, *run.x.shape[1:]], "groups": self.groups}
        settings |= {"moves": self.moves, "ess": self.ess, "levels": self.levels and list(self.levels)}
        return settings | {"noises": run.move.reverse.noises, "backward": self.backward}


def _levels(levels: Sequence[float]) -> tuple[float, ...]:
    found = tuple(levels)
    falling = all(after < before or before == after == 0 for before, after in pairwise((math.inf, *found)))
    if not found or found[-1] != 0 or not falling:
        raise ValueError(f"`levels` must fall to 0, got {levels}")
    return found


def _show(bar: tqdm, run: Tempering) -> None:
    if not bar.disable:
        bar.set_postfix({"width": f"{run.width:.3g}", "log evidence": f"{run.log_evidence.mean():.1f}"}, refresh=False)
        bar.update()
