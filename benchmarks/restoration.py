"""Photographs restored: ours, azula's and deepinv's solvers with one denoiser, and interpolation.

A small U-Net's diffusion is fitted to patches of 16x16 pixels of six photographs in (-1, 1). Patches of other regions
lose half of their pixels, three quarters or fifteen sixteenths of them by averaging, or their colour, and get noise of
0.05. Printed for each task are PSNR (decibels) and SSIM of the mean of the draws, the share of numbers in their 90 %
intervals, and seconds an image, each averaged over images. Needs the ``bench`` extra.

    python benchmarks/restoration.py --images 10 --prior photographs.safetensors
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from inverse_peers import LIMIT, azula_methods, deepinv_methods
from torch import Tensor
from torch.nn import functional

import pyrogen as pg
from pyrogen import inverse
from pyrogen.inverse.particle_diagnostics import ParticleDiagnostics
from pyrogen.numerics.grids import default_grid

SHAPE, SIZE, NOISE = (3, 16, 16), 768, 0.05
PEERS = ("azula PGDM", "azula DPS", "deepinv PiGDM", "deepinv DPS", "deepinv DiffPIR", "deepinv DDRM")


class Task(NamedTuple):
    """What is measured, and what a person without a model would make of it."""

    operator: inverse.Linear
    interpolate: Callable[[Tensor], Tensor]


class Problem(NamedTuple):
    """A task and a measurement, as vectors: what the peers take."""

    operator: Tensor
    y: Tensor
    noise: float
    means: Tensor = torch.zeros(1, SIZE)


def tasks() -> dict[str, Task]:
    blur = inverse.gaussian_blur(SHAPE, 0.7)
    shown = (torch.rand(1, *SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.5).expand(SHAPE)

    def fill(y: Tensor) -> Tensor:
        """A Gaussian average of the pixels that are there."""
        image = inverse.Mask(shown).adjoint(y)
        return torch.where(shown, image, blur(image) / blur(shown.float()).clamp_min(1e-6))

    def enlarge(y: Tensor) -> Tensor:
        return functional.interpolate(y.unsqueeze(0), SHAPE[1:], mode="bicubic").squeeze(0)

    return {
        "half of the pixels": Task(inverse.Mask(shown), fill),
        "8x8 to 16x16": Task(inverse.box_downsampling(SHAPE, 2), enlarge),
        "4x4 to 16x16": Task(inverse.box_downsampling(SHAPE, 4), enlarge),
        "colour": Task(inverse.Grey(SHAPE), lambda y: y.expand(SHAPE)),
    }


def fitted(train: Tensor, steps: int, path: Path | None) -> pg.DistributionModule:
    """The prior, from the file if there is one."""
    if path is not None and path.exists():
        return pg.load(path)
    prior = pg.diffusion.unet(SHAPE, channels=(16, 32, 48), depth=1, data_scale=0.6)
    images = torch.cat([train, train.flip(-1)])
    optimizer = partial(torch.optim.Adam, lr=2e-3)
    pg.fit(prior, images, steps=steps, batch_size=64, optimizer=optimizer, ema=0.99, seed=0)
    if path is not None:
        pg.save(prior, path)
    return prior


def rows_denoiser(denoiser: pg.diffusion.Denoiser) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The denoiser of vectors at any scales of data and noise."""
    schedule = denoiser.schedule

    def mean(x: Tensor, alpha: Tensor, sigma: Tensor, size: float = 1.0) -> Tensor:
        t = schedule.time(2 * (alpha * size / sigma).log()).clamp(0, 1)
        rows = x / (alpha * size) * schedule(t)[0]
        return size * denoiser(rows.reshape(-1, *SHAPE), t.reshape(-1) if t.numel() > 1 else t.reshape(())).flatten(1)

    return mean


def methods(task: Task, y: Tensor, prior: pg.DistributionModule, scale: float, options: argparse.Namespace) -> dict:
    """By name, a function that gives draws ``(draws, *shape)`` and what else there is to say."""
    denoiser = prior().denoiser

    def model(y: Tensor) -> None:
        image = pyro.sample("image", prior())
        pyro.sample("y", dist.Normal(task.operator(image), NOISE).to_event(y.dim()), obs=y)

    def smc() -> tuple[Tensor, ParticleDiagnostics]:
        found = inverse.TwistedSMC(model, site="image", particles=options.particles, steps=options.steps).run(y)
        return found.get_samples()["image"], found.diagnostics()

    def guided(guidance: inverse.Guidance) -> tuple[Tensor, None]:
        grid = default_grid(denoiser.schedule, options.steps, norm=scale * SIZE**0.5)
        found = inverse.GuidedSampling(model, site="image", guidance=guidance, draws=options.draws, grid=grid)
        return found.run(y).get_samples()["image"], None

    def peer(method: Callable, size: float) -> tuple[Tensor, None]:
        return method()[0].detach().reshape(-1, *SHAPE) / size, None

    matrix = task.operator(torch.eye(SIZE).reshape(-1, *SHAPE)).flatten(1).T
    mean = rows_denoiser(denoiser)
    azula = azula_methods(Problem(matrix, y.flatten(), NOISE), mean, options.draws, options.steps)
    # deepinv's problems are told in data units of (-LIMIT, LIMIT).
    larger = Problem(matrix, LIMIT * y.flatten(), LIMIT * NOISE)
    deepinv = deepinv_methods(larger, partial(mean, size=LIMIT), options.draws, options.steps)
    return {
        "interpolation": lambda: (task.interpolate(y).expand(2, *SHAPE), None),
        "TwistedSMC": smc,
        "PiGDM": lambda: guided(inverse.PiGDM(scale**2)),
        "DiffPIR": lambda: guided(inverse.DiffPIR()),
        "DPS": lambda: guided(inverse.DPS(0.3)),
        **{name: partial(peer, method, 1.0) for name, method in azula.items() if name in PEERS},
        **{name: partial(peer, method, LIMIT) for name, method in deepinv.items() if name in PEERS},
    }


def compare(
    name: str, task: Task, prior: pg.DistributionModule, scale: float, truths: Tensor, options: argparse.Namespace
) -> None:
    scores: dict[str, list[tuple[float, ...]]] = {}
    runs = []
    for number, truth in enumerate(truths):
        pyro.set_rng_seed(number)
        y = task.operator(truth) + NOISE * torch.randn_like(task.operator(truth))
        for method, run in methods(task, y, prior, scale, options).items():
            if options.methods and method not in options.methods:
                continue
            start = time.process_time()
            draws, diagnostics = run()
            seconds = time.process_time() - start
            found = pg.evaluation.restoration_report(draws.nan_to_num(0.0), truth, span=2.0)
            scores.setdefault(method, []).append((found.psnr, found.ssim, found.coverage, seconds))
            runs += [] if diagnostics is None else [diagnostics]
    print(f"\n{name}: {task.operator(truths[0]).numel()} measured numbers, {len(truths)} images")
    for method, values in scores.items():
        show(method, torch.tensor(values))
    if runs:
        least = torch.stack([run.effective_sample_size.min() for run in runs]).median()
        ancestors = torch.stack([run.ancestors.min() for run in runs]).median()
        print(f"TwistedSMC: median least effective sample size {least:.0f}, ancestors {ancestors}", end="")
        print(f"; COLLAPSED in {sum(run.collapsed for run in runs)} of {len(runs)}", flush=True)


def show(method: str, values: Tensor) -> None:
    psnr, ssim, coverage, seconds = values.mean(0).tolist()
    error = 1.96 * values[:, 0].std() / len(values) ** 0.5
    covered = "-" if method == "interpolation" else f"{coverage:.1%}"
    print(f"{method:<18} PSNR {psnr:5.2f} +- {error:4.2f}   SSIM {ssim:5.3f}   covered {covered:>6}   {seconds:5.2f} s")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", default=list(tasks()), help="only these")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--particles", type=int, default=128)
    parser.add_argument("--draws", type=int, default=32, help="of the methods without weights")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--fit", type=int, default=1500, help="training steps of the prior")
    parser.add_argument("--prior", type=Path, help="where the prior is kept")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    train, test = (
        2 * pg.data.dequantize(images.pixels, symbols=images.symbols, seed=0) - 1 for images in pg.data.photographs(16)
    )
    prior = fitted(train, options.fit, options.prior).requires_grad_(False)
    truths = test[:: len(test) // options.images][: options.images]  # of all photographs
    for name in options.tasks:
        compare(name, tasks()[name], prior, train.square().mean().sqrt().item(), truths, options)


if __name__ == "__main__":
    main()
