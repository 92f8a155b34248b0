"""The table of ``examples/captions.py``: what a classifier sees in samples for captions, over seeds.

python benchmarks/captions.py --seeds 0 1 --output FILE --table FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyro
import torch
from example_file import example
from results_file import keep, known, table

from pyrogen.data import scenes

CAPTIONS = example("captions")


def measure(options: argparse.Namespace, seed: int) -> Iterator[dict]:
    """Shares that are right, and their standard errors, of real scenes and of samples at two weights."""
    pyro.set_rng_seed(seed)
    settings = argparse.Namespace(seed=seed, steps=options.steps, device="cpu")
    held_out = CAPTIONS.HELD_OUT
    model = CAPTIONS.fitted(scenes.draw(options.scenes, seed=seed, without=held_out), settings)
    classifier = CAPTIONS.trained_classifier(scenes.draw(options.scenes, seed=seed + 1), options.steps // 2)
    wanted = {
        "seen": scenes.draw(options.size, seed=seed + 2, without=held_out),
        "held out": scenes.draw(options.size, seed=seed + 3, only=held_out),
    }
    for weight in (None, 1.0, 3.0):
        for kind, real in wanted.items():
            images = real.pixels if weight is None else CAPTIONS.drawn(model, real.captions, weight)
            right = CAPTIONS.agreement(classifier, images, real.attributes)
            name = f"{'real' if weight is None else f'weight {weight:g}'}, {kind}"
            yield {"name": name, "seed": seed, "right": [CAPTIONS.cell(column) for column in right.T]}


def row(name: str, seeds: list[int], lines: list[dict]) -> list[str]:
    """All shares of the first seed, and the last of them of the others."""
    first, *others = (
        [line["right"] for line in lines if (line["name"], line["seed"]) == (name, seed)] for seed in seeds
    )
    return [name, *first[0], *(right[0][-1] for right in others)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=1200, help="of the first fit; half of them for each of the others")
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=300, help="samples of each kind")
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = known(options.output)
    for seed in options.seeds:
        if not any(line["seed"] == seed for line in lines):
            keep(list(measure(options, seed)), lines, options.output)
    first, *others = options.seeds
    columns = ["", *CAPTIONS.SEEN, *(f"all, seed {seed}" for seed in others)]
    rows = [row(name, options.seeds, lines) for name in dict.fromkeys(line["name"] for line in lines)]
    table(columns, rows, options.table, lines)


if __name__ == "__main__":
    main()
