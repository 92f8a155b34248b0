"""Does noising and denoising leave the law of a trained diffusion as it is? Photographs, by training and steps.

The U-Net of ``restoration.py`` is trained twice for as long: with a constant learning rate, and with one that rises and
falls. From training patches, which are noised and denoised again and again, the mean squared difference of neighbouring
pixels is printed after 1, 5 and 30 such moves, and the standard error of its change is kept, for each way to denoise:

- along the probability flow, which does not draw data given noisy ones, and so serves no posterior;
- ancestral steps without the variance of the datum;
- the chain of ``pyrogen.inverse``, whose steps have one variance for each number, an average over a pilot run;
- ancestral steps that draw the datum with its covariance (``CovarianceAncestral``), and the same on the levels of the
  chain.

    python benchmarks/self_consistency.py --draws 32 --noises 0.05 0.2 0.8 [--output FILE] [--table FILE]
"""

from __future__ import annotations

import argparse
import math
import time
from functools import cache, partial
from pathlib import Path

import torch
from results_file import keep, known, table
from torch import Tensor

import pyrogen as pg
from pyrogen.diffusion import Ancestral, CovarianceAncestral, Multistep
from pyrogen.evaluation.self_consistency import Denoise, denoised_by
from pyrogen.inverse.chain import Chain, Level
from pyrogen.numerics.grids import default_grid
from pyrogen.numerics.schedule import Schedule

SHAPE, SIZE, SCALE, MOVES = (3, 16, 16), 768, 0.6, (1, 5, 30)


METHODS = (
    "calibrated chain",
    "ancestral",
    "`CovarianceAncestral`",
    "the same on the levels of the chain",
    "probability flow (no draws of $p(x \\mid z)$)",
)


def trained(train: Tensor, steps: int, rises: bool, path: Path | None) -> pg.diffusion.Diffusion:
    """The prior, from the file if there is one."""
    prior = pg.diffusion.unet(SHAPE, channels=(16, 32, 48), depth=1, data_scale=SCALE)
    if path is not None and path.exists():
        return pg.load(path, into=prior)
    rate = 4e-3 if rises else 2e-3
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=rate, total_steps=steps + 1, pct_start=0.1)
    pg.fit(
        prior,
        torch.cat([train, train.flip(-1)]),
        steps=steps,
        batch_size=64,
        optimizer=partial(torch.optim.Adam, lr=rate),
        schedule=one_cycle if rises else None,
        ema=0.99,
        seed=0,
    )
    if path is not None:
        pg.save(prior, path)
    return prior


def chain_from(denoiser: pg.diffusion.Denoiser, data: Tensor) -> Denoise:
    """The calibrated chain from a noise level on, with the errors that the denoiser has on noisy data there."""

    def look(x: Tensor, level: Level) -> Tensor:
        return denoiser(x.reshape(-1, *SHAPE), torch.tensor(level.time)).reshape(x.shape)

    @cache
    def calibrated(noise: float) -> Chain:
        chain = Chain(denoiser.schedule, partial(_times, noise))
        chain.errors = [_error(look, data, level) for level in chain.levels]
        return chain

    def denoise(noisy: Tensor, noise: float) -> Tensor:
        chain = calibrated(noise)
        x = chain.levels[0].alpha * noisy.flatten(1)
        for place, level in enumerate(chain.levels[:-1]):
            x = chain.step(place).draw(x, look(x, level))
        mean = look(x, chain.levels[-1])
        return (mean + chain.errors[-1].sqrt() * torch.randn_like(mean)).reshape(noisy.shape)

    return denoise


def _error(look: object, data: Tensor, level: Level) -> Tensor:
    x = data[torch.randperm(len(data))[:64]].flatten(1)
    with torch.enable_grad():
        noisy = (level.alpha * x + level.sigma * torch.randn_like(x)).requires_grad_(True)
        signs = torch.randint_like(x, 2) * 2 - 1
        slope = signs * torch.autograd.grad(look(noisy, level), noisy, signs)[0]
    return (level.covariance_scale * slope.mean(0)).clamp(0, level.variance)


def _times(noise: float, schedule: Schedule) -> Tensor:
    whole = default_grid(schedule, 40, norm=SCALE * SIZE**0.5)(schedule)
    time = schedule.time(torch.tensor(-2 * math.log(noise), dtype=torch.double)).clamp(0, 1)
    return torch.cat([time.reshape(1), whole[whole < time - 1e-6]])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=32, help="patches to start from")
    parser.add_argument("--noises", type=float, nargs="+", default=[0.05, 0.2, 0.8])
    parser.add_argument("--steps", type=int, default=20, help="of the samplers")
    parser.add_argument("--fit", type=int, default=1500, help="training steps of the priors")
    parser.add_argument("--priors", type=Path, help="a folder where the priors are kept")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    train, _ = (
        2 * pg.data.dequantize(part.pixels, symbols=part.symbols, seed=0) - 1 for part in pg.data.photographs(16)
    )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    start, rest = train[order[: options.draws]], train[order[options.draws :]]
    if options.priors:
        options.priors.mkdir(parents=True, exist_ok=True)
    lines = known(options.output)
    for name, rises in (("constant", False), ("one cycle", True)):
        done = [line["steps"] for line in lines if line["rate"] == name]
        wanted = [way for way in options.methods if way not in done]
        if not wanted:
            continue
        path = options.priors / f"{name.replace(' ', '_')}.safetensors" if options.priors else None
        denoiser = trained(train, options.fit, rises, path).requires_grad_(False).eval().denoiser
        ways = denoising(denoiser, rest, options.steps)
        found = ({"rate": name, "steps": way} | moved(ways[way], start, options.noises) for way in wanted)
        keep(found, lines, options.output)
    columns = ["learning rate", "steps", *(f"$\\rho = {noise:g}$" for noise in options.noises), "processor seconds"]
    table(columns, [row(line, options.noises) for line in lines], options.table, lines)


def denoising(denoiser: pg.diffusion.Denoiser, data: Tensor, steps: int) -> dict[str, Denoise]:
    """The ways to denoise."""

    def on_levels(noisy: Tensor, noise: float) -> Tensor:
        return CovarianceAncestral(partial(_times, noise))(denoiser, noisy / noise, None)

    samplers = (denoised_by(denoiser, each, steps=steps) for each in (Ancestral, CovarianceAncestral, Multistep))
    ancestral, covariance, flow = samplers
    return dict(zip(METHODS, (chain_from(denoiser, data), ancestral, covariance, on_levels, flow), strict=True))


def moved(denoise: Denoise, start: Tensor, noises: list[float]) -> dict[str, object]:
    """Differences of neighbours at the start and, by noise, after the moves, with standard errors of the changes."""
    began = time.process_time()
    torch.manual_seed(1)
    statistics = {"neighbours": pg.evaluation.neighbours}
    found = pg.evaluation.self_consistency(denoise, start, noises=noises, moves=MOVES, statistics=statistics)
    print(found, flush=True)
    changes = {
        f"{noise:g}": [
            (each.change["neighbours"].value, each.change["neighbours"].standard_error)
            for each in found.changes
            if each.noise == noise
        ]
        for noise in noises
    }
    before = found.changes[0].before["neighbours"].value
    return {"start": before, "changes": changes, "seconds": time.process_time() - began}


def row(line: dict, noises: list[float]) -> list[str]:
    """One way in the table."""
    changes = (line["changes"].get(f"{noise:g}", []) for noise in noises)
    cells = (", ".join(f"{line['start'] + change:.4f}" for change, _ in each) for each in changes)
    return [line["rate"], line["steps"], *cells, f"{line['seconds']:.0f}"]


if __name__ == "__main__":
    main()
