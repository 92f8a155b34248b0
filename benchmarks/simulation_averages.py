"""What an average of the weights is worth to a learned posterior, beside a learning rate that falls.

Posteriors of two_moons learn from the same simulations of a seed; the table has the mean log-density of fresh ones,
with the standard error over them, for a number of steps and until the held-out loss no longer falls.

    python benchmarks/simulation_averages.py --seeds 0 1 --output FILE --table FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from results_file import keep, known, table
from simulation_tasks import two_moons
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

import pyrogen as pg
from pyrogen.simulation import Joint

PLATEAU = partial(ReduceLROnPlateau, patience=5)
LONG = 20_000


def settings(steps: int) -> dict[str, dict]:
    """By name, the settings of ``fit``."""
    cosine = partial(CosineAnnealingLR, T_max=steps)
    stops = {"steps": LONG, "patience": 20}
    return {
        "neither": {"steps": steps, "ema": 0.0},
        "learning rate falling along a cosine": {"steps": steps, "ema": 0.0, "schedule": cosine},
        "average of the weights, `ema=0.99`": {"steps": steps, "ema": 0.99},
        "both": {"steps": steps, "ema": 0.99, "schedule": cosine},
        "neither, until held-out loss no longer falls": {"ema": 0.0, **stops},
        "average, until held-out loss no longer falls": {"ema": 0.99, **stops},
        "rate lowered after five evaluations without a better one": {"ema": 0.0, "schedule": PLATEAU, **stops},
        "both, until it no longer falls": {"ema": 0.99, "schedule": PLATEAU, **stops},
    }


def runs(options: argparse.Namespace, lines: list[dict]) -> Iterator[dict]:
    """What is not among the lines, one after the other."""
    done = [(line["setting"], line["seed"]) for line in lines]
    joint = Joint(two_moons, observed="x", nuisance=("angle", "radius"))
    fresh = joint.draw(4000, seed=10_000)
    for seed in options.seeds:
        simulations = joint.draw(options.simulations, seed=seed)
        for name, setting in settings(options.steps).items():
            if (name, seed) in done:
                continue
            torch.manual_seed(seed)
            module = pg.simulation.posterior(joint)
            fit = pg.fit(module, simulations, validation=0.1, seed=seed, **setting)
            with torch.no_grad():
                log_prob = module(fresh.observed["x"]).log_prob(fresh.latents["theta"])
            found = pg.evaluation.Estimate.of_mean(log_prob)
            line = {"setting": name, "seed": seed, "steps": len(fit.history.loss)}
            yield line | {"nats": found.value, "error": found.standard_error}


def row(name: str, seeds: list[int], lines: list[dict]) -> list[str]:
    """One setting in the table."""
    mine = {line["seed"]: line for line in lines if line["setting"] == name}
    cells = (f"{mine[seed]['nats']:.3f} ± {mine[seed]['error']:.3f} ({mine[seed]['steps']:,} steps)" for seed in seeds)
    return [name, *cells]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--simulations", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = known(options.output)
    keep(runs(options, lines), lines, options.output)
    rows = [row(name, options.seeds, lines) for name in settings(options.steps)]
    columns = [f"held-out nats, seed {seed}" for seed in options.seeds]
    table([f"two_moons, {options.simulations:,} simulations", *columns], rows, options.table, lines)


if __name__ == "__main__":
    main()
