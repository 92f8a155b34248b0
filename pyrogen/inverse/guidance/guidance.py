r"""Guided sampling: fast, approximate draws, moved towards the measurements and never weighted.

A guidance makes the steps of the prior's chain, moved towards the measurements. That is one particle of a filter
without weights: cheap, and biased, since nothing corrects what the guidance gets wrong. Each method has the name
of its paper, with the bias that we measured: the sliced Wasserstein distance of its draws from the posterior on the
Gaussian-mixture problem of ``benchmarks/inverse.py`` (8 dimensions, 2 measurements), where exact draws score 0.06.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, instance_of, switch
from pyrogen.numerics.grids import Grid, default_grid

from ..answer import Answer, DrawDiagnostics, Results
from ..chain import Chain, Level, ReverseStep
from ..problem import InverseProblem
from ..surrogate import Surrogate
from ..target import Denoised, Target


class Guidance(ABC):
    """How particles step when something is measured. Subclasses define :meth:`__call__`."""

    @abstractmethod
    def __call__(self, target: Target, denoised: Denoised, step: ReverseStep) -> Tensor:
        """The particles at the next level, ``(P, N, D)``.

        Args:
            target: The prior and the measurements.
            denoised: The particles and their denoised means.
            step: The step of the prior's chain.
        """


def linear_gaussian(target: Target, denoised: Denoised, guidance: Guidance) -> Surrogate:
    """The likelihood, seen from the denoised means, for a guidance that can serve no other.

    Raises:
        NotImplementedError: a measurement is not linear, or its noise is not Gaussian.
    """
    surrogate = target.surrogate(denoised.mean)
    if not surrogate.exact:
        raise NotImplementedError(
            f"{type(guidance).__name__} serves linear measurements with Gaussian noise only; for others use "
            "MomentMatching, DPS, DAPS or TwistedSMC"
        )
    return surrogate


class GuidedSampling(Answer):
    """Approximate posterior draws under a diffusion prior, without weights or evidence.

    Args:
        model: The Pyro model, as for :class:`~pyrogen.inverse.smc.TwistedSMC`, without other latent sites.
        site: The name of the latent site with the diffusion prior.
        guidance: How particles step.
        draws: How many draws.
        steps: How many steps the chain of the prior has.
        grid: The noise levels; uniform in the log-SNR down to a noise of 0.01 data units if not given.
        calibrate: Whether a pilot run of the prior measures the variances of the steps, as TwistedSMC does. Otherwise
            they are ancestral, as in the papers, and lose some of the prior's variance.

    Raises:
        ValueError: a number is out of range, or the model has other latent sites.
    """

    no_evidence = "guided draws are never weighed, so that nothing estimates the evidence; TwistedSMC does"

    @checked(guidance=instance_of(Guidance), grid=instance_of(Grid), calibrate=switch)
    def __init__(
        self,
        model: Callable,
        *,
        site: str,
        guidance: Guidance,
        draws: int = 1000,
        steps: int = 100,
        grid: Grid | None = None,
        calibrate: bool = False,
    ) -> None:
        super().__init__(model, site=site)
        self.guidance = guidance
        self.draws, self.steps, self.grid, self.calibrate = draws, steps, grid, calibrate

    @torch.no_grad()
    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        problem = InverseProblem(self.model, args, kwargs, self.site)
        target, like = problem.target(problem.values), problem.values[self.site]
        if problem.others:
            raise ValueError(f"`model` must have no other latent sites for guided sampling, got {problem.others}")
        chain = Chain(target.schedule, self.grid or default_grid(target.schedule, self.steps))
        if self.calibrate:
            chain.calibrate(target.denoise, target.shape, like)
        x = chain.start((self.draws, *target.shape), like)
        for place, level in enumerate(chain.levels[:-1]):
            x = self.guidance(target, target.denoised(x, level), chain.step(place))
            self._check(x / chain.levels[place + 1].alpha, level, chain.levels[0])
        draws = problem.problems.whole(target.denoise(x, chain.levels[-1]))
        return Results({self.site: draws}, DrawDiagnostics(self.draws, law=f"an approximation, {self._kind}"))

    @property
    def _kind(self) -> str:
        return type(self.guidance).__name__

    def _check(self, x: Tensor, level: Level, first: Level) -> None:
        """Refuses particles, in units of the data, beyond the noise they started from, in which all data are hidden."""
        size, start = x.square().mean((0, -1)).sqrt().max().item(), first.variance**0.5
        chance = 6 / (x.shape[0] * x.shape[-1]) ** 0.5  # of the noise itself
        if not size < (3 + chance) * start:
            raise ValueError(
                f"`guidance` must lead particles to data, got size {size:.2g} at time {level.time:.2g} from "
                f"noise of {start:.2g}: {self._kind} diverged; give it the variance of the data where it takes one, or "
                "less strength, or take more `steps`"
            )
