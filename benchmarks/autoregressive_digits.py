"""Held-out bits per pixel of the autoregressive recipes on digits of 8x8 pixels and 17 grey levels.

Class-conditional, split 1,257 / 180 / 360 by each seed, stopped by the 180 held out, scored on the 360. The figures are
means over seeds and their standard deviation.

    python benchmarks/autoregressive_digits.py [--seeds 3] [--steps 1000] [--only made transformer]
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from math import log

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.autoregressive import any_order, made, pixel_cnn, transformer

SHAPE, CLASSES, LEVELS = (1, 8, 8), 10, 17
TRANSFORMER = {"width": 64, "depth": 3, "heads": 4, "dropout": 0.2}
MODELS = {
    "made": partial(made, hidden=(512,), dropout=0.4),
    "made, 4 orders": partial(made, hidden=(512,), dropout=0.4, orders=4),
    "pixel_cnn": partial(pixel_cnn, width=48, depth=4, dropout=0.3),
    "pixel_cnn, logistics": partial(pixel_cnn, components=5, width=48, depth=4, dropout=0.3),
    "transformer": partial(transformer, **TRANSFORMER),
    "any_order": partial(any_order, **TRANSFORMER),
}


def scores(make, seed, steps):
    """Bits per pixel of the test digits: of the model, and of an any-order model also along the rows."""
    torch.manual_seed(seed)
    pixels, labels, levels = pg.data.digits()
    train, held_out, test = pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=seed)
    size = {"levels" if make.func is pixel_cnn else "symbols": levels}
    model = make(SHAPE, classes=CLASSES, **size)
    pg.fit(
        model,
        train,
        steps=steps,
        batch_size=32,
        schedule=partial(CosineAnnealingLR, T_max=steps),
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        validation=held_out,
        patience=30,
        seed=seed,
    )
    model.eval()
    with torch.no_grad():
        if not hasattr(model, "along"):
            return {"": bits(model, test)}
        found = {"one order (bound)": bits(model, test), "by rows": bits(model.along(), test)}
        model.orders = 32
        return found | {"32 orders (bound)": bits(model, test)}


def bits(model, test):
    x, labels = test
    total = sum(model(c).log_prob(part).sum().item() for part, c in zip(x.split(60), labels.split(60), strict=True))
    return -total / (x.numel() * log(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'bits per pixel':<36}{'mean':>8}{'sd':>8}{'minutes':>10}")
    for name in arguments.only:
        start = time.process_time()
        runs = [scores(MODELS[name], seed, arguments.steps) for seed in range(arguments.seeds)]
        minutes = (time.process_time() - start) / 60
        for which in runs[0]:
            values = [run[which] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            title = f"{name}, {which}" if which else name
            print(f"{title:<36}{statistics.mean(values):>8.3f}{spread:>8.3f}{minutes:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
