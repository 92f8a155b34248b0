"""Density ratios of far normals: how much of the mutual information an estimate finds, with bridges and without.

The task of Rhodes, Xu and Gutmann 2020 (https://arxiv.org/abs/2006.12204): half of the elements of ``x`` are correlated
with the other half in pairs, by .7951, so that the log-ratio to independent normals has the mean d / 4 nats under
``p``: 10, 20 and 40 nats at 40, 80 and 160 dimensions. Draws are fresh. Estimates are means over 10,000 draws of ``p``
that were not trained on; the error is that of the log-ratio of single draws, root mean square.

    python benchmarks/implicit_ratios.py --seeds 0 1 2 [--output FILE] [--table FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import product
from math import log
from pathlib import Path
from statistics import mean
from time import process_time

import pyro.distributions as dist
import torch
from results_file import keep, known, table
from torch import Tensor

import pyrogen as pg

CORRELATION = 0.7951
ESTIMATES = {
    "quadratic, 8 bridges": {"bridges": 8, "hidden": ()},
    "quadratic, no bridge": {"bridges": 0, "hidden": ()},
    "network, 8 bridges": {"bridges": 8, "quadratic": False, "hidden": (128, 128)},
    "network, no bridge": {"bridges": 0, "quadratic": False, "hidden": (128, 128)},
    "both, 8 bridges": {"bridges": 8, "hidden": (64, 64)},
}


def correlated(count: int, *, dimensions: int) -> Tensor:
    """Draws of ``p``."""
    first, noise = torch.randn(2, count, dimensions // 2)
    return torch.cat([first, CORRELATION * first + (1 - CORRELATION**2) ** 0.5 * noise], -1)


def log_ratio(x: Tensor) -> Tensor:
    """The truth."""
    first, second = x.chunk(2, -1)
    residual = (second - CORRELATION * first).square() / (1 - CORRELATION**2)
    return 0.5 * (second.square() - residual - log(1 - CORRELATION**2)).sum(-1)


def main(argv: list[str] | None = None) -> None:
    """Prints a table, a row for each estimate and dimension."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[40, 80, 160])
    parser.add_argument("--estimates", nargs="+", default=[*ESTIMATES], choices=[*ESTIMATES])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    lines = known(options.output)
    done = {tuple(line["run"]) for line in lines}
    runs = product(options.dimensions, options.estimates, options.seeds, [options.steps])
    keep((_found(*run) for run in runs if run not in done), lines, options.output)
    columns = ["nats", "estimate", "steps", "found, by seed", "calibrated, by seed", "error", "seconds of one core"]
    table(columns, list(_rows(lines)), options.table, lines)


def _found(dimensions: int, name: str, seed: int, steps: int) -> dict[str, object]:
    torch.manual_seed(seed)
    started = process_time()
    independent = dist.Normal(torch.zeros(dimensions), 1.0).to_event(1)
    p = partial(correlated, dimensions=dimensions)
    ratio = pg.implicit.density_ratio((dimensions,), p=p, q=independent, draws=6 * dimensions, **ESTIMATES[name])
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
    pg.fit(ratio, (), steps=steps, lr=1.2e-3, schedule=schedule, seed=seed)
    seconds = process_time() - started
    x = p(10_000)
    found = ratio.kl(x).value
    with torch.no_grad():
        error = (ratio(x) - log_ratio(x)).square().mean().sqrt().item()
    ratio.draws = 5000
    ratio.calibrate()
    found = {"found": found, "calibrated": ratio.kl(x).value, "error": error, "seconds": seconds}
    return {"run": (dimensions, name, seed, steps), **found}


def _rows(lines: list[dict]) -> Iterator[list[str]]:
    """Seeds beside each other, errors and seconds as means over them."""
    for dimensions, name, steps in dict.fromkeys((*line["run"][:2], line["run"][3]) for line in lines):
        mine = [line for line in lines if (*line["run"][:2], line["run"][3]) == (dimensions, name, steps)]
        values = (", ".join(f"{line[key]:.2f}" for line in mine) for key in ("found", "calibrated"))
        error, seconds = (mean(line[key] for line in mine) for key in ("error", "seconds"))
        truth = -dimensions / 4 * log(1 - CORRELATION**2)
        yield [f"{truth:.0f}", name, f"{steps:,}", *values, f"{error:.2f}", f"{seconds:.0f}"]


if __name__ == "__main__":
    main()
