"""Scenes drawn for captions: how often they are what the caption says, with combinations in it that are new or not.

The model, the data and the ways to ask for a scene are those of ``examples/captions.py``, with guidance of other
weights, and away from the caption without its shapes, beside. Classifiers differ in how they read a scene that is
not clear, so that several do, each trained on real scenes from a seed of its own, and shares are means over them. One
thread.

    python benchmarks/caption_scenes.py [--seeds 0 1 2] [--steps 3000] [--output FILE] [--table FILE]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pyro
import torch
from example_file import example
from results_file import keep, known, table
from torch import Tensor

from pyrogen import diffusion
from pyrogen.data import scenes

captions = example("captions")
PICTURES, JUDGES = 160, 5
PARTS = ("colours", "shapes", "relation", "all")
SHAPES = torch.tensor([scenes.WORDS.index(name) for name in scenes.SHAPES])


def shapeless(context: Tensor) -> Tensor:
    """Captions without the shapes, and with them: ``(N, 2, 8)``."""
    return torch.stack([context.masked_fill(torch.isin(context, SHAPES), -1), context], 1)


def ways(denoiser: diffusion.Denoiser) -> Iterator[tuple[str, diffusion.Denoiser, Callable[[Tensor], Tensor]]]:
    """What draws a scene for each caption, by name, and what it takes for its context."""
    yield "caption", denoiser, lambda context: context
    for weight in (2, 3, 4):
        yield f"guided, weight {weight}", diffusion.ClassifierFree(denoiser, weight=float(weight)), lambda found: found
    for weight in (2, 3):
        away = diffusion.Conjunction(denoiser, weights=(1.0 - weight, float(weight)))
        yield f"from shapeless, weight {weight}", away, shapeless
    for weight in (1, 2):
        added = diffusion.Conjunction(denoiser, weights=(1.0 - 2 * weight, float(weight), float(weight)))
        yield f"by parts, weight {weight}", added, captions.parts_of


@cache
def judge(place: int) -> Callable[[Tensor], Tensor]:
    """One of the classifiers, which reads the five attributes of scenes."""
    pyro.set_rng_seed(100 + place)
    return captions.trained_classifier(captions.draw(8000, seed=100 + place), steps=400)


def measured(options: argparse.Namespace, found: list[dict]) -> Iterator[dict]:
    """A row for each way to ask, kind of captions and seed that is not known yet."""
    torch.set_num_threads(1)
    done = {(row["seed"], row["steps"]) for row in found}
    for seed in options.seeds:
        if (seed, options.steps) in done:
            continue
        pyro.set_rng_seed(seed)
        train = captions.draw(20_000, seed=seed, without=captions.HELD_OUT)
        fitted = argparse.Namespace(steps=options.steps, seed=seed, device="cpu")
        denoiser = captions.fitted(train, fitted).eval().denoiser
        judges = [judge(place) for place in range(JUDGES)]
        seen = captions.draw(PICTURES, seed=seed + 2, without=captions.HELD_OUT)
        unseen = captions.draw(PICTURES, seed=seed + 3, only=captions.HELD_OUT)
        for kind, asked in {"seen": seen, "held out": unseen}.items():
            drawn = {"real": asked.pixels}
            for name, asks, context in ways(denoiser):
                drawn[name] = captions.drawn(asks, context(asked.captions))
            for name, pixels in drawn.items():
                right = torch.stack([scenes.agreement(reads(pixels), asked.attributes) for reads in judges]).double()
                every = torch.cat([right, right.prod(-1, keepdim=True)], -1).mean(1)  # (judges, 4)
                shares = {part: column.tolist() for part, column in zip(PARTS, every.T, strict=True)}
                yield {"seed": seed, "steps": options.steps, "way": name, "captions": kind} | shares


def summary(rows: list[dict]) -> Iterator[list[str]]:
    """A row for each way and kind of captions: means over seeds and judges, standard errors over seeds."""
    for steps, way, kind in dict.fromkeys((row["steps"], row["way"], row["captions"]) for row in rows):
        mine = [row for row in rows if (row["steps"], row["way"], row["captions"]) == (steps, way, kind)]
        means = {part: [statistics.mean(row[part]) for row in mine] for part in PARTS}
        spread = statistics.mean(statistics.pstdev(row["all"]) for row in mine)
        yield [
            "" if way == "real" else f"{steps}",
            f"{way}, {kind}",
            *(with_error(means[part]) for part in PARTS),
            ", ".join(f"{share:.3f}" for share in means["all"]),
            f"{spread:.3f}",
        ]


def with_error(values: list[float]) -> str:
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{error}"


COLUMNS = ["steps", "", *PARTS, "all, by seed", "deviation of judges"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    rows = known(options.output)
    keep(measured(options, list(rows)), rows, options.output)
    table(COLUMNS, [*summary(rows)], options.table, rows)


if __name__ == "__main__":
    main()
