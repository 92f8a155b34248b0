"""Photographs restored: ours, azula's and deepinv's solvers with one denoiser, and interpolation.

A small U-Net's diffusion is fitted to patches of 16x16 pixels of six photographs in (-1, 1). Patches of other regions
lose half of their pixels, three quarters or fifteen sixteenths of them by averaging, or their colour, and get noise of
0.05. A cell of the table has PSNR (decibels) and SSIM of the mean of the draws, and the share of numbers in their 90 %
intervals; the last column seconds an image; each averaged over images. Needs the ``bench`` extra.

    python benchmarks/restoration.py --images 10 --prior photographs.safetensors [--output FILE] [--table FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from inverse_peers import LIMIT, azula_methods, deepinv_methods
from results_file import keep, known, table
from torch import Tensor
from torch.nn import functional

import pyrogen as pg
from pyrogen import inverse
from pyrogen.inverse.particle_diagnostics import ParticleDiagnostics
from pyrogen.numerics.grids import default_grid

SHAPE, SIZE, NOISE = (3, 16, 16), 768, 0.05
SCORES = ("psnr", "ssim", "coverage")
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
        "`TwistedSMC`": smc,
        f"`PiGDM({scale**2:.2f})`": lambda: guided(inverse.PiGDM(scale**2)),
        "`DiffPIR`": lambda: guided(inverse.DiffPIR()),
        "`DPS(0.3)`": lambda: guided(inverse.DPS(0.3)),
        **{name: partial(peer, method, 1.0) for name, method in azula.items() if name in PEERS},
        **{name: partial(peer, method, LIMIT) for name, method in deepinv.items() if name in PEERS},
    }


def measured(
    name: str, prior: pg.DistributionModule, scale: float, truths: Tensor, options: argparse.Namespace, done: list
) -> Iterator[dict]:
    """The scores of every method on every image of one task, of what is not done."""
    task = tasks()[name]
    for number, truth in enumerate(truths):
        pyro.set_rng_seed(number)
        y = task.operator(truth) + NOISE * torch.randn_like(task.operator(truth))
        for method, run in methods(task, y, prior, scale, options).items():
            if (options.methods and method not in options.methods) or (name, method, number) in done:
                continue
            start = time.process_time()
            draws, diagnostics = run()
            seconds = time.process_time() - start
            found = pg.evaluation.restoration_report(draws.nan_to_num(0.0), truth, span=2.0)
            line = {"task": name, "method": method, "image": number, "numbers": y.numel(), "seconds": seconds}
            line |= {"psnr": found.psnr, "ssim": found.ssim, "coverage": found.coverage}
            yield line | ({} if diagnostics is None else particles(diagnostics))


def particles(diagnostics: ParticleDiagnostics) -> dict[str, object]:
    return {
        "effective": diagnostics.effective_sample_size.min().item(),
        "ancestors": int(diagnostics.ancestors.min()),
        "collapsed": bool(diagnostics.collapsed),
    }


def row(method: str, names: list[str], lines: list[dict]) -> list[str]:
    """One method in the table: its means over images for each task, and the mean seconds of all."""
    mine = [line for line in lines if line["method"] == method]
    cells = []
    for name in names:
        psnr, ssim, coverage = (mean(line[key] for line in mine if line["task"] == name) for key in SCORES)
        covered = "" if method == "interpolation" else f", {100 * coverage:.0f} %"
        cells.append(f"{psnr:.1f}, {ssim:.2f}{covered}")
    collapsed = [line["collapsed"] for line in mine if "collapsed" in line]
    return [
        method,
        *cells,
        f"{mean(line['seconds'] for line in mine):.1f}",
        f"{sum(collapsed)} of {len(collapsed)}" if collapsed else "",
    ]


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
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    train, test = (
        2 * pg.data.dequantize(images.pixels, symbols=images.symbols, seed=0) - 1 for images in pg.data.photographs(16)
    )
    prior = fitted(train, options.fit, options.prior).requires_grad_(False)
    truths = test[:: len(test) // options.images][: options.images]  # of all photographs
    lines = known(options.output)
    done = [(line["task"], line["method"], line["image"]) for line in lines]
    scale = train.square().mean().sqrt().item()
    for name in options.tasks:
        keep(measured(name, prior, scale, truths, options, done), lines, options.output)
    numbers = {line["task"]: line["numbers"] for line in lines}
    rows = [row(method, options.tasks, lines) for method in dict.fromkeys(line["method"] for line in lines)]
    table(
        ["method", *(f"{name} ({numbers[name]})" for name in options.tasks), "seconds", "collapsed"],
        rows,
        options.table,
        lines,
    )


if __name__ == "__main__":
    main()
