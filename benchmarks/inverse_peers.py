"""azula's posterior samplers on the problems of ``inverse.py``: the same denoiser, its defaults.

The twist of TDS, which azula leaves to the user, is Gaussian with the variance of the prior, 129.
"""

from __future__ import annotations

from functools import partial

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance import DPSSampler, MMPSDenoiser, PGDMSampler, TDSSampler
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import VPSchedule
from azula.sample import DDPMSampler


class Mixture(Denoiser):
    """The exact denoiser under azula's interface and its default schedule."""

    def __init__(self, mean: object) -> None:
        super().__init__()
        self.schedule, self._mean = VPSchedule(), mean

    def forward(self, x: torch.Tensor, t: torch.Tensor, **kwargs: object) -> DiracPosterior:
        return DiracPosterior(self._mean(x, *self.schedule(t)))


def azula_methods(problem: object, draws: int, steps: int) -> dict[str, object]:
    """By name, a function that gives draws and None."""
    from inverse import mixture_mean

    operator, y, noise = problem.operator, problem.y, problem.noise
    denoiser = Mixture(lambda x, a, s: mixture_mean(x, a, s, problem.means, problem.weights.log()))
    measure, back = partial(torch.matmul, operator), torch.linalg.pinv(operator)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x @ operator.T

    def twist(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        variance = noise**2 + 129 * scale**2 / (129 + scale**2) * operator.square().sum(-1)
        return torch.distributions.Normal(forward(x), variance.sqrt()).log_prob(y).sum(-1)

    def sample(make: object) -> tuple[torch.Tensor, None]:
        sampler = make()
        start = sampler.init((draws, problem.means.shape[-1]))
        return sampler(start), None

    options = {"steps": steps, "silent": True}
    covariance = IsotropicCovariance(torch.as_tensor(noise**2))
    several = {"iterations": max(1, len(measure(problem.means[0])))}
    return {
        "azula TDS": lambda: sample(lambda: TDSSampler(denoiser, twist, **options)),
        "azula MMPS": lambda: sample(
            lambda: DDPMSampler(MMPSDenoiser(denoiser, y.expand(draws, -1), forward, covariance, **several), **options)
        ),
        "azula PGDM": lambda: sample(lambda: PGDMSampler(denoiser, y, forward, lambda v: v @ back.T, **options)),
        "azula DPS": lambda: sample(lambda: DPSSampler(denoiser, y, forward, **options)),
    }
