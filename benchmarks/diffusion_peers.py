"""Peers of the diffusion samplers, each with the exact denoiser of a Gaussian mixture under its own schedule.

A peer is made from the data and called as ``draw(noise, evaluations)``; it gives draws and the noise-to-signal ratio at
which it began. Two evaluations a step are rounded up, in the peer's favour.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.distributions import MixtureSameFamily

from pyrogen.diffusion import VE, GaussianMixtureDenoiser

Draw = Callable[[Tensor, int], tuple[Tensor, float]]


class Exact:
    """The posterior mean of the data for any scales of data and noise."""

    def __init__(self, data: MixtureSameFamily) -> None:
        self.denoiser = GaussianMixtureDenoiser(data, VE(sigma_min=1e-7, sigma_max=1e7))

    def __call__(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        alpha, sigma = (torch.as_tensor(value, dtype=torch.float64) for value in (alpha, sigma))
        t = self.denoiser.schedule.time(-2 * (sigma / alpha).log())
        return self.denoiser(x.double() / alpha, t).to(x.dtype)


def flow_matching(method: str, calls: int) -> Callable[[MixtureSameFamily], Draw]:
    def make(data: MixtureSameFamily) -> Draw:
        from flow_matching.solver import ODESolver
        from flow_matching.utils import ModelWrapper

        exact = Exact(data)

        class Velocity(ModelWrapper):
            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                # From noise at 0 to data at 1: x = t data + (1 - t) noise, velocity data - noise.
                t = t.clamp(1e-6, 1 - 1e-6)
                mean = exact(x, t, 1 - t)
                return (mean - x) / (1 - t)

        solver = ODESolver(velocity_model=Velocity(nn.Identity()))

        def draw(noise: Tensor, evaluations: int) -> tuple[Tensor, float]:
            steps = -(-evaluations // calls)
            times = torch.linspace(0, 1, steps + 1, dtype=noise.dtype)
            x = solver.sample(noise, step_size=None, method=method, time_grid=times)
            return x, 1e6

        return draw

    return make


def diffusers(kind: str, **settings: object) -> Callable[[MixtureSameFamily], Draw]:
    def make(data: MixtureSameFamily) -> Draw:
        import diffusers as library

        exact = Exact(data)

        def draw(noise: Tensor, evaluations: int) -> tuple[Tensor, float]:
            scheduler = getattr(library, kind)(**settings)
            scheduler.set_timesteps(evaluations)
            share = scheduler.alphas_cumprod.double()
            first = share[int(scheduler.timesteps[0])]
            x = noise
            for step, t in enumerate(scheduler.timesteps):
                # The scheduler's own noise level at this step, which need not be that of a whole time.
                ratio = scheduler.sigmas[step].double()
                alpha = 1 / (1 + ratio**2).sqrt()
                mean = exact(x, alpha, ratio * alpha)
                x = scheduler.step((x - alpha * mean) / (ratio * alpha), t, x).prev_sample
            return x.double(), float(((1 - first) / first).sqrt())

        return draw

    return make


def azula(kind: str, order: int) -> Callable[[MixtureSameFamily], Draw]:
    def make(data: MixtureSameFamily) -> Draw:
        import azula.sample
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import VPSchedule

        exact = Exact(data)

        class Azula(Denoiser):
            def __init__(self) -> None:
                super().__init__()
                self.schedule = VPSchedule()

            def forward(self, x: Tensor, t: Tensor) -> DiracPosterior:
                return DiracPosterior(mean=exact(x, *self.schedule(t)))

        def draw(noise: Tensor, evaluations: int) -> tuple[Tensor, float]:
            denoiser = Azula()
            sampler = getattr(azula.sample, kind)(
                denoiser, order=order, steps=evaluations, silent=True, dtype=torch.float64
            )
            alpha, sigma = denoiser.schedule(torch.ones((), dtype=torch.float64))
            return sampler(sigma * noise), float(sigma / alpha)

        return draw

    return make


PEERS: dict[str, Callable[[MixtureSameFamily], Draw]] = {}
if find_spec("flow_matching"):
    PEERS["flow_matching midpoint"] = flow_matching("midpoint", 2)
    PEERS["flow_matching heun3"] = flow_matching("heun3", 3)
    PEERS["flow_matching euler"] = flow_matching("euler", 1)
if find_spec("diffusers"):
    PEERS["diffusers DPM++ 2M"] = diffusers("DPMSolverMultistepScheduler")
    PEERS["diffusers DPM++ 2M, log-SNR grid"] = diffusers("DPMSolverMultistepScheduler", use_lu_lambdas=True)
    PEERS["diffusers UniPC 2"] = diffusers("UniPCMultistepScheduler")
    PEERS["diffusers DDIM order (DPM++ 1)"] = diffusers("DPMSolverMultistepScheduler", solver_order=1)
if find_spec("azula"):
    PEERS["azula zEAB 2"] = azula("zEABSampler", 2)
    PEERS["azula vAB 2"] = azula("vABSampler", 2)
    PEERS["azula vAB 3"] = azula("vABSampler", 3)
    PEERS["azula xEAB 2"] = azula("xEABSampler", 2)
