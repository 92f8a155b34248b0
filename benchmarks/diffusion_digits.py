"""Held-out bits per dimension of handwritten digits: a diffusion model beside a flow.

8x8 digits of 17 grey levels, split as in examples/digits.py (1,257 to train, 180 to stop early, 360 held out), classes
known. Every model is scored as a distribution of integers: the flow by uniform dequantization, the diffusion by its
variational bound. All figures are upper bounds. One thread, five seeds of split, weights and noise.

    python benchmarks/diffusion_digits.py [--seeds 0 1 2 3 4] [--models unet flow] [--output bits.jsonl]
    python benchmarks/diffusion_digits.py --read bits.jsonl
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from math import log
from pathlib import Path

import pyro
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

SHAPE, CLASSES, LEVELS = (1, 8, 8), 10, 17
PIXELS = 64


def unet(train, held_out, seed):
    """The U-Net of examples/diffusion_digits.py, trained longer and always told the class."""
    module = pg.diffusion.unet(SHAPE, classes=CLASSES, levels=LEVELS, channels=(16, 32), depth=1, dropout=0.1)
    fit = pg.fit(
        module,
        train,
        steps=1000,
        optimizer=partial(torch.optim.Adam, lr=3e-3),
        schedule=partial(CosineAnnealingLR, T_max=1000),
        ema=0.99,
        seed=seed,
    )
    return module, fit


def flow(train, held_out, seed):
    """The spline flow of examples/digits.py."""
    base = pg.flows.spline_coupling(SHAPE, classes=CLASSES, interval=(0.0, 1.0), hidden=(256, 256), dropout=0.3)
    module = pg.flows.Dequantized(base, LEVELS)
    schedule = partial(CosineAnnealingLR, T_max=1200)
    fit = pg.fit(module, train, steps=1200, schedule=schedule, validation=held_out, patience=40, seed=seed)
    return module, fit


MODELS = {"unet": unet, "flow": flow}


def bits(module, x, y, draws):
    """The mean over digits of bits per dimension, averaged over calls."""
    scores = [pg.log_prob(module, x.float(), y).mean().item() for _ in range(draws)]
    return -statistics.mean(scores) / PIXELS / log(2)


def measure(name, seed):
    pyro.set_rng_seed(seed)
    pixels, labels, _ = pg.data.digits()
    train, held_out, test = pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=seed)
    module, fit = MODELS[name](train, held_out, seed)
    if name != "flow":
        module.draws = 32
    found = {"bits": bits(module, *test, 4), "train": bits(module, train[0][:360], train[1][:360], 2)}
    size = sum(parameter.numel() for parameter in module.parameters())
    return {"model": name, "seed": seed, **found, "seconds": fit.history.seconds, "parameters": size}


def table(rows):
    print(f"{'model':<8}{'held out (bits/dim)':>24}{'training data':>16}{'seconds':>10}{'parameters':>12}{'seeds':>7}")
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        means = {key: statistics.mean(row[key] for row in mine) for key in ("bits", "train", "seconds", "parameters")}
        spread = statistics.stdev(row["bits"] for row in mine) / len(mine) ** 0.5 if len(mine) > 1 else float("nan")
        print(
            f"{name:<8}{means['bits']:>15.4f} ± {spread:.4f}{means['train']:>16.4f}{means['seconds']:>10.0f}"
            f"{means['parameters']:>12,.0f}{len(mine):>7}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--read", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.read:
        table([json.loads(line) for line in options.read.read_text().splitlines()])
        return
    rows, done = [], set()
    if options.output and options.output.exists():  # goes on where it was interrupted
        rows = [json.loads(line) for line in options.output.read_text().splitlines()]
        done = {(row["model"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for name in options.models:
            if (name, seed) in done:
                continue
            rows.append(measure(name, seed))
            print(json.dumps(rows[-1]), flush=True)
            if options.output:
                with options.output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    table(rows)


if __name__ == "__main__":
    main()
