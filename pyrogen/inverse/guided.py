r"""Guided sampling: fast, approximate draws, each led by the measurements and never weighed.

A guidance moves every step of the prior's chain towards the measurements. That is one particle of a filter without
weights: cheap, and biased, since nothing corrects what the guidance gets wrong. Each method stands in its own file
under the name of its paper, with the bias that we measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrogen.numerics.grids import Grid

from .chain import Chain, Level, Step
from .grid import default_grid
from .setting import Setting
from .twist import Denoised, Target


class Guidance:
    """How measurements move a step. Subclasses define :meth:`__call__`."""

    def __call__(self, target: Target, denoised: Denoised, step: Step) -> Tensor:
        """What to add to the next particles, ``(P, N, D)``.

        Args:
            target: The measurements.
            denoised: The particles and their denoised means.
            step: The step of the prior's chain that is to be moved.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(target, denoised, step)`")


class GuidedSampling:
    """Approximate posterior draws under a diffusion prior, without weights or evidence.

    Args:
        model: The Pyro model, as for :class:`~pyrogen.inverse.smc.TwistedSMC`, without other latent sites.
        site: The name of the latent site with the diffusion prior.
        guidance: How measurements move a step.
        draws: How many draws.
        steps: How many steps the chain of the prior has.
        grid: The noise levels; as for TwistedSMC if not given.

    Raises:
        ValueError: a number is out of range, or the model has other latent sites.
    """

    def __init__(
        self,
        model: Callable,
        *,
        site: str,
        guidance: Guidance,
        draws: int = 1000,
        steps: int = 100,
        grid: Grid | None = None,
    ) -> None:
        for name, value in (("draws", draws), ("steps", steps)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        self.model, self.site, self.guidance = model, site, guidance
        self.draws, self.steps, self.grid = draws, steps, grid
        self._draws: Tensor | None = None

    @torch.no_grad()
    def run(self, *args: Any, **kwargs: Any) -> GuidedSampling:
        """Draws given the arguments of the model; gives itself."""
        setting = Setting(self.model, args, kwargs, self.site)
        if setting.others:
            raise ValueError(f"`model` must have no other latent sites for guided sampling, got {setting.others}")
        target, like = setting.posterior(setting.values), setting.values[self.site]
        schedule = setting.denoiser.schedule
        chain = Chain(schedule, self.grid or default_grid(schedule, self.steps))
        x = chain.start((self.draws, *target.shape), like)
        for place, level in enumerate(chain.levels[:-1]):
            denoised = self._look(target.denoise, x, level)
            step = chain.step(place)
            moved = self.guidance(target, denoised, step)
            x = step.mean(x, denoised.mean) + moved + step.scale * torch.randn_like(x)
        self._draws = setting.problems.whole(target.denoise(x, chain.levels[-1]))
        return self

    def get_samples(self) -> dict[str, Tensor]:
        """The draws, equally weighted and approximate."""
        if self._draws is None:
            raise ValueError("`run(*args)` must come first")
        return {self.site: self._draws}

    @staticmethod
    def _look(denoise: Callable[[Tensor, Level], Tensor], x: Tensor, level: Level) -> Denoised:
        with torch.enable_grad():
            noisy = x.detach().requires_grad_(True)
            return Denoised(noisy, denoise(noisy, level), level)
