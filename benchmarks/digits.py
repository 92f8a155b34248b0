"""Held-out bits per dimension of handwritten digits: all families in one table.

8x8 digits of 17 grey levels, classes known, split by seed: 1,257 to train, 180 to stop early where a model asks for it,
360 held out. Every model is scored as a distribution of integers: autoregressive ones and the Boltzmann machine
exactly, all others by a lower bound of log_prob (uniform dequantization, 1,000 importance-weighted draws, the
variational bound, 32 orders or noise levels), so that their figures are upper bounds. That of the energy has the error
of its normalizers too: it is an estimate. Means over seeds of split, weights and noise, with standard errors. One
thread.

    python benchmarks/digits.py [--seeds 0 1 2 3 4] [--models unet flow] [--output digits.jsonl]
    python benchmarks/digits.py --read digits.jsonl [--table FILE]
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from math import log
from pathlib import Path

import pyro
import torch
from results_file import keep, known, table
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

SHAPE, CLASSES, LEVELS = (1, 8, 8), 10, 17
ATTENTION = {"width": 64, "depth": 3, "heads": 4, "dropout": 0.2}


def flow(train, held_out, seed):
    """The spline flow of examples/digits.py, dequantized."""
    base = pg.flows.spline_coupling(SHAPE, classes=CLASSES, interval=(0.0, 1.0), hidden=(256, 256), dropout=0.3)
    return trained(pg.flows.Dequantized(base, LEVELS), train, seed, 1200, 1e-3, validation=held_out, patience=40)


def vae(train, held_out, seed):
    """Categories of each pixel, eight latents, ten importance-weighted draws in training."""
    module = pg.latent.categorical_vae(SHAPE, latent_shape=(8,), symbols=LEVELS, classes=CLASSES, draws=1000)
    objective = pg.latent.ImportanceWeighted(module, draws=10)
    trained(objective, train, seed, 2000, 1e-3, validation=held_out, patience=20)
    return module


def unet(train, held_out, seed):
    """The U-Net of examples/diffusion_digits.py, trained longer and always told the class."""
    module = pg.diffusion.unet(SHAPE, classes=CLASSES, symbols=LEVELS, channels=(16, 32), depth=1, dropout=0.1)
    trained(module, train, seed, 1000, 3e-3, ema=0.99)
    module.draws = 32
    return module


def symbolic(make, train, held_out, seed, steps=600, **draws):
    """A recipe of symbols; of a bound, how many draws are averaged in the end."""
    module = make(SHAPE, symbols=LEVELS, classes=CLASSES)
    trained(module, train, seed, steps, 2e-3, batch_size=32, validation=held_out, patience=30)
    for name, count in draws.items():
        setattr(module, name, count)
    return module


def machine(train, held_out, seed):
    """A restricted Boltzmann machine of categories, of so few hidden units that it is exact; by persistent chains."""
    module = pg.energy.rbm(SHAPE, symbols=LEVELS, units=14, classes=CLASSES)
    shares = torch.nn.functional.one_hot(train[0].long(), LEVELS).float().mean(0).clamp(min=1e-4)
    with torch.no_grad():
        module.visible_bias.copy_(shares.log().flatten())
    return trained(module, train, seed, 1000, 1e-2, ema=0.99)


def energy(train, held_out, seed):
    """A convolutional energy that corrects a smaller spline flow, told from it, and its normalizers by annealing."""
    base = pg.flows.spline_coupling(SHAPE, classes=CLASSES, interval=(0.0, 1.0), hidden=(128, 128), dropout=0.3)
    flow = pg.flows.Dequantized(base, LEVELS)
    trained(flow, train, seed, 800, 1e-3, validation=held_out, patience=40)
    base.eval().requires_grad_(False)
    network = pg.energy.convolutional(SHAPE, classes=CLASSES, channels=(32, 64), hidden=(64,)).network
    support = base(torch.tensor(0)).support
    module = pg.energy.Energy(network, SHAPE, (), base=base, standardize=True, support=support)
    noisy, rest = dequantized(*train, copies=8), dequantized(*held_out, copies=4)
    trained(pg.energy.NoiseContrastive(module), noisy, seed, 700, 3e-3, ema=0.99, validation=rest, validate_every=100)
    module.eval().requires_grad_(False)
    return pg.flows.Dequantized(pg.energy.Normalized(module, normalizers(module)), LEVELS)


def dequantized(x, labels, copies):
    """Several copies of integers with uniform noise, in the unit interval."""
    x = x.repeat(copies, 1, 1, 1)
    return (x + torch.rand(x.shape)) / LEVELS, labels.repeat(copies)


def normalizers(module):
    """That of each label; what either half of its chains gives is printed."""
    method = pg.energy.AnnealedImportanceSampling(temperatures=40, chains=64, wider=False)
    found = []
    for label in range(CLASSES):
        found.append(pg.energy.log_normalizer(module, context=torch.tensor(label), method=method))
        halves = [half.logsumexp(0).item() - log(32) for half in found[-1].log_weights.chunk(2)]
        print(
            f"log Z of label {label}: {found[-1]}; by half of the chains {halves[0]:.3f} and {halves[1]:.3f}",
            flush=True,
        )
    return found


def trained(target, train, seed, steps, rate, **settings):
    """The target, fitted with Adam and a cosine schedule."""
    schedule, optimizer = partial(CosineAnnealingLR, T_max=steps), partial(torch.optim.Adam, lr=rate)
    pg.fit(target, train, steps=steps, schedule=schedule, optimizer=optimizer, seed=seed, **settings)
    return target


MODELS = {
    "flow": flow,
    "vae": vae,
    "unet": unet,
    "rbm": machine,
    "energy": energy,
    "made": partial(symbolic, partial(pg.autoregressive.made, hidden=(512,), dropout=0.4)),
    "pixel_cnn": partial(symbolic, partial(pg.autoregressive.pixel_cnn, width=48, depth=4, dropout=0.3)),
    "transformer": partial(symbolic, partial(pg.autoregressive.transformer, **ATTENTION)),
    "any_order": partial(symbolic, partial(pg.autoregressive.any_order, **ATTENTION), steps=2000, orders=32),
    "masked": partial(symbolic, partial(pg.diffusion.masked, **ATTENTION), steps=2000, draws=32),
    "uniform": partial(symbolic, partial(pg.diffusion.uniform, **ATTENTION), steps=2000, draws=32),
}


def measure(name, seed):
    """One row: a model trained and scored."""
    pyro.set_rng_seed(seed)
    pixels, labels, _ = pg.data.digits()
    train, held_out, test = pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=seed)
    module = MODELS[name](train, held_out, seed)
    size = sum(parameter.numel() for parameter in module.parameters())
    found = pg.evaluation.bits_per_dimension(module, *test, log_volume=0.0, batch_size=20)
    row = {"model": name, "seed": seed, "bits": found.value, "density": module.density, "parameters": size}
    return row | {"error": found.standard_error}


def summary(rows):
    """A row for each model, the best first: mean over seeds, and its standard error (of one seed, over the digits)."""
    for name in sorted({row["model"] for row in rows}, key=lambda name: mean_bits(rows, name)):
        mine = [row for row in rows if row["model"] == name]
        values = [row["bits"] for row in mine]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else mine[0]["error"]
        kind = {"exact": "exact", "lower bound": "upper bound", "estimate": "estimate"}[mine[0]["density"]]
        bits = f"{statistics.mean(values):.3f} ± {error:.3f}"
        yield [TITLES[name], bits, f"{kind}{DETAILS.get(name, '')}", f"{mine[0]['parameters']:,}", f"{len(mine)}"]


def mean_bits(rows, name):
    return statistics.mean(row["bits"] for row in rows if row["model"] == name)


TITLES = {
    "flow": "`flows.spline_coupling`, dequantized",
    "vae": "`latent.categorical_vae`, 8 latents",
    "unet": "`diffusion.unet`, channels 16 and 32, 1,000 steps",
    "rbm": "`energy.rbm`, 14 hidden units",
    "energy": "`energy.convolutional` times a smaller flow",
    "made": "`autoregressive.made`, 512 units",
    "pixel_cnn": "`autoregressive.pixel_cnn`, 48 channels, 4 layers",
    "transformer": "`autoregressive.transformer`, width 64, 3 layers",
    "any_order": "`autoregressive.any_order`, a transformer as large",
    "masked": "`diffusion.masked`, a transformer as large",
    "uniform": "`diffusion.uniform`, a transformer as large",
}
DETAILS = {
    "flow": ": uniform dequantization",
    "vae": ": 1,000 weighted draws",
    "unet": ": variational",
    "energy": ": uniform dequantization, normalizers by annealing",
    "any_order": ": 32 orders",
    "masked": ": 32 noise levels",
    "uniform": ": 32 noise levels",
}
"""How the bounds come about."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--read", type=Path, help="tabulate this file of results, run nothing")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = known(options.read or options.output)
    done = {(row["model"], row["seed"]) for row in rows}
    wanted = [] if options.read else [(name, seed) for seed in options.seeds for name in options.models]
    keep((measure(*run) for run in wanted if run not in done), rows, options.output)
    columns = ["model", "held out, bits per dimension", "what the figure is", "parameters", "seeds"]
    table(columns, list(summary(rows)), options.table, rows)


if __name__ == "__main__":
    main()
