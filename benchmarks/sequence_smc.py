"""What a posterior over sequences costs: SequenceSMC beside plain cached draws of as many sequences of the same length.

A transformer (width 128, 4 blocks, 64 symbols, 64 places), 256 of each. "Rule" allows half of the symbols after each
symbol; "lookahead" scores prefixes so that particles are resampled at every other place; "no twist" weighs whole
sequences alone. Variants take turns, on one thread; figures are medians of CPU time, and of the ratios within a round.

    python benchmarks/sequence_smc.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from results_file import table
from torch import Tensor

from pyrogen.autoregressive import transformer
from pyrogen.inverse import Admissible, Lookahead, SequenceSMC

PARTICLES, LENGTH, SYMBOLS = 256, 64, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prior = transformer((LENGTH,), symbols=SYMBOLS, width=128, depth=4).eval()
    pairs = torch.rand(SYMBOLS, SYMBOLS) < 0.5
    pairs[:, 0] = True

    def follows(before: Tensor) -> Tensor:
        return pairs[before[:, -1]] if before.shape[1] else pairs[:1].expand(len(before), -1)

    def mild(x: Tensor) -> Tensor:
        return -0.1 * x.double().mean(-1)

    rule = Admissible(follows)
    wild = Lookahead(lambda prefixes: -3.0 * prefixes.double().sum(-1) / SYMBOLS)
    variants = {"no twist": (None, mild), "rule": (rule, rule), "lookahead": (wild, mild)}
    runs = {name: smc(prior, *parts) for name, parts in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in ("plain", *runs)}
    resampled = {}
    for turn in range(options.rounds + 1):  # the first warms up
        for name, run in {"plain": lambda: prior().sample((PARTICLES,)), **runs}.items():
            start = time.process_time()
            with torch.no_grad():
                found = run()
            if turn:
                times[name].append(time.process_time() - start)
            if name in runs:
                resampled[name] = found.diagnostics().numbers()["resamplings"]
    rows = [row(name, times[name], times["plain"], resampled.get(name, 0)) for name in times]
    table(["", "seconds", "resampled", "ratio", "error"], rows, options.table)


def smc(prior: torch.nn.Module, twist: object, factor: Callable) -> Callable:
    def model() -> None:
        pyro.factor("factor", factor(pyro.sample("x", prior())))

    return SequenceSMC(model, site="x", particles=PARTICLES, twist=twist).run


def row(name: str, times: list[float], plain: list[float], resampled: float) -> list[str]:
    ratios = [a / b for a, b in zip(times, plain, strict=True)]
    error = 1.25 * statistics.stdev(ratios) / len(ratios) ** 0.5  # of a median
    return [name, f"{statistics.median(times):.2f}", f"{resampled:.0f} times", f"{statistics.median(ratios):.2f}",
            f"{error:.2f}"]  # fmt: skip


if __name__ == "__main__":
    main()
