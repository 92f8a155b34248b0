"""What the two-sample tests cost, beside the formula written with one tensor of all differences.

Squared MMD with a Gaussian kernel and the median heuristic, one thread. "All differences" is the textbook line
``(x[:, None] - y[None]).square().sum(-1)``, whose tensor has m * n * d numbers; it runs where that fits in memory. Peak
memory is that of a fresh process, over what importing takes.

    python benchmarks/evaluation.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time

import torch

from pyrogen.evaluation import energy_test, mmd_test, squared_mmd
from pyrogen.numerics.kernels import multiscale

SIZES = [(1000, 10), (1000, 100), (1000, 784), (3000, 64), (10_000, 64)]


def all_differences(x, y):
    """The same estimate, one tensor of differences for each pair of samples."""

    def squares(a, b):
        return (a[:, None] - b[None]).square().sum(-1)

    pooled = torch.cat([x, y])[torch.randperm(len(x) + len(y))[:1000]]
    bandwidth = squares(pooled, pooled)[torch.triu_indices(1000, 1000, 1).unbind()].sqrt().median()
    first, second, across = (
        torch.exp(-pair / (2 * bandwidth**2)) for pair in (squares(x, x), squares(y, y), squares(x, y))
    )
    n = len(x)
    return float((first.sum() - n) / (n * (n - 1)) + (second.sum() - n) / (n * (n - 1)) - 2 * across.mean())


WAYS = {
    "all differences": all_differences,
    "squared_mmd": squared_mmd,
    "mmd_test, 999 permutations": mmd_test,
    "mmd_test, 5 scales": lambda x, y: mmd_test(x, y, kernel=multiscale()),
    "energy_test, 999 permutations": energy_test,
}


def measure(way: str, n: int, dimension: int, rounds: int, answers) -> None:
    """Median seconds and peak memory in MB, put into a queue."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(n, dimension), torch.randn(n, dimension)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        WAYS[way](x, y)
        seconds.append(time.process_time() - start)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    answers.put((statistics.median(seconds), memory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    processes = multiprocessing.get_context("spawn")
    print(f"{'draws':>6} {'dimension':>9}  {'way':32} {'seconds':>8} {'MB':>7}")
    for n, dimension in SIZES:
        for way in WAYS:
            if way == "all differences" and n * n * dimension > 1.2e8:
                continue
            answers = processes.Queue()
            process = processes.Process(target=measure, args=(way, n, dimension, rounds, answers))
            process.start()
            seconds, memory = answers.get()
            process.join()
            print(f"{n:6} {dimension:9}  {way:32} {seconds:8.3f} {memory:7.0f}", flush=True)


if __name__ == "__main__":
    main()
