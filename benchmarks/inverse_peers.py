"""The posterior samplers of azula and deepinv on the problems of ``inverse.py``: the same denoiser, their defaults.

The twist of TDS, which azula leaves to the user, is Gaussian with the variance of the prior, 129. deepinv expects data
in [0, 1]: -20 becomes 0 and 20 becomes 1, which leaves out next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torchvision_anyway  # noqa: F401

# isort: split
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance import DPSSampler, MMPSDenoiser, PGDMSampler, TDSSampler
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import VPSchedule
from azula.sample import DDPMSampler
from deepinv.optim import L2
from deepinv.physics import DecomposablePhysics, GaussianNoise, LinearPhysics
from deepinv.sampling import (
    DDRM,
    DPS,
    DDPMSolver,
    DiffPIR,
    MomentMatchingDataFidelity,
    PiGDMDataFidelity,
    PosteriorDiffusion,
    VariancePreservingDiffusion,
)
from torch import Tensor, nn

Mean = Callable[[Tensor, Tensor, Tensor], Tensor]
Methods = dict[str, Callable[[], tuple[Tensor, None]]]
LIMIT = 20.0


class Mixture(Denoiser):
    """The exact denoiser under azula's interface and its default schedule."""

    def __init__(self, mean: Mean) -> None:
        super().__init__()
        self.schedule, self._mean = VPSchedule(), mean

    def forward(self, x: Tensor, t: Tensor, **kwargs: object) -> DiracPosterior:
        return DiracPosterior(self._mean(x, *self.schedule(t)))


def azula_methods(problem: object, mean: Mean, draws: int, steps: int) -> Methods:
    """By name, a function that gives draws and None.

    Args:
        problem: With its ``operator``, ``y`` and ``noise``.
        mean: The exact denoiser, of particles and the scales of data and noise.
        draws: How many draws.
        steps: How many steps.
    """
    operator, y, noise = problem.operator, problem.y, problem.noise
    denoiser = Mixture(mean)
    measure, back = partial(torch.matmul, operator), torch.linalg.pinv(operator)

    def forward(x: Tensor) -> Tensor:
        return x @ operator.T

    def twist(x: Tensor, scale: Tensor) -> Tensor:
        variance = noise**2 + 129 * scale**2 / (129 + scale**2) * operator.square().sum(-1)
        return torch.distributions.Normal(forward(x), variance.sqrt()).log_prob(y).sum(-1)

    def sample(make: object) -> tuple[Tensor, None]:
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


class Scaled(nn.Module):
    """The exact denoiser of data that were scaled to [0, 1], as a module of deepinv."""

    def __init__(self, mean: Mean) -> None:
        super().__init__()
        self._mean = mean

    def forward(self, x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        scale = 2 * LIMIT * torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1)
        return _scaled(self._mean(_raw(x), torch.ones(()), scale))


def deepinv_methods(problem: object, mean: Mean, draws: int, steps: int) -> Methods:
    """The same for deepinv."""
    operator, noise, size = 2 * LIMIT * problem.operator, problem.noise, problem.operator.shape[1]
    y = (problem.y + LIMIT * problem.operator.sum(-1)).expand(draws, -1)
    denoiser = Scaled(mean)
    instrument = LinearPhysics(
        A=lambda x, **_: x @ operator.T, A_adjoint=lambda v, **_: v @ operator, noise_model=GaussianNoise(noise)
    )

    def guided(fidelity: object) -> Callable:
        solver = DDPMSolver(timesteps=torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        return PosteriorDiffusion(fidelity, denoiser, VariancePreservingDiffusion(alpha=1.0), solver)

    def sample(method: Callable, **start: object) -> tuple[Tensor, None]:
        return _raw(method(y, instrument, **start)).float(), None

    def ddrm() -> tuple[Tensor, None]:
        found = DDRM(denoiser)(nn.functional.pad(y, (0, size - y.shape[1])), _decomposed(operator, noise))
        return _raw(found), None

    shape = {"x_init": (draws, size)}
    return {
        "deepinv moment matching": lambda: sample(guided(MomentMatchingDataFidelity()), **shape),
        "deepinv PiGDM": lambda: sample(guided(PiGDMDataFidelity()), **shape),
        "deepinv DPS": lambda: sample(DPS(denoiser, num_steps=steps + 1), **shape),
        "deepinv DiffPIR": lambda: sample(DiffPIR(denoiser, L2(), sigma=noise, max_iter=steps)),
        "deepinv DDRM": ddrm,
    }


def _decomposed(operator: Tensor, noise: float) -> DecomposablePhysics:
    """The operator with rows of zeros, so that its singular directions span the data."""
    square = nn.functional.pad(operator, (0, 0, 0, operator.shape[1] - operator.shape[0]))
    u, singular, v = torch.linalg.svd(square)
    return DecomposablePhysics(
        U=lambda x: x @ u.T,
        U_adjoint=lambda x: x @ u,
        V=lambda x: x @ v,
        V_adjoint=lambda x: x @ v.T,
        mask=singular.unsqueeze(0),
        noise_model=GaussianNoise(noise),
    )


def _raw(x: Tensor) -> Tensor:
    return 2 * LIMIT * x - LIMIT


def _scaled(x: Tensor) -> Tensor:
    return (x + LIMIT) / (2 * LIMIT)
