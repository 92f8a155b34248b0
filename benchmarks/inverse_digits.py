"""Does TwistedSMC hold with a trained prior and many measurements? Digits of 8x8 pixels, 16 noisy numbers of each.

A perceptron's diffusion is fitted to 1,500 digits in (-1, 1); of held-out digits 16 pixels, or the means of 16 squares
of 2x2 pixels, are measured with noise 0.1. Printed are the log evidence in nats, by how much runs differ in it, the
effective sample sizes and surviving ancestors of the worst digit, and the share of pixels in their 90 % intervals.

    python benchmarks/inverse_digits.py --particles 250 500 1000 --prior digits.safetensors [--table FILE]
    python benchmarks/inverse_digits.py --twists --particles 256 --steps 60 --digits 10 --runs 1 [--table FILE]

With ``--twists`` several twists are given by hand, for pixels alone, on the default grid and on one that begins with
the schedule's noise.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from results_file import table
from torch import Tensor

import pyrogen as pg
from pyrogen import inverse
from pyrogen.numerics.grids import default_grid

SHAPE, NOISE = (1, 8, 8), 0.1


def fitted(train: Tensor, steps: int, path: Path | None) -> pg.DistributionModule:
    """The prior, from the file if there is one."""
    if path is not None and path.exists():
        return pg.load(path)
    prior = pg.diffusion.mlp(SHAPE, width=256, depth=3, data_scale=0.7)
    pg.fit(prior, train, steps=steps, ema=0.999, seed=0)
    if path is not None:
        pg.save(prior, path)
    return prior


def operators() -> dict[str, inverse.Linear]:
    shown = torch.zeros(SHAPE, dtype=torch.bool)
    shown[:, ::2, ::2] = True
    return {"every fourth pixel": inverse.Mask(shown), "means of 2x2 pixels": inverse.box_downsampling(SHAPE, 2)}


def cases(prior: pg.DistributionModule, images: Tensor, options: argparse.Namespace) -> dict[str, tuple]:
    """Operators with the defaults, or one operator with twists and grids of the options."""
    if not options.twists:
        return {name: (operator, {"steps": options.steps}) for name, operator in operators().items()}
    norm, schedule = images.square().sum((1, 2, 3)).mean().sqrt().item(), prior().denoiser.schedule
    grids = {
        "the schedule's noise": default_grid(schedule, options.steps),
        f"a noise of {5 * norm:.0f}": default_grid(schedule, options.steps, norm=norm),
    }
    twists = {f"`Isotropic({variance})`": inverse.Isotropic(variance) for variance in (0.25, 0.5, 1.0)}
    twists |= {"`MomentMatched()`": inverse.MomentMatched()}
    pixels = operators()["every fourth pixel"]
    return {
        f"{twist}, from {grid}": (pixels, {"twist": twists[twist], "grid": grids[grid]})
        for grid, twist in product(grids, twists)
    }


def check(
    name: str, operator: inverse.Linear, prior: pg.DistributionModule, truth: Tensor, smc: dict, runs: int
) -> list[str]:
    """Several runs over all digits, in one row."""

    def model(y: Tensor) -> None:
        with pyro.plate("digits", len(y)):
            image = pyro.sample("image", prior())
            mean = operator(image)
            pyro.sample("y", dist.Normal(mean, NOISE).to_event(mean.dim() - 1), obs=y)

    pyro.set_rng_seed(0)
    y = operator(truth) + NOISE * torch.randn_like(operator(truth))
    found, start = [], time.process_time()
    for seed in range(runs):
        pyro.set_rng_seed(seed)
        found.append(inverse.TwistedSMC(model, site="image", **smc).run(y))
    seconds = (time.process_time() - start) / runs / len(truth)
    evidence = torch.stack([posterior.log_evidence for posterior in found])  # (runs, digits)
    spread = evidence.std(0)
    least, last, ancestors = (
        torch.stack([value(posterior.diagnostics()) for posterior in found])
        for value in (
            lambda d: d.effective_sample_size.amin(0),
            lambda d: d.effective_sample_size[-1],
            lambda d: d.ancestors.float(),
        )
    )
    collapsed = (torch.minimum(last, ancestors) < 20).sum()
    covered = [covers(posterior.get_samples()["image"], truth) for posterior in found]
    row = [
        name,
        f"{smc['particles']}",
        f"{evidence.mean():.2f}",
        f"{spread.square().mean().sqrt():.2f}, {spread.max():.2f}",
        f"{least.median():.0f}, {least.min():.0f}",
        f"{ancestors.median():.0f}, {ancestors.min():.0f}",
        f"{collapsed} of {least.numel()}",
        f"{100 * sum(covered) / runs:.0f} %",
        f"{seconds:.1f}",
    ]
    print(*row, flush=True)
    return row


COLUMNS = [
    f"16 numbers with noise {NOISE}",
    "particles",
    "mean log evidence, nats",
    "runs differ in it: root mean square, worst",
    "least effective sample size: median, worst",
    "ancestors: median, worst",
    "collapsed",
    "in their 90 % intervals",
    "processor seconds",
]


def covers(draws: Tensor, truth: Tensor) -> float:
    low, high = torch.quantile(draws, torch.tensor([0.05, 0.95]), dim=0)
    return ((low <= truth) & (truth <= high)).float().mean().item()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--digits", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fit", type=int, default=3000, help="training steps of the prior")
    parser.add_argument("--prior", type=Path, help="where the prior is kept")
    parser.add_argument("--twists", action="store_true", help="several twists and grids for the pixels")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pixels, _, symbols = pg.data.digits()
    images = 2 * pg.data.dequantize(pixels, symbols=symbols, seed=0) - 1
    prior = fitted(images[:1500], options.fit, options.prior)
    truth = images[1500 : 1500 + options.digits]
    rows = []
    for name, (operator, settings) in cases(prior, images, options).items():
        for particles in options.particles:
            smc = {"particles": particles, **settings}
            rows.append(check(name, operator, prior, truth, smc, options.runs))
    table(COLUMNS, rows, options.table)


if __name__ == "__main__":
    main()
