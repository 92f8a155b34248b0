"""The table of ``examples/digits.py``: held-out likelihoods of its flow and of what a flow has to beat.

python benchmarks/demo.py [--steps 1200] [--seed 0] [--table benchmarks/results/tables/demo/digits.json]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch
from example_file import example
from results_file import table

import pyrogen as pg

DIGITS = example("digits")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments, argparse.Namespace(device="cpu"))
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)
    pixels, labels, symbols = pg.data.digits()
    train, held_out, test = pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=options.seed)
    real = partial(pg.data.dequantize, symbols=symbols, seed=options.seed)
    model, _ = DIGITS.fitted(train, held_out, symbols, options)
    flow, x = model.module, real(test[0])
    scores = {
        "flow, class known": pg.log_prob(flow, x, test[1]),
        "flow, class unknown": pg.evaluation.class_marginal(flow, x, 10),
    }
    learn, choose, score = (real(part[0]).flatten(1) for part in (train, held_out, test))
    for name, components in {"Gaussian": [1], "mixture of Gaussians": [5, 10]}.items():
        scores[name] = pg.evaluation.gaussian_baseline(learn, choose, components).log_prob(score.double())
    rows = [
        [name, shown(pg.evaluation.Estimate.of_mean(score)), bound(score, symbols)] for name, score in scores.items()
    ]
    table(["held-out, dequantized pixels", "nats per image", "bits per dimension"], rows, options.table)


def shown(estimate: pg.evaluation.Estimate, digits: int = 1) -> str:
    return f"{estimate.value:.{digits}f} ± {estimate.standard_error:.{digits}f}"


def bound(log_probs: torch.Tensor, symbols: int) -> str:
    return f"at most {shown(DIGITS.bits(log_probs, symbols), digits=3)}"


if __name__ == "__main__":
    main()
