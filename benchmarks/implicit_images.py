"""Generators of images: modes of stacked digits, and Frechet distances beside a diffusion model and an autoencoder.

``stacked``: three of scikit-learn's 8x8 digits as channels, 1,000 modes. A classifier trained on the digits (half of
them, its accuracy on the rest beside it) names the three digits of 26,000 draws, as in the tables of PacGAN; the
figures are the modes that it finds, and the KL divergence of their frequencies from those of the data, in nats; 26,000
exact draws have .019 on average. Published for stacked MNIST, of 28x28 pixels: DCGAN 99 modes and 3.40, PacDCGAN2 1000
and .06 (Lin et al. 2018, 400k steps), R3GAN 1000 and .029 (Huang et al. 2024).

``digits`` and ``photographs`` (patches of 16x16 pixels): the Frechet distance of 2,000 draws from test images, without
its bias, in 32 features of a classifier trained on the training images (of the digit, of the photograph that a patch is
from). In its row ``data`` are training images in place of draws. All models give integer pixels; games learn from those
with uniform noise added, and their draws are rounded down. The average of the weights counts, the last one, not the
best. One thread; processor time.

    python benchmarks/implicit_images.py [--seeds 0 1 2] [--data stacked] [--models gan] [--output images.jsonl]
    python benchmarks/implicit_images.py --read images.jsonl --data stacked [--table FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from results_file import keep, known, table
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import pyrogen as pg
from pyrogen.evaluation import frechet_distance, label_counts, train_classifier
from pyrogen.implicit import R1, R2, Game, convolutional, convolutional_critic

MODES, DRAWS = 26_000, 2_000
FIGURES = {"modes": ("modes", ".0f"), "KL": ("kl", ".3f"), "Frechet distance": ("frechet", ".2f")}
"""Names of columns, and what stands in them with how many places."""


class Task(NamedTuple):
    """Images, and what is done with draws.

    Attributes:
        train: Integers ``(N, channels, height, width)``.
        test: Integers, of images that no model sees.
        symbols: How many values a pixel has.
        channels: Those of the networks, from the full size on.
        steps: Of a game, unless the command line says otherwise.
        weight: Of both penalties, at the beginning and at the end.
    """

    train: tuple[Tensor, Tensor]
    test: Tensor
    symbols: int
    channels: tuple[int, ...]
    steps: int
    weight: tuple[float, float]


def stacked(seed: int) -> Task:
    """Random triples of digits; the test images are others of the same digits."""
    pixels, labels, symbols = pg.data.digits()
    chosen = torch.randint(len(pixels), (70_000, 3), generator=torch.Generator().manual_seed(seed))
    images, modes = pixels[chosen, 0], labels[chosen] @ torch.tensor([100, 10, 1])
    return Task((images[:-MODES], modes[:-MODES]), images[-MODES:], symbols, (64, 128), 20_000, (0.1, 0.01))


def digits(seed: int) -> Task:
    """Single digits."""
    pixels, labels, symbols = pg.data.digits()
    train, test = pg.data.split(pixels, labels, sizes=(1257, 540), seed=seed)
    return Task(train, test[0], symbols, (32, 64), 5_000, (1.0, 1.0))


def photographs(seed: int) -> Task:
    """Patches of photographs; the test patches are of parts that training ones do not see."""
    train, test = pg.data.photographs(16, shrink=2)
    return Task((train.pixels, train.labels), test.pixels, train.symbols, (32, 64, 128), 4_000, (1.0, 1.0))


TASKS = {"stacked": stacked, "digits": digits, "photographs": photographs}


def gan(task: Task, steps: int, seed: int, pack: int = 1) -> nn.Module:
    """The default game: relativistic, with R1 and R2."""
    shape, channels = tuple(task.train[0].shape[1:]), task.channels
    generator = convolutional(shape, noise=(64,), channels=channels[::-1], interval=(0.0, 1.0))
    critic = convolutional_critic(shape, channels=channels, pack=pack)
    begin, end = task.weight
    game = Game(generator, critic, penalties=(R1(begin), R2(begin)))

    def anneal(progress: pg.Progress) -> None:
        for penalty in game.penalties:
            penalty.weight = begin * (end / begin) ** (progress.step / steps)

    images = task.train[0].repeat(max(1, 50_000 // len(task.train[0])), 1, 1, 1)
    data = (images + torch.rand(images.shape)) / task.symbols
    falling = partial(LambdaLR, lr_lambda=lambda step: min(1.0, 2 * (1 - step / steps)))
    settings = {"batch_size": 64, "lr": 2e-3, "schedule": falling, "ema": 0.999, "seed": seed}
    pg.fit(game, data, steps=steps, callbacks=[anneal], **settings)
    return generator


def diffusion(task: Task, steps: int, seed: int) -> nn.Module:
    """The U-Net of integer pixels."""
    shape = tuple(task.train[0].shape[1:])
    module = pg.diffusion.unet(shape, symbols=task.symbols, channels=task.channels, depth=1, dropout=0.1)
    return trained(module, task, steps, seed, 2e-3)


def vae(task: Task, steps: int, seed: int) -> nn.Module:
    """A convolutional autoencoder of integer pixels, with a flow for a prior."""
    shape = tuple(task.train[0].shape[1:])
    prior = pg.flows.spline_coupling((16,))
    module = pg.latent.convolutional_vae(shape, latent_shape=(16,), symbols=task.symbols, prior=prior)
    return trained(module, task, steps, seed, 1e-3)


def trained(module: nn.Module, task: Task, steps: int, seed: int, rate: float) -> nn.Module:
    """The module, fitted by likelihood or a bound of it."""
    falling = partial(LambdaLR, lr_lambda=lambda step: min(1.0, 2 * (1 - step / steps)))
    adam = partial(torch.optim.Adam, lr=rate)
    images = task.train[0].float()
    pg.fit(module, images, steps=steps, batch_size=64, optimizer=adam, schedule=falling, ema=0.999, seed=seed)
    return module


MODELS = {"gan": gan, "packed": partial(gan, pack=2), "diffusion": diffusion, "vae": vae}


def drawn(module: nn.Module, task: Task, count: int) -> Tensor:
    """Draws as integer pixels."""
    with torch.no_grad():
        x = torch.cat([module.eval()().sample((min(500, count - start),)) for start in range(0, count, 500)])
    x = x * task.symbols if isinstance(module, pg.implicit.Generator) else x
    return x.floor().clamp(0, task.symbols - 1)


def of_modes(task: Task, images: Tensor) -> dict:
    """Which modes draws reach, and how evenly, beside what the classifier finds in as many of the data."""
    pixels, labels, _ = pg.data.digits()
    classifier = train_classifier(pixels.float(), labels, held_out=0.5, seed=0)
    digits = torch.stack([classifier.labels(images[:, [place]].float()) for place in range(3)], 1)
    shares = labels.bincount() / len(labels)
    probabilities = torch.cartesian_prod(shares, shares, shares).prod(1).double()
    counts = label_counts(digits @ torch.tensor([100, 10, 1]), 1000, probabilities=probabilities / probabilities.sum())
    return {"modes": counts.captured, "kl": counts.reverse_kl.value, "accuracy": classifier.accuracy.value}


def of_distance(task: Task, images: Tensor) -> dict:
    """The Frechet distance from test images."""
    x, labels = task.train
    classifier = train_classifier(x.float(), labels, features=32, seed=0)
    distance = frechet_distance(images.float(), task.test.float(), embedding=classifier.embedding).extrapolated
    return {"frechet": distance.value, "error": distance.standard_error, "accuracy": classifier.accuracy.value}


def measure(name: str, model: str, seed: int, steps: int | None) -> dict:
    """One row: a model trained, and what its draws are."""
    pyro.set_rng_seed(seed)
    task = TASKS[name](seed)
    row = {"data": name, "model": model, "seed": seed, "steps": steps or task.steps}
    count, figures = (MODES, of_modes) if name == "stacked" else (DRAWS, of_distance)
    if model == "data":
        chosen = torch.randperm(len(task.train[0]))[:count]
        return row | figures(task, task.test if name == "stacked" else task.train[0][chosen])
    began = time.process_time()
    module = MODELS[model](task, row["steps"], seed)
    seconds, size = time.process_time() - began, sum(parameter.numel() for parameter in module.parameters())
    return row | figures(task, drawn(module, task, count)) | {"seconds": seconds, "parameters": size}


def columns(rows: list[dict]) -> list[str]:
    """The columns of a table."""
    return [
        "data",
        "model",
        "steps",
        "seeds",
        *(name for name, (key, _) in FIGURES.items() if key in rows[0]),
        "seconds",
    ]


def summary(rows: list[dict]) -> Iterator[list[str]]:
    """Means over seeds with standard errors, a row for each data set and model."""
    for data, model, steps in dict.fromkeys((row["data"], row["model"], row["steps"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["model"], row["steps"]) == (data, model, steps)]
        figures = [mean([row[key] for row in mine], places) for key, places in FIGURES.values() if key in mine[0]]
        trained = "seconds" in mine[0]
        seconds = f"{statistics.mean(row['seconds'] for row in mine):,.0f}" if trained else ""
        yield [data, model, f"{steps:,}" if trained else "", f"{len(mine)}", *figures, seconds]


def mean(values: list[float], places: str) -> str:
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:{places}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{places}}{error}"


def runs(options: argparse.Namespace, rows: list[dict]) -> Iterator[dict]:
    """A row for each seed, data and model that no row is known of."""
    done = {(row["data"], row["model"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for data in options.data:
            wanted = {"stacked": ("data", "gan", "packed")}.get(data, ("data", "gan", "diffusion", "vae"))
            for model in options.models:
                if model in wanted and (data, model, seed) not in done:
                    yield measure(data, model, seed, options.steps)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--models", nargs="+", default=["data", *MODELS], choices=["data", *MODELS])
    parser.add_argument("--steps", type=int, help="of training; those of each task if not given")
    parser.add_argument("--output", type=Path, help="a file of results, one JSON object a line; it is continued")
    parser.add_argument("--read", type=Path, help="tabulate this file of results, run nothing")
    parser.add_argument("--table", type=Path, help="a file for the table, of stacked digits or of the others")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = known(options.read or options.output)
    if not options.read:
        keep(runs(options, rows), rows, options.output)
    for kinds in ({"stacked"}, {"digits", "photographs"}):
        mine = [row for row in rows if row["data"] in kinds.intersection(options.data)]
        if mine:
            table(columns(mine), list(summary(mine)), options.table, mine)


if __name__ == "__main__":
    main()
